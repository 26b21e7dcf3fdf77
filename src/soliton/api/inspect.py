"""What an image says about itself: labels, scripts, environment, definition, apps.

From the record in a SIF where there is one, else read out of `/.singularity.d` without mounting or running anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from soliton import core
from soliton.errors import ImageError
from soliton.images import inspection, sif
from soliton.images.detect import Image, open_image
from soliton.images.inspection import Described

RECORD = "inspect-metadata.json"
#: A record or a file larger than this is refused; real ones have some kilobytes.
LARGEST = 16 << 20


def inspect(path: str) -> Described:
    """The description of the image at `path`. Raises ImageError."""
    return describe(open_image(path), path)


def describe(image: Image, shown: str) -> Described:
    """The description of a recognised image; `shown` is its name for messages."""
    if image.sif is not None:
        record = image.sif.find(sif.GENERIC_JSON, RECORD)
        if record is not None:
            return inspection.from_json(object_data(image, record, shown), shown)
    root = image.require_root()
    described = inspection.inspect_tree(_read_tree(root))
    definition = image.sif.find(sif.DEFINITION) if image.sif is not None else None
    if definition is not None and not described.definition:
        text = object_data(image, definition, shown).decode("utf-8", "surrogateescape").rstrip("\n")
        return Described(**{**vars(described), "definition": text})
    return described


def provenance(path: str) -> dict[str, Any] | None:
    """The in-toto statement that the image at `path` holds; None without one. Raises ImageError."""
    from soliton.build.provenance import OBJECT, decode

    image = open_image(path)
    item = image.sif.find(sif.GENERIC_JSON, OBJECT) if image.sif is not None else None
    return None if item is None else decode(object_data(image, item, path), path)


def object_data(image: Image, item: sif.Descriptor, shown: str) -> bytes:
    """The bytes of a data object of a SIF. Raises ImageError if there are too many of them."""
    if item.size > LARGEST:
        raise ImageError(
            f"data object {item.id} of `{shown}` is too large to be read", why=f"it has {item.size} bytes"
        )
    try:
        fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"`{shown}` cannot be read", why=error.strerror) from None
    try:
        return sif.read_exactly(fd, item.offset, item.size, shown)
    finally:
        os.close(fd)


def _read_tree(root: object) -> Mapping[str, bytes]:
    first = core.read_files(root, inspection.wanted_paths(), limit=LARGEST)
    tree = _contents(first)
    place = f"{inspection.APPS}/"
    apps = tuple(
        path.removeprefix(place)
        for path, file in sorted(first.items())
        if path.startswith(place) and file.kind == "directory" and "/" not in path.removeprefix(place)
    )
    if apps:
        tree = _contents(core.read_files(root, inspection.wanted_paths(apps), limit=LARGEST))
    return tree


def _contents(files: Mapping[str, core.FileInImage]) -> dict[str, bytes]:
    return {path: file.data for path, file in files.items() if file.kind == "file" and not file.truncated}
