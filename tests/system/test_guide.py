"""The guide's sections on binds and overlays, line by line as a reader would type them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.program import Program
from tests.system.test_overlays import tool

RUNNING = Path(__file__).parents[2] / "docs/guide/running.md"


def lines_of(section: str) -> list[str]:
    text = RUNNING.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = text.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert found, section
    return found


@pytest.mark.parametrize("section", ["Binds", "Overlays"])
def test_a_section_of_the_guide_works_as_it_stands(soliton: Program, busybox_sif: Path, section: str) -> None:
    here = soliton.cwd
    for folder in ("data", "results"):
        (here / folder).mkdir()
    (here / "data/table.csv").write_text("1,2\n")
    subprocess.run([tool("mksquashfs"), "data", "data.sqfs", "-quiet", "-no-progress"], cwd=here, check=True)
    shutil.copy(busybox_sif, here / "image.sif")
    soliton("exec", "--writable-tmpfs", "image.sif", "true").ok()
    for line in lines_of(section):
        done = subprocess.run(
            ["sh", "-c", line.replace("/opt/", "/etc/")],
            cwd=here,
            env=soliton.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
