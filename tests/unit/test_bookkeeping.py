"""Dates in the records of package managers."""

from __future__ import annotations

import os
from pathlib import Path

from soliton.build import bookkeeping

DESC = "%NAME%\ntool\n\n%BUILDDATE%\n1700000000\n\n%INSTALLDATE%\n{date}\n\n%SIZE%\n1\n"
LIST = "# AutoInstalled generated{date}\n#\ncoreutils\n"


def record(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_dates_become_the_image_s_own_and_the_rest_stays(tmp_path: Path) -> None:
    desc = record(tmp_path, "var/lib/pacman/local/tool-1.0-1/desc", DESC.format(date="1795787778"))
    other = record(tmp_path, "var/lib/pacman/local/tool-1.0-1/files", DESC.format(date="1795787778"))
    auto = record(tmp_path, "var/lib/zypp/AutoInstalled", LIST.format(date=" Fri Nov 27 13:57:39 2026"))
    desc.chmod(0o640)
    inode = desc.stat().st_ino
    bookkeeping.settle(str(tmp_path), 315532800)
    assert desc.read_text() == DESC.format(date="315532800")
    assert (desc.stat().st_ino, desc.stat().st_mode & 0o777) == (inode, 0o640)
    assert auto.read_text() == LIST.format(date="")
    assert other.read_text() == DESC.format(date="1795787778")


def test_no_link_is_followed_and_nothing_is_waited_for(tmp_path: Path) -> None:
    outside = record(tmp_path / "outside", "local/a/desc", DESC.format(date="1"))
    root = tmp_path / "root"
    local = root / "var/lib/pacman/local"
    local.mkdir(parents=True)
    (local / "a").symlink_to(outside.parent)
    (local / "b").mkdir()
    (local / "b/desc").symlink_to(outside)
    (local / "c").mkdir()
    os.mkfifo(local / "c/desc")
    (root / "var/lib/zypp").symlink_to(tmp_path / "outside")
    record(tmp_path / "outside", "AutoInstalled", LIST.format(date=" today"))
    large = record(root, "var/lib/pacman/local/d/desc", DESC.format(date="1") + " " * bookkeeping.LARGEST)
    bookkeeping.settle(str(root), 2)
    assert outside.read_text() == DESC.format(date="1")
    assert (tmp_path / "outside/AutoInstalled").read_text() == LIST.format(date=" today")
    assert large.read_text().startswith(DESC.format(date="1"))


def test_a_root_without_package_managers_is_left_alone(tmp_path: Path) -> None:
    bookkeeping.settle(str(tmp_path), 1)
    assert list(tmp_path.iterdir()) == []
