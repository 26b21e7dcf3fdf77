"""What independent programs say of an image: its files by unsquashfs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.system.program import Program


def root_offset(soliton: Program, image: Path | str) -> str:
    """Where the root file system begins in a SIF."""
    table = soliton("sif", "list", image).ok().out
    return next(line for line in table.splitlines() if "Squashfs" in line).split("|")[3].split("-")[0].strip()


def listing(soliton: Program, image: Path | str) -> dict[str, tuple[str, str]]:
    """Path → (mode as `ls` has it, UID/GID) of every file, by unsquashfs."""
    said = subprocess.run(
        ["unsquashfs", "-o", root_offset(soliton, image), "-lln", str(soliton.cwd / image)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = {}
    for line in said.splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("squashfs-root"):
            path = words[5].partition(" -> ")[0].removeprefix("squashfs-root") or "/"
            found[path] = (words[0], words[1])
    return found
