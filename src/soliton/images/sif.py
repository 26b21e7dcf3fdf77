"""The Singularity Image Format, read.

    0         ┌──────────────────────────────────────────────────────────────┐
              │ launch line (32)                                             │
    32        │ "SIF_MAGIC\\0" (10)  version "01\\0" (3)  architecture (3)      │
    48        │ id, a UUID (16)                                              │
    64        │ created  modified  slots free  slots total  table offset     │
              │ table size  data offset  data size          (8 × int64)      │
    128       ├──────────────────────────────────────────────────────────────┤
              │ zeros                                                        │
    4096      ├──────────────────────────────────────────────────────────────┤ table offset
              │ 48 descriptors of 585 bytes: type, used, id, group, link,    │
              │ offset, size, padded size, times, owner, name, extra         │
    32176     ├──────────────────────────────────────────────────────────────┤ data offset
              │ definition file · inspect-metadata.json · oci-config.json    │ packed
              ├──────────────────────────────────────────────────────────────┤ aligned to 4096
              │ root file system (squashfs)                                  │
              ├──────────────────────────────────────────────────────────────┤
              │ whatever was added later: overlay, signatures                │
              └──────────────────────────────────────────────────────────────┘

Integers are little-endian, structures packed. The numbers on the left are what writers of today choose; readers
take them from the header. All of a file is hostile until `parse` has returned: then every object lies inside
the file and apart from header and table, so later readers need no bounds checks of their own. Checking costs the
same for any size of image. Nothing here writes (`sif_write`, `sif_edit`) or prints.
"""

from __future__ import annotations

import os
import struct

from soliton.errors import ImageError
from soliton.images import architecture
from soliton.record import record

HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
DESCRIPTOR = struct.Struct("<iBIIIqqqqqqq128s384s")
HEADER_SIZE = HEADER.size
DESCRIPTOR_SIZE = DESCRIPTOR.size

MAGIC = b"SIF_MAGIC\0"
MAGIC_OFFSET = 32
VERSION = b"01\0"
LAUNCH = b"#!/usr/bin/env run-singularity\n"
TABLE_OFFSET = 4096
DEFAULT_SLOTS = 48
#: Most descriptors a file may announce. OCI-SIF has one per blob; the largest seen have hundreds.
MAX_SLOTS = 16384
#: Unix time of the year 1: stands for "no time" in reproducible images.
NO_TIME = -62135596800
NO_ID = bytes(16)
#: Group ids carry this mark on disk, and so does a link that names a group.
GROUP_MARK = 0xF0000000
ID_MASK = 0x0FFFFFFF

DEFINITION = 0x4001
ENVIRONMENT = 0x4002
LABELS = 0x4003
PARTITION = 0x4004
SIGNATURE = 0x4005
GENERIC_JSON = 0x4006
GENERIC = 0x4007
CRYPTO_MESSAGE = 0x4008
SBOM = 0x4009
OCI_ROOT_INDEX = 0x400A
OCI_BLOB = 0x400B
TYPES = range(DEFINITION, OCI_BLOB + 1)

FS_SQUASHFS, FS_EXT3, FS_ARCHIVE, FS_RAW, FS_LUKS_SQUASHFS, FS_GOCRYPTFS = range(1, 7)
PART_SYSTEM, PART_PRIMARY, PART_DATA, PART_OVERLAY = range(1, 5)


@record
class Header:
    """launch: the line for the kernel's `#!`, without padding. architecture: two digits, see `images.architecture`.
    id: raw UUID. Times in seconds since 1970. free, total: descriptors. Offsets and sizes in bytes.
    """

    launch: bytes
    architecture: str
    id: bytes
    created: int
    modified: int
    free: int
    total: int
    table_offset: int
    table_size: int
    data_offset: int
    data_size: int

    @property
    def deterministic(self) -> bool:
        """Made reproducibly: no id, no time. Edits keep it so."""
        return self.id == NO_ID and self.created == self.modified == NO_TIME


@record
class Partition:
    """The extra field of a PARTITION. code: architecture, two digits; it and not the header's is authoritative."""

    fs: int
    role: int
    code: str

    def pack(self) -> bytes:
        return struct.pack("<ii3s", self.fs, self.role, self.code.encode("ascii"))


@record
class Signature:
    """The extra field of a SIGNATURE. hash: 1 SHA-256, 2 SHA-384, 3 SHA-512, 4 BLAKE2s, 5 BLAKE2b.
    fingerprint: of the signer's key, empty where the signature itself names the key.
    """

    hash: int
    fingerprint: bytes


@record
class Descriptor:
    """One data object. slot: position in the table, from 0. group: 0 for none. link: 0 for none, else the id of
    an object, or of a group if `links_group`. offset: from the start of the file, size: bytes of the object.
    """

    slot: int
    type: int
    id: int
    group: int
    link: int
    links_group: bool
    offset: int
    size: int
    padded_size: int
    created: int
    modified: int
    uid: int
    gid: int
    name: str
    extra: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def partition(self) -> Partition | None:
        if self.type != PARTITION:
            return None
        fs, role, code = struct.unpack_from("<ii3s", self.extra)
        return Partition(fs, role, code.rstrip(b"\0").decode("ascii", "replace"))

    @property
    def signature(self) -> Signature | None:
        if self.type != SIGNATURE:
            return None
        (kind,) = struct.unpack_from("<i", self.extra)
        fingerprint = self.extra[4:24]
        return Signature(kind, fingerprint if any(fingerprint) else b"")

    @property
    def message(self) -> tuple[int, int] | None:
        """(format, kind) of a CRYPTO_MESSAGE: (2, 0x100) clear signature, (2, 0x200) RSA-OAEP; 1 is OpenPGP."""
        if self.type != CRYPTO_MESSAGE:
            return None
        form, kind = struct.unpack_from("<ii", self.extra)
        return form, kind

    @property
    def sbom(self) -> int | None:
        if self.type != SBOM:
            return None
        return int.from_bytes(self.extra[:4], "little", signed=True)

    @property
    def digest(self) -> str | None:
        """`sha256:…` of an object of an OCI-SIF."""
        if self.type not in (OCI_ROOT_INDEX, OCI_BLOB):
            return None
        return self.extra.rstrip(b"\0").decode("ascii", "replace")


@record
class Sif:
    """A file whose structure has been checked. length: of the file, in bytes. oddities: what a reader may
    overlook but a person may want to know.
    """

    header: Header
    objects: tuple[Descriptor, ...]
    length: int
    oddities: tuple[str, ...] = ()

    @property
    def primary(self) -> Descriptor | None:
        """The partition that holds the root file system."""
        for item in self.objects:
            if item.type == PARTITION and item.extra[4:8] == b"\x02\0\0\0":
                return item
        return None

    @property
    def architecture(self) -> str | None:
        """OCI name of the root's architecture: the partition's own, since the header's is not signed."""
        primary = self.primary
        partition = primary.partition if primary else None
        return architecture.from_sif_code(partition.code if partition else self.header.architecture)

    @property
    def is_oci(self) -> bool:
        """An OCI-SIF: OCI blobs in a SIF, without a root partition of its own."""
        return any(item.type == OCI_ROOT_INDEX for item in self.objects)

    def find(self, type: int, name: str | None = None) -> Descriptor | None:
        """The first object of that type (and name), in the order of the table."""
        for item in self.objects:
            if item.type == type and (name is None or item.name == name):
                return item
        return None

    def by_id(self, id: int) -> Descriptor | None:
        for item in self.objects:
            if item.id == id:
                return item
        return None


def read(fd: int, name: str, head: bytes | None = None) -> Sif:
    """Reads and checks the structure of an open SIF.

    name: for messages. head: the first bytes of the file, if they have been read already.
    Raises ImageError; OSError if the file cannot be read.
    """
    length = os.fstat(fd).st_size
    if head is None:
        head = os.pread(fd, TABLE_OFFSET + DEFAULT_SLOTS * DESCRIPTOR_SIZE, 0)
    header = parse_header(head, length, name)
    end = header.table_offset + header.table_size
    if end <= len(head):
        table = head[header.table_offset : end]
    else:
        table = read_exactly(fd, header.table_offset, header.table_size, name)
    return parse_table(header, table, length, name)


def read_exactly(fd: int, offset: int, size: int, name: str) -> bytes:
    """`size` bytes from `offset`, or ImageError if the file ends before (it shrank while being read)."""
    parts: list[bytes] = []
    missing = size
    while missing:
        part = os.pread(fd, min(missing, 1 << 24), offset)
        if not part:
            raise _truncated(name, os.fstat(fd).st_size, offset + missing)
        parts.append(part)
        offset += len(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _no_sif(name: str) -> ImageError:
    return ImageError(f"`{name}` is not a SIF file", why="it has no SIF header")


def parse_header(head: bytes, length: int, name: str) -> Header:
    """The header from the first bytes of a file of `length` bytes. Raises ImageError."""
    if len(head) < HEADER_SIZE:
        if head[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] != MAGIC:
            raise _no_sif(name)
        raise _truncated(name, length, None)
    (launch, magic, version, arch, uid, created, modified, free, total, t_off, t_size, d_off, d_size) = (
        HEADER.unpack_from(head)
    )
    if MAGIC not in head:
        raise _no_sif(name)
    if magic != MAGIC:
        raise _damaged(name, f"the SIF magic is not at byte {MAGIC_OFFSET}")
    if version != VERSION:
        shown = version.rstrip(b"\0").decode("ascii", "replace")
        raise ImageError(
            f"`{name}` is a SIF of version {shown!r}, which nobody here can read",
            why="this program knows version '01'",
        )
    if min(free, total, t_off, t_size, d_off, d_size) < 0:
        raise _damaged(name, "the SIF header holds a negative size or offset")
    if total > MAX_SLOTS:
        raise _damaged(name, f"the SIF header announces {total} descriptors, more than {MAX_SLOTS}")
    if t_size != total * DESCRIPTOR_SIZE:
        raise _damaged(name, f"the SIF table of {total} descriptors cannot have {t_size} bytes")
    if t_off < HEADER_SIZE:
        raise _damaged(name, "the SIF descriptors overlap the header")
    if t_off + t_size > length:
        # Where the table should be and where data should end agree in a file that was cut short.
        if t_off + t_size <= d_off + d_size < 1 << 63:
            raise _truncated(name, length, d_off + d_size)
        raise _damaged(name, f"the SIF descriptors end at byte {t_off + t_size} of a file of {length} bytes")
    if free > total:
        raise _damaged(name, f"the SIF header counts {free} free descriptors of {total}")
    return Header(
        launch=launch.rstrip(b"\0"),
        architecture=arch.rstrip(b"\0").decode("ascii", "replace"),
        id=uid,
        created=created,
        modified=modified,
        free=free,
        total=total,
        table_offset=t_off,
        table_size=t_size,
        data_offset=d_off,
        data_size=d_size,
    )


def parse_table(header: Header, table: bytes, length: int, name: str) -> Sif:
    """The objects, each of them inside the file. table: exactly header.table_size bytes. Raises ImageError."""
    objects: list[Descriptor] = []
    oddities: list[str] = []
    ids: set[int] = set()
    primaries = 0
    needed = 0
    for slot in range(header.total):
        start = slot * DESCRIPTOR_SIZE
        used = table[start + 4]
        if used == 0:
            continue
        item = parse_descriptor(table, start, slot)
        if used != 1:
            raise _damaged(name, f"descriptor {slot + 1} is neither used nor unused")
        _check_extent(item, header, name)
        needed = max(needed, item.end)
        if item.id in ids:
            raise _damaged(name, f"two data objects have the id {item.id}")
        ids.add(item.id)
        if item.id != slot + 1:
            oddities.append(f"the object in slot {slot + 1} has the id {item.id}")
        if item.type not in TYPES:
            oddities.append(f"object {item.id} has the unknown type {item.type:#x}")
        partition = item.partition
        if partition is not None and partition.role == PART_PRIMARY:
            primaries += 1
        objects.append(item)
    if needed > length:
        # A file cut short has a header that agrees with its table; one with a forged descriptor does not.
        if needed <= header.data_offset + header.data_size:
            raise _truncated(name, length, needed)
        raise _damaged(name, f"a data object ends at byte {needed} of a file of {length} bytes")
    if primaries > 1:
        raise _damaged(name, f"it has {primaries} primary partitions")
    unused = header.total - len(objects)
    if header.free != unused:
        told = f"the SIF header counts {header.free} free descriptors, the table has {unused}"
        # An edit that was cut off between table and header leaves them one apart.
        if abs(header.free - unused) > 1:
            raise _damaged(name, told)
        oddities.append(told)
    return Sif(header, tuple(objects), length, tuple(oddities))


def parse_descriptor(table: bytes, start: int, slot: int) -> Descriptor:
    (kind, _, id, group, link, offset, size, padded, created, modified, uid, gid, name, extra) = (
        DESCRIPTOR.unpack_from(table, start)
    )
    return Descriptor(
        slot=slot,
        type=kind,
        id=id,
        group=group & ID_MASK,
        link=link & ID_MASK,
        links_group=link & GROUP_MARK == GROUP_MARK,
        offset=offset,
        size=size,
        padded_size=padded,
        created=created,
        modified=modified,
        uid=uid,
        gid=gid,
        name=name.rstrip(b"\0").decode("utf-8", "surrogateescape"),
        extra=extra,
    )


def _check_extent(item: Descriptor, header: Header, name: str) -> None:
    if item.id == 0:
        raise _damaged(name, f"the object in slot {item.slot + 1} has the id 0")
    if item.offset < 0 or item.size < 0 or item.end >= 1 << 63:
        raise _damaged(name, f"object {item.id} has an impossible place ({item.offset}, {item.size} bytes)")
    table_end = header.table_offset + header.table_size
    if item.offset < HEADER_SIZE or (item.offset < table_end and item.end > header.table_offset):
        raise _damaged(name, f"object {item.id} overlaps the SIF header or its table")


def _damaged(name: str, why: str) -> ImageError:
    return ImageError(f"`{name}` is a damaged image", why=why, remedy="copy or pull the image again")


def _truncated(name: str, has: int, of: int | None) -> ImageError:
    extent = f"has {has} bytes, not even a whole header" if of is None else f"has {has} of {of} bytes"
    return ImageError(
        f"`{name}` is truncated: {extent}",
        why="a copy or download of it ended early",
        remedy="copy or pull the image again",
    )
