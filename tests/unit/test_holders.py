"""Waiting for whoever holds a lock and is about to let go of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from soliton.site import holders


def test_who_finishes_while_that_is_found_out_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of an image ends between a look at its lock and one at its name, which nobody has any more then."""
    path = tmp_path / "image"
    path.touch()
    held = os.open(path, os.O_RDWR)
    fcntl.fcntl(held, fcntl.F_OFD_SETLK, holders._range(0, 0, write=True))

    def ends(path: str) -> bool:
        os.close(held)
        return False

    monkeypatch.setattr(holders, "_LOOKS", 1)
    monkeypatch.setattr(holders, "_is_finishing", ends)
    assert holders.wait_for_range(str(path), 0, 0, write=True)


def test_who_goes_on_is_in_the_way_and_who_finishes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.touch()
    answers = iter([True, True, False])
    monkeypatch.setattr(holders, "_LOOKS", 1)
    monkeypatch.setattr(holders, "_is_finishing", lambda path: next(answers))
    with open(path, "rb+") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, holders._range(0, 0, write=True))
        assert not holders.wait_for_range(str(path), 0, 0, write=True)
    assert next(answers, None) is None


def test_the_holder_of_a_lock_is_found_beside_what_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.touch()
    listed = os.listdir

    def with_one_that_is_gone(folder: str) -> list[str]:
        return (["999999"] if folder.endswith("/fd") else []) + listed(folder)

    monkeypatch.setattr(os, "listdir", with_one_that_is_gone)
    with open(path, "rb+") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, holders._range(0, 0, write=True))
        assert holders._locks(str(os.getpid()), os.stat(path))
