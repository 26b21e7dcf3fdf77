"""Writable layers made: an ext3 file system in a file of its own, or in a SIF that goes with its layer from then on."""

from __future__ import annotations

import errno
import os
import posixpath
import uuid
from collections.abc import Sequence

from soliton import core
from soliton.errors import ImageError, SolitonError
from soliton.images import sif, sif_edit, target
from soliton.images.detect import open_image
from soliton.images.sif_write import NewObject
from soliton.launch.stack import UPPER, WORK

#: In MiB, as the peers have it.
LEAST = 64
#: More has no place in a file system of this kind and block size.
MOST = 16 << 20


def create(
    path: str,
    *,
    size: int = LEAST,
    sparse: bool = False,
    directories: Sequence[str] = (),
    fakeroot: bool = False,
) -> None:
    """A writable layer of `size` MiB in a new file `path`, or in the SIF that is there.

    sparse: it takes up space when it is written. directories: made in it, as they will be seen inside. fakeroot: they
    belong to user 0, for use with `--fakeroot`.
    """
    if not LEAST <= size <= MOST:
        raise SolitonError(
            f"an overlay of {size} MiB cannot be made", why=f"the size is from {LEAST} to {MOST} MiB"
        )
    inside = [f"/{UPPER}", f"/{WORK}"]
    for directory in directories:
        if not directory.startswith("/") or ".." in directory.split("/"):
            raise SolitonError(
                f"`{directory}` of `--create-dir` is not an absolute path",
                why="it is named from the container's root",
            )
        inside.append(f"/{UPPER}{posixpath.normpath(directory)}")
    owner = (0, 0) if fakeroot else (os.getuid(), os.getgid())

    def fill(fd: int, offset: int) -> None:
        """Makes the file system in a range that is zero, or not there yet."""
        length = size << 20
        if sparse:
            os.ftruncate(fd, offset + length)
        else:
            there = os.fstatvfs(fd)
            if length > there.f_bavail * there.f_frsize:
                # Trying would take all the room there is, meanwhile, from everybody.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(fd, offset, length)
        core.converse(
            "ext-make",
            {
                "fd": fd,
                "offset": offset,
                "size": length,
                "uid": owner[0],
                "gid": owner[1],
                "mode": 0o755 if max(owner) <= 65535 else 0o777,
                "directories": inside,
                "id": uuid.uuid4().hex,
            },
            pass_fds=(fd,),
        )

    if os.path.lexists(path):
        _into_sif(path, size << 20, fill)
        return
    with target.new_image(path, mode=0o644) as file:
        fill(file.fd, 0)


def _into_sif(path: str, size: int, fill: sif_edit.Filler) -> None:
    image = open_image(path)
    if image.sif is None:
        raise ImageError(
            f"`{path}` exists already",
            why=f"and it is not a SIF, which an overlay could be added to, but {image.kind}",
        )
    primary = image.sif.primary
    if primary is None or primary.partition is None:
        raise ImageError(f"`{path}` has no root file system to lay an overlay over")
    if any(item.type == sif.SIGNATURE for item in image.sif.objects):
        raise ImageError(
            f"`{path}` is signed, and a further part would not be",
            remedy="make the overlay in a file of its own, and give that to `--overlay`",
        )
    if image.writable is not None:
        raise ImageError(
            f"`{path}` has a writable overlay already", why=f"it is data object {image.writable.id}"
        )
    if image.encryption == "luks":
        raise ImageError(f"`{path}` is encrypted, and its overlay would not be")
    extra = sif.Partition(sif.FS_EXT3, sif.PART_OVERLAY, primary.partition.code).pack()
    sif_edit.add_made(path, NewObject(sif.PARTITION, b"", extra=extra, group=primary.group), size, fill)
