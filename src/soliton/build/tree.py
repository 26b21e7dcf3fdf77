"""What `/.singularity.d` and `/scif` hold in a base, and after a stage's steps: path → content, as `images.metadata` wants it.

After %post the files are spread over base and upper directory. Both are read by the core, which follows links inside
them only: what a step has put there must not lead to a file of the host.
"""

from __future__ import annotations

from soliton import core
from soliton.build.bootstrap import Base
from soliton.images.inspection import APPS, wanted_paths
from soliton.images.metadata import DEFINITION, POST_LABELS, supplement, with_entries
from soliton.images.metadata import base as base_scripts
from soliton.launch.plan import Root

#: Bytes read of a file; scripts and labels are far smaller.
LIMIT = 4 << 20


def read(root: Root) -> tuple[dict[str, bytes], set[str]]:
    """Contents of the files concerned, and the paths at which there is something else that hides a file below:
    a whiteout, a device, a link.
    """
    first = core.read_files(root, [*wanted_paths(), POST_LABELS], limit=LIMIT)
    apps = tuple(sorted({path.split("/")[3] for path in first if path.startswith(f"{APPS}/")}))
    answer = {**first, **core.read_files(root, wanted_paths(apps), limit=LIMIT)} if apps else first
    files = {path: file.data for path, file in answer.items() if file.kind == "file"}
    hidden = {path for path, file in answer.items() if file.kind in ("other", "symlink")}
    return files, hidden


def after(root: Root, base: Base) -> dict[str, bytes]:
    """The tree of a stage as it is now. base: what it has started from."""
    files, _ = read(root)
    if base.oci_config is not None:
        # Written by the conversion for an image of its own; this build's definition takes its place.
        files.pop(DEFINITION, None)
    if base.is_image and not base.bare:
        return files
    return {**with_entries({}, supplement() if base.bare else base_scripts()), **files}
