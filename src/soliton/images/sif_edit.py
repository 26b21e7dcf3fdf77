"""Objects added to, removed from and promoted in a SIF that exists already; see `sif` for the drawing of a file.

Done in place, as the peers do it: an image may be larger than the space that is left. Data reaches the disk before the
table that points to it, and the table before the header, so that a crash leaves a file that reads as before or as
after; that its header then counts one free descriptor too many or too few is all that shows, and readers bear it. Holes are not filled, the file never shrinks.
Images made without times stay without.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from soliton.errors import ImageError, SolitonError
from soliton.images import architecture, sif, target
from soliton.images.copying import copy
from soliton.images.sif import Descriptor, Header, Sif
from soliton.images.sif_write import NewObject, align, pack_descriptor, write_all
from soliton.record import replace

#: Makes the data of an object: (file, offset).
Filler = Callable[[int, int], None]


@dataclass(frozen=True)
class _Edit:
    """What becomes of a file: whole new header and table."""

    header: Header
    objects: tuple[Descriptor, ...]


#: Larger than the blocks of any file system and the pages of any machine; the gap before an object is written out.
MOST_ALIGNMENT = 16 << 20


def create(path: str) -> None:
    """A SIF without objects."""
    if os.path.lexists(path):
        raise SolitonError(f"`{path}` exists already", remedy="remove it first, or choose another name")
    table = bytes(sif.DEFAULT_SLOTS * sif.DESCRIPTOR_SIZE)
    now = int(time.time())
    header = Header(
        launch=b"",
        architecture=architecture.UNKNOWN_CODE,
        id=uuid.uuid4().bytes,
        created=now,
        modified=now,
        free=sif.DEFAULT_SLOTS,
        total=sif.DEFAULT_SLOTS,
        table_offset=sif.TABLE_OFFSET,
        table_size=len(table),
        data_offset=sif.TABLE_OFFSET + len(table),
        data_size=0,
    )
    with target.new_image(path, force=False) as file:
        write_all(file.fd, table, sif.TABLE_OFFSET)
        write_all(file.fd, pack_header(header), 0)


def add(path: str, item: NewObject, *, alignment: int | None = None, source: int | None = None) -> int:
    """Appends an object and returns its id.

    alignment: bytes; by default 4096 for partitions, none for the rest. source: an open file whose whole content is the
    data, instead of item.data.
    Raises SolitonError if there is no free descriptor, the object is about one that is not there, or a second root would come in.
    """
    step = alignment if alignment is not None else 4096 if item.type == sif.PARTITION else 1
    if not 1 <= step <= MOST_ALIGNMENT:
        raise SolitonError(
            f"{step} is not an alignment", remedy=f"give a number of bytes from 1 to {MOST_ALIGNMENT}"
        )
    with _locked(path) as (fd, image):
        if item.link and image.by_id(item.link) is None:
            raise _no_object(image, item.link, path)
        partition = _partition(item)
        primary = partition is not None and partition.role == sif.PART_PRIMARY
        if primary and image.primary is not None:
            raise SolitonError(
                f"`{path}` has a primary partition already",
                why=f"it is data object {image.primary.id}",
                remedy="add this one as a system partition and choose with `sif setprim`",
            )
        size = len(item.data) if source is None else os.fstat(source).st_size

        def fill(fd: int, offset: int) -> None:
            if source is None:
                write_all(fd, item.data, offset)
            else:
                os.lseek(fd, offset, os.SEEK_SET)
                copy(source, 0, size, fd, "the file to be added")

        return _append(path, fd, image, item, size, step, fill)


def add_made(path: str, item: NewObject, size: int, fill: Filler) -> int:
    """Appends a partition of `size` bytes that `fill` makes in place, where the file is zero. Returns its id."""
    with _locked(path) as (fd, image):
        return _append(path, fd, image, item, size, 4096, fill, fresh=True)


def _append(
    path: str,
    fd: int,
    image: Sif,
    item: NewObject,
    size: int,
    step: int,
    fill: Filler,
    *,
    fresh: bool = False,
) -> int:
    """fresh: what earlier, deleted objects left at the end of the file is taken away first."""
    header = image.header
    partition = _partition(item)
    primary = partition is not None and partition.role == sif.PART_PRIMARY
    used = {other.slot for other in image.objects}
    slot = next((slot for slot in range(header.total) if slot not in used), None)
    if slot is None:
        raise SolitonError(f"`{path}` has no free descriptor", why=f"all {header.total} are in use")
    end = max((other.end for other in image.objects), default=header.data_offset)
    offset = align(end, step)
    stamp = _now(header)
    try:
        with target.explaining(path):
            if fresh:
                os.ftruncate(fd, end)
            _zero(fd, end, offset)
            fill(fd, offset)
            os.fsync(fd)
    except BaseException:
        os.ftruncate(fd, end if fresh else image.length)
        raise
    packed = pack_descriptor(item, slot, offset, size, offset - end, stamp)
    objects = sorted((*image.objects, _unpack(packed, slot)), key=lambda other: other.slot)
    changed = replace(
        header,
        free=header.free - 1,
        modified=stamp,
        data_size=offset + size - header.data_offset,
        architecture=partition.code if primary and partition is not None else header.architecture,
    )
    _commit(fd, _Edit(changed, tuple(objects)), path)
    return slot + 1


def delete(path: str, id: int) -> None:
    """Forgets an object. Its bytes stay where they are, as with the peers."""

    def without(image: Sif, item: Descriptor) -> _Edit:
        primary = item == image.primary
        header = replace(
            image.header,
            free=image.header.free + 1,
            modified=_now(image.header),
            architecture=architecture.UNKNOWN_CODE if primary else image.header.architecture,
        )
        return _Edit(header, tuple(other for other in image.objects if other is not item))

    _change(path, id, without)


def set_primary(path: str, id: int) -> None:
    """Makes a system partition the one that holds the root; the one that did becomes a system partition."""

    def promoted(image: Sif, item: Descriptor) -> _Edit:
        partition = item.partition
        if partition is None or partition.role not in (sif.PART_SYSTEM, sif.PART_PRIMARY):
            raise SolitonError(f"data object {id} of `{path}` is not a system partition")
        stamp = _now(image.header)
        roles = {item.id: sif.PART_PRIMARY}
        if image.primary is not None and image.primary.id != item.id:
            roles[image.primary.id] = sif.PART_SYSTEM
        objects = tuple(
            _with_role(other, roles[other.id], stamp) if other.id in roles else other
            for other in image.objects
        )
        return _Edit(replace(image.header, modified=stamp, architecture=partition.code), objects)

    _change(path, id, promoted)


def pack_header(header: Header) -> bytes:
    """The 128 bytes of a header."""
    return sif.HEADER.pack(
        header.launch,
        sif.MAGIC,
        sif.VERSION,
        header.architecture.encode("ascii", "replace"),
        header.id,
        header.created,
        header.modified,
        header.free,
        header.total,
        header.table_offset,
        header.table_size,
        header.data_offset,
        header.data_size,
    )


def _change(path: str, id: int, edit: Callable[[Sif, Descriptor], _Edit]) -> None:
    with _locked(path) as (fd, image):
        item = image.by_id(id)
        if item is None:
            raise _no_object(image, id, path)
        _commit(fd, edit(image, item), path)


def _no_object(image: Sif, id: int, path: str) -> SolitonError:
    known = ", ".join(str(other.id) for other in image.objects)
    return SolitonError(f"there is no data object {id} in `{path}`", why=f"it has {known or 'none'}")


@contextmanager
def _locked(path: str) -> Iterator[tuple[int, Sif]]:
    """The file open for change, by nobody else who asks; where locks do not work, without."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"`{path}` cannot be changed", why=error.strerror) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImageError(
                f"`{path}` is being changed by another program", remedy="try again later"
            ) from None
        except OSError:
            pass
        yield fd, sif.read(fd, path)
    finally:
        os.close(fd)


def _commit(fd: int, edit: _Edit, path: str) -> None:
    table = bytearray(edit.header.table_size)
    for item in edit.objects:
        table[item.slot * sif.DESCRIPTOR_SIZE : (item.slot + 1) * sif.DESCRIPTOR_SIZE] = _pack(item)
    with target.explaining(path):
        write_all(fd, bytes(table), edit.header.table_offset)
        os.fsync(fd)
        write_all(fd, pack_header(edit.header), 0)
        os.fsync(fd)


def _pack(item: Descriptor) -> bytes:
    return sif.DESCRIPTOR.pack(
        item.type,
        1,
        item.id,
        sif.GROUP_MARK | item.group,
        (sif.GROUP_MARK if item.links_group else 0) | item.link,
        item.offset,
        item.size,
        item.padded_size,
        item.created,
        item.modified,
        item.uid,
        item.gid,
        item.name.encode("utf-8", "surrogateescape"),
        item.extra,
    )


def _unpack(packed: bytes, slot: int) -> Descriptor:
    return sif.parse_descriptor(packed, 0, slot)


def _partition(item: NewObject) -> sif.Partition | None:
    return _unpack(pack_descriptor(item, 0, 0, 0, 0, 0), 0).partition


def _with_role(item: Descriptor, role: int, stamp: int) -> Descriptor:
    partition = item.partition
    assert partition is not None
    extra = replace(partition, role=role).pack().ljust(384, b"\0")
    return replace(item, extra=extra, modified=stamp)


def _now(header: Header) -> int:
    return sif.NO_TIME if header.deterministic else int(time.time())


def _zero(fd: int, start: int, end: int) -> None:
    """Nothing of what a deleted object left behind stays visible in the gap."""
    if end > start:
        write_all(fd, bytes(end - start), start)
