"""What a recipe removes is in no block of the image: neither under its name nor beside what stays."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import pytest

from tests.system.program import Program
from tests.zoo import PLAIN, write_layout

SECRET = "hunter2-which-nobody-may-see"
WRITE = f"mkdir -p /opt; echo near > /opt/a; echo {SECRET[:8]}'{SECRET[8:]}' > /opt/b; echo far > /opt/c"
REMOVE = "rm /opt/b; echo more > /opt/d"
#: Blocks that this test can open.
PACKING = ("--mksquashfs-args", "-comp gzip")
BASE = "Bootstrap: localimage\nFrom: {base}\n"

RECIPES = {
    "two steps": f"{BASE}%post\n  # soliton: step one\n  {WRITE}\n  # soliton: step two\n  {REMOVE}\n",
    "setup": f"{BASE}%setup\n  cd $SOLITON_ROOTFS; mkdir opt; cp $OLDPWD/secret opt/b; echo x > opt/a\n%post\n  {REMOVE}\n",
    "files": f"{BASE}%files\n  secret /opt/b\n  other /opt/a\n%post\n  {REMOVE}\n",
    "a base": f"Bootstrap: localimage\nFrom: with.sif\n%post\n  {REMOVE}\n",
    "a stage": f"{BASE}Stage: one\n%post\n  {WRITE}\n{BASE}%files from one\n  /opt/a /opt/a\n%post\n  echo > /opt/d\n",
    "dockerfile": f"FROM ./with.sif\nRUN echo {SECRET[:8]}'{SECRET[8:]}' > /opt/e; echo x > /opt/f\nRUN {REMOVE}; rm /opt/e\n",
}


def shows(image: Path, text: str) -> bool:
    """Whether a block of the image holds the text, compressed or not."""
    data = image.read_bytes()
    wanted = text.encode()
    if wanted in data:
        return True
    at = data.find(b"\x78")
    while at >= 0:
        if int.from_bytes(data[at : at + 2], "big") % 31 == 0:
            try:
                if wanted in zlib.decompressobj().decompress(data[at:], 1 << 20):
                    return True
            except zlib.error:
                pass
        at = data.find(b"\x78", at + 1)
    return False


@pytest.fixture
def with_secret(soliton: Program, busybox_sif: Path) -> Program:
    """A directory with the secret in a file, and in an image `with.sif`."""
    (soliton.cwd / "secret").write_text(f"{SECRET}\n")
    (soliton.cwd / "other").write_text("other\n")
    (soliton.cwd / "with.def").write_text(f"{BASE.format(base=busybox_sif)}%post\n  {WRITE}\n")
    soliton("build", *PACKING, "with.sif", "with.def").ok()
    assert shows(soliton.cwd / "with.sif", SECRET)
    return soliton


@pytest.mark.parametrize(
    ("name", "options"), [*((name, ()) for name in RECIPES), ("two steps", ("--keep-logs",))]
)
def test_a_file_that_is_removed(
    with_secret: Program, busybox_sif: Path, name: str, options: tuple[str, ...]
) -> None:
    soliton = with_secret
    recipe = "Dockerfile" if name == "dockerfile" else "recipe.def"
    (soliton.cwd / recipe).write_text(RECIPES[name].replace("{base}", str(busybox_sif)))
    # The recipe is in the image, too; it shall not tell.
    for wanted in ("built", "found"):
        soliton("build", *PACKING, *options, "--force", "image.sif", recipe).ok()
        image = soliton.cwd / "image.sif"
        assert not shows(image, SECRET), wanted
        assert shows(image, "more" if name != "a stage" else "near")
        kept = soliton("exec", image, "ls", "/opt").ok().out.split()
        assert "b" not in kept and "a" in kept and "d" in kept
        image.unlink()


def layer(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def test_a_file_that_an_upper_layer_removes(soliton: Program) -> None:
    layers = [
        (layer({"opt/a": "near", "opt/b": SECRET, "opt/c": "far"}), PLAIN),
        (layer({"opt/.wh.b": ""}), PLAIN),
    ]
    write_layout(soliton.cwd / "layout", layers)
    (soliton.cwd / "recipe.def").write_text("Bootstrap: oci\nFrom: layout\n")
    soliton("build", *PACKING, "image.sif", "recipe.def").ok()
    assert not shows(soliton.cwd / "image.sif", SECRET)
    assert shows(soliton.cwd / "image.sif", "near")
