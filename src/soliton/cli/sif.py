"""`sif` (`siftool`): look into a SIF file, and change what it holds."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

from soliton.cli.sif_text import (
    FILE_SYSTEMS,
    HASHES,
    ROLES,
    SBOM_FORMATS,
    TYPES,
    header_text,
    info_text,
    listing,
)
from soliton.errors import ImageError, SolitonError, UsageError
from soliton.images import architecture, sif
from soliton.images.copying import copy
from soliton.images.detect import looks_like_ext3
from soliton.images.sif import Descriptor, Sif
from soliton.images.sif_write import NewObject
from soliton.images.squashfs import check_superblock
from soliton.record import replace

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation


def list_(invocation: Invocation) -> int:
    sys.stdout.write(listing(_load(invocation.positionals[0])))
    return 0


def header(invocation: Invocation) -> int:
    sys.stdout.write(header_text(_load(invocation.positionals[0])))
    return 0


def info(invocation: Invocation) -> int:
    number, path = invocation.positionals
    sys.stdout.write(info_text(_object(_load(path), number, path)))
    return 0


def dump(invocation: Invocation) -> int:
    """The bytes of one object to stdout, copied by the kernel where it can."""
    number, path = invocation.positionals
    fd = _open(path)
    try:
        item = _object(sif.read(fd, path), number, path)
        sys.stdout.flush()
        copy(fd, item.offset, item.size, sys.stdout.fileno(), path)
    finally:
        os.close(fd)
    return 0


def new(invocation: Invocation) -> int:
    from soliton.images import sif_edit

    sif_edit.create(invocation.positionals[0])
    return 0


def add(invocation: Invocation) -> int:
    from soliton.images import sif_edit

    path, name = invocation.positionals
    alignment = invocation.integer("alignment") or None
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as source:
            if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                item = new_object(invocation, source, os.path.basename(name))
                sif_edit.add(path, item, alignment=alignment, source=source.fileno())
            else:
                data = io.BytesIO(source.read())
                item = new_object(invocation, data, "")
                sif_edit.add(path, replace(item, data=data.getvalue()), alignment=alignment)
    except OSError as error:
        raise SolitonError(f"`{name}` cannot be read", why=error.strerror) from None
    return 0


def delete(invocation: Invocation) -> int:
    from soliton.images import sif_edit

    number, path = invocation.positionals
    sif_edit.delete(path, _id(number))
    return 0


def set_primary(invocation: Invocation) -> int:
    from soliton.images import sif_edit

    number, path = invocation.positionals
    sif_edit.set_primary(path, _id(number))
    return 0


def new_object(invocation: Invocation, source: IO[bytes], name: str) -> NewObject:
    """The object that the options of `sif add` describe, without its data; numbers are those of the peers' command
    line. source: what will be the data, at its start.
    """
    number = invocation.integer("datatype") or 0
    kind = sif.DEFINITION - 1 + number
    if kind not in sif.TYPES:
        names = ", ".join(f"{kind - sif.DEFINITION + 1} {name}" for kind, name in TYPES.items())
        raise UsageError("`--datatype` has to say what is added", why=names)
    extra = b""
    if kind == sif.PARTITION:
        fs, role, arch = (invocation.integer(option) or 0 for option in ("partfs", "parttype", "partarch"))
        code = f"{arch:02}"
        if fs not in FILE_SYSTEMS or role not in ROLES or architecture.from_sif_code(code) is None:
            raise UsageError(
                "a partition needs `--partfs`, `--parttype` and `--partarch`",
                why=f"{_choices(FILE_SYSTEMS)}; {_choices(ROLES)}; "
                + ", ".join(f"{int(code)} {name}" for name, code in architecture.SIF_CODES.items()),
            )
        _require_file_system(fs, source, name or "what is to be added")
        extra = sif.Partition(fs, role, code).pack()
    elif kind == sif.SIGNATURE:
        extra = _signature_extra(invocation.integer("signhash") or 0, invocation.text("signentity") or "")
    elif kind == sif.CRYPTO_MESSAGE:
        extra = struct.pack("<ii", 2, 0x200)
    elif kind == sif.SBOM:
        formats = {name: number for number, name in SBOM_FORMATS.items()}
        wanted = invocation.text("sbomformat") or ""
        if wanted not in formats:
            raise UsageError("an SBOM needs `--sbomformat`", why=f"one of {', '.join(formats)}")
        extra = struct.pack("<i", formats[wanted])
    elif kind in (sif.OCI_ROOT_INDEX, sif.OCI_BLOB):
        extra = b"sha256:" + _sha256(source)
    return NewObject(
        kind,
        b"",
        name=invocation.text("filename") or name,
        extra=extra,
        group=_field(invocation, "group", 1),
        link=_field(invocation, "link", 0),
    )


def _require_file_system(fs: int, source: IO[bytes], name: str) -> None:
    """Raises for a partition that nobody could read: the whole image would be refused for it later."""
    head = source.read(2048)
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    said = f"`--partfs {fs}` says that it is"
    if fs == sif.FS_SQUASHFS:
        if head[:4] != b"hsqs":
            raise SolitonError(f"`{name}` is not a squashfs file system", why=said)
        check_superblock(head, size, name, "it")
    elif fs == sif.FS_EXT3 and not looks_like_ext3(head):
        raise SolitonError(
            f"`{name}` is not an ext3 file system",
            why=f"{said}; it has no journal, or something that only ext4 knows",
            remedy="make one with `overlay create` or `mkfs.ext3`",
        )


def _sha256(source: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while data := source.read(1 << 20):
        digest.update(data)
    return digest.hexdigest().encode()


def _field(invocation: Invocation, option: str, default: int) -> int:
    value = invocation.integer(option)
    if value is None or option not in invocation.given:
        return default
    if not 0 <= value <= sif.ID_MASK:
        raise UsageError(f"`--{option} {value}` is outside 0 to {sif.ID_MASK}")
    return value


def _signature_extra(number: int, entity: str) -> bytes:
    try:
        fingerprint = bytes.fromhex(entity)
    except ValueError:
        fingerprint = b""
    if number not in HASHES or len(fingerprint) != 20:
        raise UsageError(
            "a signature needs `--signhash` and `--signentity`",
            why=f"{_choices(HASHES)}; a fingerprint of 40 hexadecimal digits",
        )
    return struct.pack("<i", number) + fingerprint


def _choices(names: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name.lstrip('*')}" for number, name in names.items())


def _id(number: str) -> int:
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"`{number}` is not the number of a data object")
    return int(number)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"`{path}` cannot be opened", why=error.strerror) from None
    return fd


def _load(path: str) -> Sif:
    fd = _open(path)
    try:
        return sif.read(fd, path)
    except OSError as error:
        raise ImageError(f"`{path}` cannot be read", why=error.strerror) from None
    finally:
        os.close(fd)


def _object(image: Sif, number: str, path: str) -> Descriptor:
    item = image.by_id(_id(number))
    if item is None:
        known = ", ".join(str(item.id) for item in image.objects)
        raise SolitonError(f"there is no data object {number} in `{path}`", why=f"it has {known or 'none'}")
    return item
