"""Keys, reasons and the shelf of the step cache."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from soliton.build import step_cache
from soliton.build.definition import Section
from soliton.build.step_cache import PARENT, RECENT, StepCache, key_of, size_limit, veiled, why
from soliton.build.steps import split_post
from soliton.errors import UsageError

#: As large as `12345` is with what stands behind it.
SEALED = b"12345" + b"soliton step a" + bytes(32)


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    cache = StepCache(str(tmp_path / "steps"), limit=2 * len(SEALED))
    cache.prepare()
    return cache


def put(cache: StepCache, key: str, data: bytes, used: float) -> Path:
    with cache.new(key) as fd:
        os.write(fd, data)
    cache.release()
    path = Path(cache.layers, key)
    os.utime(path, (used, used))
    return path


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    match how:
        case "a flipped bit":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "zeros after a crash":
            path.write_bytes(bytes(len(data)))
        case "cut off":
            path.write_bytes(data[:-1])
        case "empty":
            path.write_bytes(b"")
        case "a link":
            path.with_name("elsewhere").write_bytes(data)
            path.symlink_to("elsewhere")
        case "a pipe":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()


@pytest.mark.parametrize(
    "how", ["a flipped bit", "zeros after a crash", "cut off", "empty", "a link", "a pipe", "a directory"]
)
def test_a_damaged_result_is_none(cache: StepCache, how: str) -> None:
    path = put(cache, "a", b"12345", time.time())
    assert cache.find("a") == str(path)
    cache.release()
    damage(path, how)
    assert cache.find("a") is None


def test_a_result_under_another_key_is_none(cache: StepCache) -> None:
    path = put(cache, "a", b"12345", time.time())
    path.rename(path.with_name("b"))
    assert cache.find("b") is None and not path.with_name("b").exists()


def test_what_is_being_written_stays_and_what_a_killed_build_left_goes(cache: StepCache) -> None:
    leftover = Path(cache.layers, ".dead.partial-1")
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    with cache.new("a") as fd:
        os.write(fd, b"1" * 1000)
        (partial,) = (path for path in Path(cache.layers).iterdir() if path != leftover)
        os.utime(partial, (0, 0))
        cache.trim()
        assert not leftover.exists() and partial.exists()
    # What has just been made is held until the build ends.
    cache.trim()
    assert Path(cache.path_of("a")).exists()
    cache.release()
    cache.trim()
    assert not Path(cache.path_of("a")).exists()


def test_where_nothing_can_be_locked_age_decides(cache: StepCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refused)
    young = put(cache, "a", b"1" * 1000, time.time() - 100)
    old = put(cache, "b", b"1" * 1000, time.time() - 2 * RECENT)
    assert cache.find("a") and cache.find("b")
    os.utime(old, (0, 0))
    cache.trim()
    assert young.exists() and not old.exists()


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    cache = StepCache(str(tmp_path / "steps"))
    cache.prepare()
    Path(cache.layers).chmod(0o777)
    with pytest.raises(PermissionError, match="others can write"):
        cache.prepare()


def test_a_key_depends_on_every_ingredient_and_its_name() -> None:
    one = key_of(((PARENT, "x"), ("text", "y")))
    assert one == key_of(((PARENT, "x"), ("text", "y")))
    assert len({one, key_of(((PARENT, "x"), ("texty", ""))), key_of((("text", "y"), (PARENT, "x")))}) == 3


def test_a_result_appears_whole_or_not_at_all(cache: StepCache) -> None:
    with pytest.raises(KeyboardInterrupt), cache.new("k" * 64) as fd:
        os.write(fd, b"half")
        raise KeyboardInterrupt
    assert cache.find("k" * 64) is None and not os.listdir(cache.layers)


def test_what_was_used_longest_ago_goes_first_and_what_is_in_use_stays(cache: StepCache) -> None:
    old, middle, new = (
        put(cache, name, b"12345", time.time() - age)
        for name, age in zip("abc", (300, 200, 100), strict=True)
    )
    with open(old, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        cache.trim()
        assert old.exists() and not middle.exists() and new.exists()
    put(cache, "d", b"12345", time.time())
    cache.trim()
    assert not old.exists() and new.exists()


def test_a_result_is_found_before_it_goes_to_make_room_or_not_at_all(
    cache: StepCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for a layer that is just being removed waits for that, and makes it again."""
    path = put(cache, "a", b"1" * 1000, time.time())
    found: list[str | None] = []
    asks = threading.Event()
    seeker = StepCache(cache.root)
    waiting = threading.Thread(target=lambda: found.append(seeker.find("a")), daemon=True)
    share, unlink = step_cache._share, os.unlink

    def shared(fd: int) -> None:
        asks.set()
        share(fd)

    def unlinked(name: str) -> None:
        waiting.start()
        asks.wait()
        waiting.join(0.3)
        assert not found
        unlink(name)

    monkeypatch.setattr(step_cache, "_share", shared)
    monkeypatch.setattr(os, "unlink", unlinked)
    cache.trim()
    waiting.join()
    assert found == [None] and not path.exists()


def test_a_digest_is_remembered_of_the_same_file_only(cache: StepCache, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (2 << 20))
    past = time.time() - 100
    os.utime(path, (past, past))
    first = cache.digest(str(path))
    path.write_bytes(b"b" * (2 << 20))
    os.utime(path, (past, past))
    assert cache.digest(str(path)) != first


def test_reasons_name_what_differs() -> None:
    then = [veiled(((PARENT, "p"), ("the text", "a"), ("`f`", "1")))]
    assert why([], 0, ()) == "this recipe has not been built before"
    assert why(then, 0, ((PARENT, "p"), ("the text", "b"), ("`f`", "1"))) == "the text differs"
    assert why(then, 0, ((PARENT, "p"), ("the text", "a"), ("`f`", "1"), ("`g`", "1"))) == "`g` is new"
    assert why(then, 0, ((PARENT, "p"), ("the text", "a"))) == "`f` is no longer there"
    assert why(then, 0, ((PARENT, "q"), ("the text", "a"), ("`f`", "1"))) == "a step before it has run"
    assert (
        why(then, 0, ((PARENT, "p"), ("the text", "a"), ("`f`", "1")))
        == "its result is no longer in the cache"
    )
    assert why(then, 1, ((PARENT, "z"),)) == "there was no such step the last time"


def test_sizes_are_numbers_with_a_unit() -> None:
    assert [size_limit({"SOLITON_STEP_CACHE_SIZE": text}) for text in ("5", "2k", "3M", "1GiB")] == [
        5,
        2048,
        3 << 20,
        1 << 30,
    ]
    with pytest.raises(UsageError):
        size_limit({"SOLITON_STEP_CACHE_SIZE": "much"})


def test_marks_split_a_script_and_keep_the_numbers_of_lines() -> None:
    body = "A=1\n# soliton: step one\necho one\n  # soliton: step two\n\necho two\n# soliton: step\n"
    parts = split_post(Section("post", "", body, 10))
    assert [title for title, _ in parts] == ["one", "two"]
    assert parts[0][1].body == "A=1\n\necho one\n"
    assert parts[1][1].body.splitlines()[0] == "A=1"
    assert parts[1][1].body.splitlines()[5] == body.splitlines()[5] == "echo two"
    assert split_post(Section("post", "", "true\n", 1)) == [("", Section("post", "", "true\n", 1))]
