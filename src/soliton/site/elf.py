"""The few facts of a shared library that decide whether it can be shown to a container. Reads headers, never all of a file."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import IO

#: Larger tables than this are no honest library's.
_LARGEST = 16 << 20
_DYNAMIC, _VERSIONS_NEEDED = 6, 0x6FFFFFFE


@dataclass(frozen=True)
class Library:
    """machine: e_machine. bits: 32 or 64. soname: its own name. glibc: the newest glibc that it needs, (0, 0) for any."""

    machine: int
    bits: int
    soname: str | None
    glibc: tuple[int, int]


def own_machine() -> tuple[int, int]:
    """e_machine and bits of the programs of this machine."""
    library = read("/proc/self/exe")
    return (library.machine, library.bits) if library else (0, 0)


def read(path: str) -> Library | None:
    """What the file says of itself; None if it is no ELF file of this machine's byte order."""
    try:
        with open(path, "rb") as file:
            return _read(file)
    except (OSError, struct.error, ValueError, UnicodeDecodeError, IndexError, MemoryError):
        return None


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    if size > _LARGEST:
        raise ValueError("too large")
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise ValueError("too short")
    return data


def _read(file: IO[bytes]) -> Library | None:
    head = file.read(64)
    if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] != 1:
        return None
    wide = head[4] == 2
    (machine,) = struct.unpack_from("<H", head, 18)
    if wide:
        (table,) = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        form, minimum = "<IIQQQQII", 64
    else:
        (table,) = struct.unpack_from("<I", head, 32)
        size, count = struct.unpack_from("<HH", head, 46)
        form, minimum = "<IIIIIIII", 40
    sections = []
    if table and size >= minimum:
        data = _at(file, table, size * count)
        sections = [struct.unpack_from(form, data, index * size) for index in range(count)]
    soname: str | None = None
    glibc = (0, 0)
    for section in sections:
        _, kind, _, _, offset, length, link, info = section
        if kind not in (_DYNAMIC, _VERSIONS_NEEDED) or not 0 < link < len(sections):
            continue
        names = _at(file, sections[link][4], sections[link][5])
        content = _at(file, offset, length)
        if kind == _DYNAMIC:
            for tag, value in struct.iter_unpack("<QQ" if wide else "<II", content):
                if tag == 14:
                    soname = _name(names, value)
        else:
            glibc = max(glibc, _newest(content, names, info))
    return Library(machine, 64 if wide else 32, soname, glibc)


def _name(names: bytes, offset: int) -> str:
    return names[offset : names.index(b"\0", offset)].decode("ascii")


def _newest(content: bytes, names: bytes, count: int) -> tuple[int, int]:
    """The greatest GLIBC_x.y among the versions needed."""
    newest = (0, 0)
    at = 0
    for _ in range(min(count, 1000)):
        _, entries, _, first, following = struct.unpack_from("<HHIII", content, at)
        entry = at + first
        for _ in range(entries):
            _, _, _, name, step = struct.unpack_from("<IHHII", content, entry)
            major, _, minor = _name(names, name).removeprefix("GLIBC_").partition(".")
            if _name(names, name).startswith("GLIBC_") and major.isdigit() and minor.split(".")[0].isdigit():
                newest = max(newest, (int(major), int(minor.split(".")[0])))
            if not step:
                break
            entry += step
        if not following:
            break
        at += following
    return newest
