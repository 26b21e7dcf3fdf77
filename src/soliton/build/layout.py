"""What a stage's steps expect to find, written into its upper directory before the first of them runs.

A base may lack `/tmp`, `/root` or `/.singularity.d`, and apps have folders and scripts of their own. What is missing is made in
the upper directory, where nothing but this module has written yet; directories above it that the base has are
repeated there with their mode, since in an overlay the upper one counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from soliton import core
from soliton.images.metadata_layer import Entry, File, Folder, Link
from soliton.launch.plan import DirectoryRoot, ImageRoot

#: Without these, ordinary steps fail. The rest of a root's skeleton is put below the layers when the image is made.
NEEDED = (
    Folder("/etc"),
    Folder("/root", 0o700),
    Folder("/tmp", 0o1777),
    Folder("/var"),
    Folder("/var/tmp", 0o1777),
    Folder("/.singularity.d"),
    Folder("/.singularity.d/env"),
)


#: The attribute in which owners are written down that a file cannot have; empty, it says root (see docs/architecture.md).
OF_ROOT = "user.rootlesscontainers"


@dataclass(frozen=True)
class Found:
    """What a base has at a path: as `core.FileInImage` says it."""

    kind: str
    mode: int = 0o755


def look(root: ImageRoot | DirectoryRoot, entries: Iterable[Entry]) -> dict[str, Found]:
    """What the base has at the entries' paths and above them."""
    paths = sorted({path for entry in entries for path in ancestry(entry.path)})
    answer = core.read_files(root, ["/", *paths], limit=0)
    return {path: Found(file.kind, file.mode & 0o7777) for path, file in answer.items()}


def plan(entries: Sequence[Entry], found: Mapping[str, Found]) -> list[Entry]:
    """What has to be written into an empty upper directory so that `entries` are there, parents first.

    A folder that the base has is left alone. What cannot be, because the base has a file or a link in its way, is left out.
    """
    written: dict[str, Entry] = {}
    for entry in entries:
        parents = ancestry(entry.path)[:-1]
        here = found.get(entry.path, Found("missing"))
        if isinstance(entry, Folder) and here.kind != "missing":
            continue
        if any(
            found.get(parent, Found("missing")).kind not in ("missing", "directory") for parent in parents
        ):
            continue
        for parent in parents:
            there = found.get(parent, Found("missing"))
            written.setdefault(parent, Folder(parent, there.mode if there.kind == "directory" else 0o755))
        written[entry.path] = entry
    return sorted(written.values(), key=lambda entry: entry.path.split("/"))


def write(upper: str, entries: Iterable[Entry], found: Mapping[str, Found] | None = None) -> None:
    """Carries out a plan; `upper` is a directory of ours that nobody else has written to.

    found: what of it the base has; of the rest it is then written down that it is root's, whoever else writes there.
    """
    for entry in entries:
        path = upper + entry.path
        match entry:
            case Folder():
                os.mkdir(path)
                os.chmod(path, entry.mode)
            case File():
                with open(path, "xb") as file:
                    file.write(entry.data)
                os.chmod(path, entry.mode)
            case Link():
                os.symlink(entry.target, path)
        if found is not None and not isinstance(entry, Link) and found[entry.path].kind == "missing":
            with contextlib.suppress(OSError):
                os.setxattr(path, OF_ROOT, b"")


def ancestry(path: str) -> list[str]:
    """`/a/b/c` → `/a`, `/a/b`, `/a/b/c`."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
