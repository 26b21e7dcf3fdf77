"""What lies over a root: from options and images to the layers and the surface of a plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soliton.api import layers, overlay
from soliton.errors import SolitonError
from soliton.images.detect import open_image
from soliton.launch.plan import (
    DirectoryRoot,
    DirectSurface,
    ExtRoot,
    ImageRoot,
    StackRoot,
    TmpfsSurface,
    UpperSurface,
)
from soliton.launch.request import ActionRequest
from soliton.launch.stack import Over, parse_overlay
from soliton.site import host as hosts
from tests.unit.compiled import RANGES, plan_for

LAYER = ImageRoot("/layer.sqfs", 0, 4096)
EXT = ExtRoot("/o.img", 0, 64 << 20)
UPPER = UpperSurface("upper", "work", ExtRoot("/o.img", 0, 64 << 20, writable=True))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/a", ("/a", None)),
        ("a:ro", ("a", True)),
        ("a:rw", ("a", False)),
        ("with:colon", ("with:colon", None)),
        ("a b ä:ro", ("a b ä", True)),
    ],
)
def test_an_overlay_is_a_path_and_perhaps_a_mode(text: str, wanted: tuple[str, bool | None]) -> None:
    assert parse_overlay(text) == wanted


@pytest.mark.parametrize("text", ["", ":ro"])
def test_an_overlay_without_a_path_is_refused(text: str) -> None:
    with pytest.raises(SolitonError):
        parse_overlay(text)


def seen(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return (status.st_dev, status.st_ino)


def test_layers_are_stacked_in_their_order_over_the_root() -> None:
    plan = plan_for("exec IMAGE x", over=Over((LAYER, EXT)))
    assert isinstance(plan.root, StackRoot)
    assert [root.path for root in plan.root.layers] == ["/images/a.sif", "/layer.sqfs", "/o.img"]


def test_every_layer_shows_the_same_owners() -> None:
    for words, subordinate, ids in (("exec", None, "caller"), ("exec --fakeroot", RANGES, "stored")):
        plan = plan_for(f"{words} IMAGE x", over=Over((LAYER, EXT), UPPER), subordinate=subordinate)
        assert isinstance(plan.root, StackRoot)
        assert isinstance(plan.surface, UpperSurface)
        assert plan.surface.image is not None
        roots = [root for root in plan.root.layers if not isinstance(root, DirectoryRoot)]
        assert {root.ids for root in (*roots, plan.surface.image)} == {ids}


def test_a_writable_overlay_takes_what_is_written() -> None:
    assert plan_for("exec IMAGE x", over=Over(upper=UPPER)).surface == UPPER
    assert plan_for("exec --compat IMAGE x", over=Over(upper=UPPER)).surface == UPPER
    assert isinstance(plan_for("exec --writable-tmpfs IMAGE x", over=Over((EXT,))).surface, TmpfsSurface)


def test_two_places_to_write_to_are_refused() -> None:
    with pytest.raises(SolitonError, match="exclude each other"):
        plan_for("exec --writable-tmpfs IMAGE x", over=Over(upper=UPPER))


def test_an_ext3_root_is_written_only_when_asked() -> None:
    root = ExtRoot("/r.img", 0, 64 << 20)
    plan = plan_for("exec IMAGE x", root=root)
    assert isinstance(plan.root, ExtRoot)
    assert not plan.root.writable
    plan = plan_for("exec --writable IMAGE x", root=root)
    assert isinstance(plan.root, ExtRoot)
    assert plan.root.writable
    assert isinstance(plan.surface, DirectSurface)


def look(*overlays: str, image: str | Path, writable: bool = False) -> Over:
    request = ActionRequest("exec", str(image), overlay=overlays, writable=writable)
    return layers.look(request, open_image(str(image)), hosts.look())


def test_a_directory_gets_its_two_directories(tmp_path: Path) -> None:
    root, first = tmp_path / "root", tmp_path / "first"
    root.mkdir()
    first.mkdir()
    over = look(str(first), image=root)
    upper = seen(f"{first}/upper")
    assert over.upper == UpperSurface(
        f"{first}/upper", f"{first}/work", lock=f"{first}/.soliton-lock", seen=upper
    )
    assert (first / "upper").is_dir()
    assert look(f"{first}:ro", image=root).layers == (
        DirectoryRoot(f"{first}/upper", seen(f"{first}/upper")),
    )
    assert look(f"{root}:ro", image=root).layers == (DirectoryRoot(str(root), seen(root)),)


def test_a_link_as_upper_directory_is_refused(tmp_path: Path) -> None:
    hostile, elsewhere = tmp_path / "hostile", tmp_path / "elsewhere"
    hostile.mkdir()
    elsewhere.mkdir()
    (hostile / "upper").symlink_to(elsewhere)
    with pytest.raises(SolitonError, match="cannot be written"):
        look(str(hostile), image=tmp_path)
    assert look(f"{hostile}:ro", image=tmp_path).layers == (DirectoryRoot(str(hostile), seen(hostile)),)


def test_only_one_overlay_can_be_writable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(SolitonError, match="second writable") as caught:
        look(str(tmp_path / "a"), str(tmp_path / "b"), image=tmp_path)
    assert ":ro" in (caught.value.remedy or "")


def test_a_sandbox_is_not_written_below_an_overlay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(SolitonError, match="exclude each other"):
        look(str(tmp_path / "a"), image=tmp_path, writable=True)


@pytest.mark.parametrize("size", [0, 63, -1, (16 << 20) + 1])
def test_a_size_out_of_bounds_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(SolitonError, match="MiB"):
        overlay.create(str(tmp_path / "o.img"), size=size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rel", "/a/../../b"])
def test_a_directory_to_be_made_lies_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(SolitonError, match="--create-dir"):
        overlay.create(str(tmp_path / "o.img"), directories=[name])


def test_what_has_no_room_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system gives what it has until it has no more: nobody else could write meanwhile."""
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, length: asked.append(length))
    with pytest.raises(SolitonError, match="cannot be written"):
        overlay.create(str(tmp_path / "o.img"), size=overlay.MOST)
    assert not asked and not list(tmp_path.iterdir())


def test_nothing_else_than_a_sif_is_added_to(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"#!/bin/sh\n" * 500)
    before = target.read_bytes()
    with pytest.raises(SolitonError):
        overlay.create(str(target))
    assert target.read_bytes() == before
