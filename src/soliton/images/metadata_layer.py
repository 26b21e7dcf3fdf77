"""Files of soliton's own making as a layer: a small tar, the same bytes for the same entries.

`metadata` and `scripts` say what an image has beside what its source brought; this module only packs that. Everything
belongs to 0:0 and has one time.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Folder:
    """path: absolute inside the image, as everywhere here."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True)
class File:
    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


Entry = Folder | File | Link


def layer(entries: Iterable[Entry], *, time: int = 0) -> bytes:
    """An uncompressed tar of the entries, parents first; of two entries with one path the later counts.

    time: of every file, Unix seconds; negative ones become 0, as tar has none.
    """
    chosen = {entry.path: entry for entry in entries}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for path in sorted(chosen, key=lambda p: p.split("/")):
            entry = chosen[path]
            member = tarfile.TarInfo(path.strip("/"))
            member.mtime = max(time, 0)
            data = b""
            match entry:
                case Folder():
                    member.type = tarfile.DIRTYPE
                    member.mode = entry.mode
                case File():
                    data = entry.data
                    member.size = len(data)
                    member.mode = entry.mode
                case Link():
                    member.type = tarfile.SYMTYPE
                    member.linkname = entry.target
                    member.mode = 0o777
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
