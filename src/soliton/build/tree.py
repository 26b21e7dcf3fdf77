"""What `/.singularity.d` and `/scif` hold in a base, and after a stage's steps: path → content, as `images.metadata` wants it.

After %post the files are spread over base and upper directory. Both are read by the core, which follows links inside
them only: what a step has put there must not lead to a file of the host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from soliton import core
from soliton.images.inspection import APPS, wanted_paths
from soliton.images.metadata import POST_LABELS
from soliton.launch.plan import DirectoryRoot, ImageRoot

#: Bytes read of a file; scripts and labels are far smaller.
LIMIT = 4 << 20
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")


def read(root: ImageRoot | DirectoryRoot) -> tuple[dict[str, bytes], set[str]]:
    """Contents of the files concerned, and the paths at which there is something else that hides a file below:
    a whiteout, a device, a link.
    """
    first = core.read_files(root, [*wanted_paths(), POST_LABELS], limit=LIMIT)
    apps = tuple(sorted({path.split("/")[3] for path in first if path.startswith(f"{APPS}/")}))
    answer = {**first, **core.read_files(root, wanted_paths(apps), limit=LIMIT)} if apps else first
    files = {path: file.data for path, file in answer.items() if file.kind == "file"}
    hidden = {path for path, file in answer.items() if file.kind in ("other", "symlink")}
    return files, hidden


def merged(base: Mapping[str, bytes], upper: str) -> dict[str, bytes]:
    """The tree when `upper` lies over the base."""
    files, hidden = read(DirectoryRoot(upper))
    opaque = tuple(
        folder + "/" for folder in _folders({*base, *files}) if _is_opaque(upper + folder) or folder in hidden
    )
    below = {path: data for path, data in base.items() if path not in hidden and not path.startswith(opaque)}
    return {**below, **files}


def _folders(paths: set[str]) -> set[str]:
    return {
        "/".join(parts[:count])
        for parts in (path.split("/") for path in paths)
        for count in range(2, len(parts))
    }


def _is_opaque(path: str) -> bool:
    """overlayfs(7): a directory that hides those of its name below."""
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False
