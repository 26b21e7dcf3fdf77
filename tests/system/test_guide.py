"""The guide's chapter on building, line by line as a reader would type it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.program import Program, eventually
from tests.system.test_overlays import tool

GUIDE = Path(__file__).parents[2] / "docs/guide"


RECIPE = """\
Bootstrap: localimage
From: base.sif

%arguments
    VERSION=1.0

%files
    model.dat /opt/model.dat

%post
    mkdir -p /opt
    echo {{ VERSION }} > /opt/version

%test
    test -s /opt/version

%labels
    Version {{ VERSION }}

%help
    What it is for.
"""
FILES = {
    "recipe.def": RECIPE,
    "scratch.def": "Bootstrap: scratch\n%files\n    model.dat /model.dat\n",
    "recipe.json": json.dumps({"header": {"bootstrap": "localimage", "from": "base.sif"}}),
    "arguments.txt": "VERSION=3.0\n",
    "model.dat": "a model\n",
    "sources/main.c": "int main(void) { return 0; }\n",
    "token.txt": "secret\n",
    "Dockerfile": "FROM ./base.sif AS build\nARG VERSION=1\nRUN echo $VERSION > /version\nFROM build\nCOPY model.dat /opt/\n",
    "project/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
    "docker/Dockerfile": "FROM ./base.sif\nCOPY model.dat /opt/\nRUN --mount=type=secret,id=token,required test -s /run/secrets/token\n",
}


def blocks(document: Path) -> list[list[str]]:
    """The command lines of every block of shell, those that only show a registry left out."""
    parts = document.read_text(encoding="utf-8").split("```sh\n")[1:]
    return [[line for line in part.partition("```")[0].splitlines() if line] for part in parts]


@pytest.fixture(scope="session")
def workshop(shared: Program, busybox_sif: Path) -> Path:
    """A directory with all that the chapter on building speaks of."""
    directory = shared.cwd / "workshop"
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(busybox_sif, directory / "base.sif")
    subprocess.run([tool("mksquashfs"), directory / "sources", directory / "data.sqfs", "-quiet"], check=True)
    here = shared.within(directory)
    here("build", "image.sif", "recipe.def").ok()
    here("build", "--sandbox", "tree", "image.sif").ok()
    return directory


@pytest.mark.parametrize(
    "lines", blocks(GUIDE / "building.md"), ids=lambda lines: lines[0].partition("#")[0].strip()
)
def test_the_chapter_on_building_works_as_it_stands(
    soliton: Program, workshop: Path, tmp_path: Path, lines: list[str]
) -> None:
    here = tmp_path / "the workshop"
    shutil.copytree(workshop, here, symlinks=True)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = soliton.within(here).having(SOLITON_TMPDIR=str(temporary))
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        assert name == "soliton"
        if words[0] == "build" and not {"--force", "--update"} & set(words):
            target = here / words[-2]
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        program(*words, stdin="").ok()
        if "--no-cleanup" in words:
            (kept,) = temporary.iterdir()
            shutil.rmtree(kept, ignore_errors=True)
            subprocess.run(["unshare", "-Ur", "rm", "-rf", kept], check=True)
    eventually(lambda: not list(temporary.iterdir()), lambda: f"left: {list(temporary.iterdir())}")
