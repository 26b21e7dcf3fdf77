"""Tests that compare ownership, devices and mounts of the kernel need root for the judge, never for the product."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from tests.system.program import Program


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        raise pytest.UsageError("these tests compare ownership and need root: run `make test`")


@pytest.fixture
def soliton(tmp_path: Path) -> Program:
    """The program as an unprivileged user; only the comparison is root's."""
    user = pwd.getpwnam("soliton-plain")
    home = tmp_path / "home"
    work = tmp_path / "work"
    for directory in (home, home / "tmp", work):
        directory.mkdir()
        os.chown(directory, user.pw_uid, user.pw_gid)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    setpriv = shutil.which("setpriv")
    assert setpriv
    return Program(
        home=home,
        cwd=work,
        wrapper=(setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"),
    )
