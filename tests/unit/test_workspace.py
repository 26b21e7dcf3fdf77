"""Temporary directories of builds: held while they are used, and what a killed build leaves is removed by the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soliton.build import workspace
from soliton.build.step_cache import StepCache


def test_what_nobody_holds_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = str(tmp_path)
    left = tmp_path / f"{workspace.NAME}left"
    (left / "inside").mkdir(parents=True)
    (left / "inside").chmod(0)
    (tmp_path / "other").mkdir()
    os.symlink("other", tmp_path / f"{workspace.NAME}link")
    with workspace.workspace(parent, "a test", None) as young:
        assert left.exists(), "it may have been made just now"
        monkeypatch.setattr(workspace, "YOUNG", -1.0)
        with workspace.workspace(parent, "a test", None, keep=True) as kept:
            assert not left.exists() and os.path.exists(young.path)
    workspace.sweep(parent, workspace.NAME, None)
    assert (tmp_path / "other").exists() and os.path.exists(kept.path) and not os.path.exists(young.path)


def test_one_result_is_made_once_at_a_time(tmp_path: Path) -> None:
    cache = StepCache(str(tmp_path))
    cache.prepare()
    said: list[str] = []
    child = os.fork()
    if child == 0:
        with cache.making("key", lambda: None):
            (tmp_path / "inside").touch()
            while not said and not (tmp_path / "go").exists():
                pass
        os._exit(0)
    while not (tmp_path / "inside").exists():
        pass

    def waits() -> None:
        said.append("waits")
        (tmp_path / "go").touch()

    with cache.making("key", waits), cache.making("another", waits):
        assert os.listdir(tmp_path / "locks") and said == ["waits"]
    os.waitpid(child, 0)
    assert os.listdir(tmp_path / "locks") == []
