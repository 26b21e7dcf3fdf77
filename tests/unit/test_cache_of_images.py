"""The cache of what is fetched: who may write a blob, and what is taken over from whom."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from soliton.images.cache import Cache, Partial
from soliton.launch.instance import stat_fields

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(str(tmp_path / "cache"))
    cache.prepare()
    return cache


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which lives until it is ended."""
    with subprocess.Popen(["sleep", "100000"]) as process:
        yield process
        process.kill()


def begun_by(cache: Cache, process: int, begun: str) -> Path:
    """A blob that a process has begun to write."""
    path = Path(f"{cache.blob(DIGEST)}.partial-{os.uname().nodename}-{process}{begun}")
    path.write_bytes(b"beginning")
    return path


def claimed(cache: Cache) -> bytes:
    partial = Partial(cache, DIGEST)
    assert partial.claim()
    return Path(partial.path).read_bytes()


def test_what_a_process_left_is_taken_over_although_another_one_has_its_number(
    cache: Cache, other: subprocess.Popen[bytes]
) -> None:
    left = begun_by(cache, other.pid, ".1")
    assert claimed(cache) == b"beginning"
    assert not left.exists()


def test_a_living_writer_is_waited_for_and_a_dead_one_succeeded(
    cache: Cache, other: subprocess.Popen[bytes]
) -> None:
    begun_by(cache, other.pid, f".{stat_fields(other.pid)[19]}")
    found: list[bytes] = []
    waiting = threading.Thread(target=lambda: found.append(claimed(cache)), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not found
    other.kill()
    other.wait()
    waiting.join()
    assert found == [b"beginning"]


def test_what_is_interrupted_while_it_is_put_away_is_not_there(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.put(DIGEST, b"data")
    with pytest.raises(KeyboardInterrupt):
        cache.remember_tag("name", "linux/amd64", DIGEST)
    assert not list(cache.entries()) and not os.listdir(cache.tags)


def test_what_a_tag_meant_is_whole_when_it_has_its_name(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    rename = os.rename

    def renamed(old: str, new: str) -> None:
        rename(old, new)
        seen.append(cache.known_tag("name", "linux/amd64"))

    monkeypatch.setattr(os, "rename", renamed)
    cache.remember_tag("name", "linux/amd64", DIGEST)
    assert seen == [DIGEST]
