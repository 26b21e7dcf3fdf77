"""Images that are files or directories here: SIF, plain squashfs, sandbox."""

from __future__ import annotations

import os

from soliton.build.bootstrap.base import Base, Request
from soliton.errors import BuildError
from soliton.images import sif
from soliton.images.detect import Image, open_image

OCI_CONFIG = "oci-config.json"
#: More than any configuration of an image has.
_MAX_CONFIG = 8 << 20


def bootstrap(request: Request) -> Base:
    header = request.header
    shown = header.get("from")
    image = open_image(os.path.join(request.cwd, shown), shown=shown)
    if image.kind in ("oci-layout", "oci-archive", "docker-archive"):
        agent = "oci" if image.kind == "oci-layout" else image.kind
        raise BuildError(
            f"`{shown}` is not an image that can be started from as it is",
            why=f"{request.name}:{header.line} says `Bootstrap: localimage`",
            remedy=f"write `Bootstrap: {agent}`",
        )
    if image.layers or image.writable:
        request.say(f"the overlay inside `{shown}` is left out: only the root file system is built upon")
    return of_sif(image)


def of_sif(image: Image, source: tuple[str, str] | None = None, *, config: bool = False) -> Base:
    """An image as a base. config: its OCI configuration goes along."""
    return Base(
        root=image.require_root(),
        oci_config=oci_config(image) if config else None,
        source=source,
        architecture=image.architecture,
    )


def oci_config(image: Image) -> bytes | None:
    if image.sif is None:
        return None
    for item in image.sif.objects:
        if item.type == sif.GENERIC_JSON and item.name == OCI_CONFIG and item.size <= _MAX_CONFIG:
            with open(image.path, "rb") as file:
                file.seek(item.offset)
                return file.read(item.size)
    return None
