"""A target appears complete or not at all, and what makes it impossible is said first."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from soliton.core import CoreError
from soliton.errors import TargetError
from soliton.images import target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["without a name", "with a partial name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of writing: file systems with O_TMPFILE and without."""
    if request.param == "with a partial name":
        real = os.open

        def refusing(path: str, flags: int, *rest: int, **more: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", refusing)


@pytest.mark.usefixtures("way")
def test_the_file_appears_with_its_content_and_the_mode_of_a_program(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with target.new_image(str(tmp_path / "ä b.sif")) as file:
            os.write(file.fd, b"content")
            assert not (tmp_path / "ä b.sif").exists()
    finally:
        os.umask(mask)
    assert (tmp_path / "ä b.sif").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "ä b.sif").stat().st_mode) == 0o750
    assert names(tmp_path) == ["ä b.sif"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt()])
def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)), target.new_image(str(tmp_path / "a.sif")) as file:
        os.write(file.fd, b"half")
        raise failure
    assert names(tmp_path) == []


def test_the_unfinished_file_can_be_read_by_a_path(tmp_path: Path) -> None:
    with target.new_image(str(tmp_path / "a.sif")) as file:
        os.write(file.fd, b"content")
        assert Path(file.readable).read_bytes() == b"content"


def test_an_existing_target_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_text("mine")
    with pytest.raises(TargetError) as told, target.new_image(str(tmp_path / "a.sif")):
        raise AssertionError("the work must not start")
    assert "exists already" in told.value.what
    assert "--force" in (told.value.remedy or "")
    assert (tmp_path / "a.sif").read_text() == "mine"


@pytest.mark.usefixtures("way")
def test_a_file_that_another_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="exists already"), target.new_image(str(tmp_path / "a.sif")):
        (tmp_path / "a.sif").write_text("theirs")
    assert (tmp_path / "a.sif").read_text() == "theirs"
    assert names(tmp_path) == ["a.sif"]


@pytest.mark.usefixtures("way")
def test_force_replaces_the_file_and_a_link_but_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "old.sif").write_text("old")
    (tmp_path / "link.sif").symlink_to("old.sif")
    with target.new_image(str(tmp_path / "link.sif"), force=True) as file:
        os.write(file.fd, b"new")
    assert (tmp_path / "old.sif").read_text() == "old"
    assert (tmp_path / "link.sif").read_text() == "new"
    assert names(tmp_path) == ["link.sif", "old.sif"]


def test_without_hard_links_nobody_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(target, "_create", lambda d, n, m, p: (_named(tmp_path, m), "partial"))
    monkeypatch.setattr(os, "link", refusing)
    with target.new_image(str(tmp_path / "a.sif")) as file:
        os.write(file.fd, b"new")
    assert (tmp_path / "a.sif").read_bytes() == b"new"
    with pytest.raises(TargetError, match="exists already"), target.new_image(str(tmp_path / "b.sif")):
        (tmp_path / "b.sif").write_text("theirs")
    assert names(tmp_path) == ["a.sif", "b.sif"]


def _named(folder: Path, mode: int) -> int:
    return os.open(folder / "partial", os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)


def test_a_directory_is_no_target_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for force in (False, True):
        with pytest.raises(TargetError, match="is a directory"):
            target.check(str(tmp_path / "d"), force=force)
    with pytest.raises(TargetError, match="not the name of a file"):
        target.check(str(tmp_path / "d") + "/")


def test_a_device_is_no_target_even_with_force() -> None:
    with pytest.raises(TargetError, match="not an ordinary file"):
        target.check("/dev/zero", force=True)


@pytest.mark.usefixtures("way")
def test_dev_null_is_one_that_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(TargetError, match="exists already"):
        target.check("/dev/null")
    with target.new_image("/dev/null", force=True) as file:
        os.write(file.fd, b"image")
        assert Path(file.readable).read_bytes() == b"image"
        assert file.path == "/dev/null"
    assert names(tmp_path) == []
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as told, target.new_image(str(tmp_path / "no" / "a.sif")):
        pass
    assert told.value.why == f"there is no directory `{tmp_path}/no`"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with (
            pytest.raises(TargetError, match="permission denied in"),
            target.new_image(str(tmp_path / "a.sif")),
        ):
            pass
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (OSError(errno.ENOSPC, "x"), "no space is left"),
        (OSError(errno.EDQUOT, "x"), "your quota"),
        (OSError(errno.EFBIG, "x"), "larger than the limit"),
        (CoreError("no-space", "x", {}), "no space is left"),
        (CoreError("quota", "x", {}), "your quota"),
    ],
)
def test_a_full_disk_is_about_the_target_whoever_met_it(tmp_path: Path, failure: Exception, why: str) -> None:
    with pytest.raises(TargetError) as told, target.new_image(str(tmp_path / "a.sif")):
        raise failure
    assert why in (told.value.why or "")
    assert names(tmp_path) == []


def test_an_unrelated_failure_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), target.new_image(str(tmp_path / "a.sif")):
        raise PermissionError(errno.EACCES, "something else")
