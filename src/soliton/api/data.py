"""`build --data`: a file system of data with a SIF around it. Nothing in it is run; it is bound into containers of other images."""

from __future__ import annotations

import os

from soliton.errors import BuildError
from soliton.images import architecture, metadata, sif, sif_write
from soliton.images.copying import copy
from soliton.images.detect import open_image
from soliton.images.target import new_image
from soliton.launch.plan import ImageRoot


def package(target: str, source: str, *, force: bool = False) -> None:
    """Makes `target` of the squashfs file `source`; the same bytes for the same source. force: an existing target is replaced.

    Raises BuildError: the source is no squashfs file. ImageError, TargetError.
    """
    image = open_image(source)
    root = image.root
    if image.kind != "squashfs" or not isinstance(root, ImageRoot):
        raise BuildError(
            f"`{source}` cannot become data of a SIF",
            why="`--data` takes a squashfs file",
            remedy=f"make one: `mksquashfs DIRECTORY {os.path.splitext(os.path.basename(source))[0]}.squashfs`",
        )
    definition = f"bootstrap: localimage\nfrom: {source}\n\n"
    layout = sif_write.plan_sif(metadata.sif_objects(definition, {}))
    with new_image(target, force=force) as file, open(image.path, "rb") as data:
        os.lseek(file.fd, layout.partition_offset, os.SEEK_SET)
        copy(data.fileno(), root.offset, root.size, file.fd, source)
        sif_write.finish(
            file.fd,
            layout,
            partition_size=root.size,
            architecture=architecture.host_architecture(),
            time=None,
            role=sif.PART_DATA,
        )
