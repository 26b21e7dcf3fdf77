"""What a tree holds, entry by entry, so that two trees can be compared."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """content: digest of a file, target of a link, number of a device. links: the first path of the same inode."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    links: str


def read_tree(root: Path, *, ignore_xattrs: tuple[str, ...] = ()) -> dict[str, Entry]:
    """Every entry below `root`, by its path relative to it; the root itself is "."."""
    first_of: dict[tuple[int, int], str] = {}
    found: dict[str, Entry] = {}
    top = os.fsencode(root)

    def visit(path: bytes, name: str) -> None:
        info = os.lstat(path)
        kind = stat.filemode(info.st_mode)[0]
        if kind == "-":
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        elif kind == "l":
            content = os.fsdecode(os.readlink(path))
        elif kind in "bc":
            content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        else:
            content = ""
        links = ""
        if kind != "d" and info.st_nlink > 1:
            links = first_of.setdefault((info.st_dev, info.st_ino), name)
        xattrs = []
        if kind in "-d":
            for key in sorted(_attributes(path)):
                if key not in ignore_xattrs:
                    xattrs.append((key, os.getxattr(path, key, follow_symlinks=False)))
        found[name] = Entry(
            kind,
            stat.S_IMODE(info.st_mode),
            (info.st_uid, info.st_gid),
            int(info.st_mtime),
            content,
            tuple(xattrs),
            links,
        )
        if kind == "d":
            for child in sorted(os.listdir(path)):
                visit(os.path.join(path, child), os.path.join(name, os.fsdecode(child)))

    visit(top, ".")
    return found


def _attributes(path: bytes) -> list[str]:
    """The kernel knows none at all in an image that has none."""
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
