"""What is pulled is what the image says, to the last owner and attribute, as independent programs see it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from soliton.launch.plan import ImageRoot
from tests.system.program import Program
from tests.tree import Entry, read_tree
from tests.zoo import zoo

#: What soliton adds to every image; everything else must be the image's own.
ADDED = {".singularity.d", ".exec", ".run", ".shell", ".test", "environment", "singularity"}


def partition(sif: Path) -> tuple[int, int]:
    from soliton.images.detect import open_image

    root = open_image(str(sif)).root
    assert isinstance(root, ImageRoot)
    return root.offset, root.size


def image_part(tree: dict[str, Entry], reference: dict[str, Entry]) -> dict[str, Entry]:
    """A tree without what soliton adds where the image has nothing."""
    return {
        path: entry
        for path, entry in tree.items()
        if path in reference or (path.split("/")[1] if "/" in path else path) not in ADDED | LAYOUT
    }


LAYOUT = {"dev", "proc", "sys", "root", "home", "tmp", "var", "etc"}


@pytest.fixture
def pulled(soliton: Program, tmp_path: Path) -> tuple[Path, Path]:
    """The zoo as `umoci` unpacks it, and as one SIF."""
    layout = zoo(tmp_path / "layout", many=50_000)
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:latest", str(bundle)], check=True, capture_output=True
    )
    soliton("pull", "zoo.sif", f"oci:{layout}:latest").ok()
    return bundle / "rootfs", soliton.cwd / "zoo.sif"


def compare(reference: dict[str, Entry], ours: dict[str, Entry]) -> None:
    ours = image_part(ours, reference)
    missing = sorted(set(reference) - set(ours))
    surplus = sorted(set(ours) - set(reference))
    assert not missing
    assert not surplus
    different = {
        path: (reference[path], ours[path])
        for path in reference
        if reference[path] != ours[path] and path not in CHANGED
    }
    assert not different


#: The root gets entries of soliton's own; directories that no layer describes have the time of unpacking in the reference.
CHANGED = {".", "./no", "./no/parents"}


@contextmanager
def kernel_mount(sif: Path, at: Path) -> Iterator[Path]:
    offset, size = partition(sif)
    at.mkdir()
    subprocess.run(
        ["mount", "-t", "squashfs", "-o", f"ro,loop,offset={offset},sizelimit={size}", str(sif), str(at)],
        check=True,
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_the_kernel_sees_what_umoci_unpacks(pulled: tuple[Path, Path], tmp_path: Path) -> None:
    reference, sif = pulled
    with kernel_mount(sif, tmp_path / "kernel") as mounted:
        compare(read_tree(reference), read_tree(mounted))


def test_unsquashfs_sees_what_umoci_unpacks(pulled: tuple[Path, Path], tmp_path: Path) -> None:
    reference, sif = pulled
    offset, _ = partition(sif)
    target = tmp_path / "unsquashed"
    subprocess.run(
        ["unsquashfs", "-q", "-o", str(offset), "-d", str(target), str(sif)], check=True, capture_output=True
    )
    compare(read_tree(reference), read_tree(target))


def test_a_running_container_reads_every_file_as_it_is(
    soliton: Program, pulled: tuple[Path, Path], tmp_path: Path
) -> None:
    """Through the program's own reader: contents, link targets and modes, as the user who runs it may see them."""
    _, sif = pulled
    soliton("build", "--sandbox", "tree", "zoo.sif").ok()
    with kernel_mount(sif, tmp_path / "kernel") as mounted:
        expected = readable(read_tree(mounted))
    assert readable(read_tree(soliton.cwd / "tree")) == expected


def readable(tree: dict[str, Entry]) -> dict[str, tuple[str, str]]:
    """Kinds and contents; a build adds to /.singularity.d."""
    return {
        path: (entry.kind, entry.content)
        for path, entry in tree.items()
        if entry.kind in "-dl" and not path.startswith("./.singularity.d")
    }
