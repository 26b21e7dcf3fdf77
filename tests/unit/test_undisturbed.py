"""An interruption finds a result under its name whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soliton.api import pull
from soliton.build import assemble, lockfile, result, workspace
from soliton.build.step_cache import StepCache
from soliton.cli import interruption
from soliton.images import target
from soliton.undisturbed import passing_directory, undisturbed


@pytest.fixture(autouse=True)
def as_the_program_listens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interruption, "_asked", 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interruption.end_cleanly()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same system call with a Ctrl-C that comes when it has been made for the first time."""
    came: list[bool] = []

    def both(*given: object, **named: object) -> object:
        answer = call(*given, **named)
        if not came:
            came.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    return both


def test_a_signal_counts_when_the_block_is_done() -> None:
    done = []
    with pytest.raises(interruption.Ended) as told, undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(1)
    assert done and told.value.number == signal.SIGTERM


def test_what_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with undisturbed():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("kind", "force", "call"),
    [
        ("usual", False, "link"),
        ("usual", True, "link"),
        ("usual", True, "replace"),
        ("without O_TMPFILE", False, "link"),
        ("without O_TMPFILE", True, "replace"),
        ("without hard links", False, "open"),
        ("without hard links", False, "replace"),
        ("without hard links", True, "replace"),
    ],
)
def test_an_interrupted_image_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str, force: bool
) -> None:
    path = tmp_path / "a.sif"
    if force:
        path.write_text("earlier")
    opened = os.open

    def without_tmpfile(name: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        return opened(name, flags, *rest, **more)

    def without_links(*given: object, **named: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if kind != "usual":
        monkeypatch.setattr(os, "open", without_tmpfile)
    if kind == "without hard links":
        monkeypatch.setattr(os, "link", without_links)
    with pytest.raises(interruption.Ended), target.new_image(str(path), force=force) as file:
        os.write(file.fd, b"content")
        monkeypatch.setattr(os, call, interrupted(getattr(os, call)))
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sif"]
    assert path.read_text() == "content"


def test_an_interrupted_beginning_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without_tmpfile(name: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
        fd = real(name, flags, *rest, **more)
        if flags & os.O_EXCL:
            os.kill(os.getpid(), signal.SIGINT)
        return fd

    monkeypatch.setattr(os, "open", without_tmpfile)
    with pytest.raises(interruption.Ended), target.new_image(str(tmp_path / "a.sif")):
        raise AssertionError("the work must not start")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["a workspace", "a sandbox", "a result of a step", "a cache of one call"])
def test_what_is_begun_when_an_interruption_comes_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    cache = StepCache(str(tmp_path / "steps"))
    cache.prepare()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    begun: contextlib.AbstractContextManager[object]
    match what:
        case "a workspace":
            begun = workspace.workspace(str(tmp_path), "a test", None)
        case "a sandbox":
            begun = result._new_directory(str(tmp_path / "tree"), force=False)
        case "a result of a step":
            begun = cache.new("key")
        case _:
            begun = pull._cache(pull.PullOptions(cache=False))
    call = "open" if what == "a result of a step" else "mkdir"
    monkeypatch.setattr(os, call, interrupted(getattr(os, call)))
    with pytest.raises(interruption.Ended), begun:
        raise AssertionError("the work must not start")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["steps"] and not os.listdir(cache.layers)


def test_an_interruption_of_the_end_takes_all_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(interruption.Ended), passing_directory("name-", str(tmp_path)) as path:
        for name in ("one", "two"):
            Path(path, name).touch()
        monkeypatch.setattr(os, "unlink", interrupted(os.unlink))
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_sandbox_has_replaced_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("made", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    monkeypatch.setattr(os, "rename", interrupted(os.rename))
    with pytest.raises(interruption.Ended):
        assemble.replace_directory(str(tmp_path / "made"), str(tmp_path / "final"), force=True)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final/says").read_text() == "made"


def test_an_interrupted_lock_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", interrupted(os.replace))
    with pytest.raises(interruption.Ended):
        lockfile.write(str(tmp_path / "a.def"), "{}")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.def.lock"]
