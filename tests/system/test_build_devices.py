"""What steps of a build are shown beside the image: drivers and devices of the host, and data images. None of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.judges import listing
from tests.system.program import Program
from tests.system.test_build import fatal, names, sh, write
from tests.system.test_devices import LIBS, library
from tests.system.test_overlays import tool

#: Where drivers are looked for, and nothing is that the program itself needs.
PLACE = "/usr/local/lib"


@pytest.fixture
def with_driver(soliton: Program) -> Program:
    """A machine that has a library of the name that NVIDIA's has."""
    assert not os.path.realpath(sys.executable).startswith("/usr/local/")
    folder = soliton.cwd.parent / "driver"
    folder.mkdir()
    library(folder, "libcuda.so.1").rename(folder / "libcuda.so.550.54")
    (folder / "libcuda.so.1").symlink_to("libcuda.so.550.54")
    script = f'mount --bind "{folder}" {PLACE} && exec "$@"'
    return Program(
        home=soliton.home,
        cwd=soliton.cwd,
        wrapper=("unshare", "-Urm", "sh", "-c", script, "sh"),
        name=soliton.name,
    )


@pytest.mark.parametrize("recipe", ["recipe.def", "Dockerfile"])
def test_a_driver_is_there_in_the_steps_and_not_in_the_image(
    with_driver: Program, busybox_sif: Path, recipe: str
) -> None:
    soliton = with_driver
    step = f"ls {LIBS}/libcuda.so.1 && echo $LD_LIBRARY_PATH > /seen && ls {LIBS} >> /seen"
    definition = (
        f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  {step}\n%test\n  ls {LIBS}/libcuda.so.1\n"
    )
    text = definition if recipe == "recipe.def" else f"FROM {busybox_sif}\nRUN {step}\n"
    write(soliton, text, recipe)
    result = soliton("build", "--nv", "image.sif", recipe).ok()
    assert "libcuda.so.1" in result.out
    assert sh(soliton, "image.sif", "cat /seen") == f"{LIBS}\nlibcuda.so.1\nlibcuda.so.550.54\n"
    assert not [path for path in listing(soliton, "image.sif") if "libcuda" in path]
    # The result is kept for this driver alone.
    again = soliton("build", "--force", "--nv", "other.sif", recipe).ok()
    assert "(cached)" in again.err
    without = soliton("build", "--force", "--explain-cache", "image.sif", recipe)
    assert without.status == 255 and "runs: the driver of the GPU is no longer there" in without.err


def test_without_a_driver_the_build_goes_on_and_says_so(soliton: Program, busybox_sif: Path) -> None:
    write(soliton, f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  echo fine\n")
    for flag in ("--nv", "--rocm", "--intel-hpu"):
        result = soliton("build", "--force", flag, "image.sif", "recipe.def").ok()
        assert "fine" in result.out + result.err
    assert "use `--nv`" in soliton("build", "--nvccli", "-F", "image.sif", "recipe.def").err


def test_a_data_image_is_there_in_the_steps_and_not_in_the_image(soliton: Program, busybox_sif: Path) -> None:
    data = soliton.cwd / "the data"
    data.mkdir()
    (data / "table.csv").write_text("1,2\n")
    subprocess.run([tool("mksquashfs"), data, soliton.cwd / "data.sqfs", "-quiet"], check=True)
    write(
        soliton,
        f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  cp /in/data/table.csv /copied\n  ! touch /in/data/x\n"
        "  cp /one /single\n%test\n  test -e /in/data/table.csv\n",
    )
    options = ("--bind", "data.sqfs:/in/data:image-src=/", "--bind", "data.sqfs:/one:image-src=/table.csv")
    soliton("build", *options, "image.sif", "recipe.def").ok()
    assert (
        sh(soliton, "image.sif", "cat /copied /single; ls /in /one 2>/dev/null || echo none")
        == "1,2\n1,2\nnone\n"
    )
    # To make it again, the data are needed again.
    assert "bound to `/in/data`" in fatal(soliton("rebuild", "--check", "image.sif"))
    soliton("rebuild", *options, "--check", "image.sif").ok()
    message = fatal(soliton("build", "--bind", "missing.sqfs:/in:image-src=/", "x.sif", "recipe.def"))
    assert "missing.sqfs" in message and len(message.splitlines()) <= 3
    assert "x.sif" not in names(soliton)


def test_data_with_a_sif_around_them_are_bound_into_other_images(soliton: Program, busybox_sif: Path) -> None:
    data = soliton.cwd / "data"
    data.mkdir()
    (data / "table.csv").write_text("1,2\n")
    subprocess.run([tool("mksquashfs"), data, soliton.cwd / "data.sqfs", "-quiet"], check=True)
    soliton("build", "--data", "data.sif", "data.sqfs").ok()
    assert "FS (Squashfs/Data/" in soliton("sif", "list", "data.sif").ok().out
    assert (soliton.cwd / "data.sqfs").read_bytes() in (soliton.cwd / "data.sif").read_bytes()
    bound = ("exec", "--bind", "data.sif:/in:image-src=/", busybox_sif, "cat", "/in/table.csv")
    assert soliton(*bound).ok().out == "1,2\n"
    first = (soliton.cwd / "data.sif").read_bytes()
    assert "--force" in fatal(soliton("build", "--data", "data.sif", "data.sqfs"))
    soliton.having(APPTAINER_DATA="1")("build", "-F", "data.sif", "data.sqfs").ok()
    assert (soliton.cwd / "data.sif").read_bytes() == first
    for source in ("data", busybox_sif):
        assert "takes a squashfs file" in fatal(soliton("build", "--data", "x.sif", source))
    assert "x.sif" not in names(soliton)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Bootstrap: localimage\nFrom: x.sif\nFingerprints: 0123ABCD\n", "`Fingerprints` (recipe.def:7) is not supported yet"),
        ("Bootstrap: buildkit\nFrom: x\n", "`Bootstrap: buildkit` (recipe.def:5) is not supported yet"),
    ],
)  # fmt: skip
def test_what_a_later_stage_cannot_have_is_said_before_anything_is_done(
    soliton: Program, header: str, said: str
) -> None:
    write(soliton, f"Bootstrap: busybox\nStage: one\n%pre\n  touch done\n{header}")
    message = fatal(soliton("build", "image.sif", "recipe.def"))
    assert said in message and names(soliton) == {"recipe.def"}
