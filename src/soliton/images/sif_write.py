"""The Singularity Image Format, written in one pass; see `sif` for the drawing of a file.

What comes before the root partition is known when writing begins, so `plan_sif` says where the partition goes, the
core writes the file system straight to that place, and `finish` adds the rest:

    layout = plan_sif([definition(text), generic_json("inspect-metadata.json", data)])
    with new_image(path) as file:
        size = …core writes squashfs to file.fd at layout.partition_offset…
        finish(file.fd, layout, partition_size=size, architecture="amd64", time=None)

The header goes last: a file whose writing stopped midway is not a SIF. Same arguments, same bytes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from soliton.errors import SolitonError
from soliton.images import architecture as architectures
from soliton.images import sif

PARTITION_ALIGNMENT = 4096


@dataclass(frozen=True)
class NewObject:
    """A data object to be: type as in `sif`, data, name of at most 128 bytes, extra field of at most 384."""

    type: int
    data: bytes
    name: str = ""
    extra: bytes = b""
    group: int = 1
    link: int = 0


@dataclass(frozen=True)
class Placed:
    """An object and the byte it starts at; gap: unused bytes before it."""

    object: NewObject
    offset: int
    gap: int = 0


@dataclass(frozen=True)
class Layout:
    """objects: those before the partition. slots: capacity of the table. Offsets in bytes."""

    objects: tuple[Placed, ...]
    slots: int
    data_offset: int
    partition_offset: int
    partition_gap: int
    launch: bytes = field(default=sif.LAUNCH)


def definition(text: str | bytes) -> NewObject:
    """The definition file an image was made from."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return NewObject(sif.DEFINITION, data)


def generic_json(name: str, data: bytes) -> NewObject:
    return NewObject(sif.GENERIC_JSON, data, name)


def align(offset: int, alignment: int) -> int:
    """The next multiple of `alignment` from `offset` on."""
    return -(-offset // alignment) * alignment


def plan_sif(objects: Sequence[NewObject], *, slots: int = sif.DEFAULT_SLOTS) -> Layout:
    """Where everything goes: objects packed after the table, in the given order, then the aligned partition."""
    if len(objects) + 1 > slots:
        raise SolitonError(f"a SIF of {slots} descriptors cannot hold {len(objects) + 1} data objects")
    data_offset = sif.TABLE_OFFSET + slots * sif.DESCRIPTOR_SIZE
    at = data_offset
    placed: list[Placed] = []
    for item in objects:
        placed.append(Placed(item, at))
        at += len(item.data)
    partition = align(at, PARTITION_ALIGNMENT)
    return Layout(tuple(placed), slots, data_offset, partition, partition - at)


def finish(
    fd: int,
    layout: Layout,
    *,
    partition_size: int,
    architecture: str | None,
    time: int | None,
    role: int = sif.PART_PRIMARY,
    fs: int = sif.FS_SQUASHFS,
    after: Sequence[NewObject] = (),
) -> None:
    """Completes a SIF whose partition has been written to `fd` at layout.partition_offset.

    architecture: OCI name. time: Unix seconds for an image that tells when it was made, with a random id; None for a
    reproducible one. after: objects that follow the partition. Only `target.new_image` makes it durable.
    """
    stamp = sif.NO_TIME if time is None else time
    code = architectures.sif_code(architecture)
    placed = list(layout.objects)
    extra = sif.Partition(fs, role, code).pack()
    root = NewObject(sif.PARTITION, b"", extra=extra)
    placed.append(Placed(root, layout.partition_offset, layout.partition_gap))
    end = layout.partition_offset + partition_size
    for item in after:
        placed.append(Placed(item, end))
        end += len(item.data)
    if len(placed) > layout.slots:
        raise SolitonError(f"a SIF of {layout.slots} descriptors cannot hold {len(placed)} data objects")
    table = bytearray(layout.slots * sif.DESCRIPTOR_SIZE)
    for slot, place in enumerate(placed):
        size = partition_size if place.object is root else len(place.object.data)
        if place.object is not root:
            write_all(fd, place.object.data, place.offset)
        record = pack_descriptor(place.object, slot, place.offset, size, place.gap, stamp)
        table[slot * sif.DESCRIPTOR_SIZE : (slot + 1) * sif.DESCRIPTOR_SIZE] = record
    os.ftruncate(fd, end)
    write_all(fd, bytes(table), sif.TABLE_OFFSET)
    header = sif.HEADER.pack(
        layout.launch,
        sif.MAGIC,
        sif.VERSION,
        (code if role == sif.PART_PRIMARY else architectures.UNKNOWN_CODE).encode("ascii"),
        sif.NO_ID if time is None else uuid.uuid4().bytes,
        stamp,
        stamp,
        layout.slots - len(placed),
        layout.slots,
        sif.TABLE_OFFSET,
        len(table),
        layout.data_offset,
        end - layout.data_offset,
    )
    write_all(fd, header, 0)


def pack_descriptor(item: NewObject, slot: int, offset: int, size: int, gap: int, stamp: int) -> bytes:
    """The 585 bytes that describe `item`, which has `size` bytes at `offset` and `gap` unused ones before."""
    name = item.name.encode("utf-8", "surrogateescape")
    if len(name) > 128 or len(item.extra) > 384:
        raise SolitonError(f"the name of data object `{item.name}` is longer than 128 bytes")
    return sif.DESCRIPTOR.pack(
        item.type,
        1,
        slot + 1,
        sif.GROUP_MARK | item.group,
        item.link,
        offset,
        size,
        size + gap,
        stamp,
        stamp,
        0,
        0,
        name,
        item.extra,
    )


def write_all(fd: int, data: bytes, offset: int) -> None:
    """All of `data` at `offset`, however often the kernel takes only a part of it."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count
