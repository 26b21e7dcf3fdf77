"""Digests of what a build takes from the host: files and whole directories, by name, mode and content, never by time or owner."""

from __future__ import annotations

import hashlib
import os
import stat

_CHUNK = 1 << 20


def of_file(path: str) -> str:
    """`sha256:…` of a file's content. Raises OSError."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_CHUNK):
            found.update(part)
    return f"sha256:{found.hexdigest()}"


def of_path(path: str) -> str:
    """Of a file its content's; of a directory one over everything below. Links on the way are followed, as `%files` does.

    Raises OSError for what cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        return of_file(path) if stat.S_ISREG(status.st_mode) else ""
    found = hashlib.sha256()
    _add(path, "", found, ())
    return f"sha256:{found.hexdigest()}"


def _add(path: str, name: str, found: hashlib._Hash, above: tuple[tuple[int, int], ...]) -> None:
    """Adds one line for the entry, and for those below, in the order of their names."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        found.update(f"dangling {name}\0".encode("utf-8", "surrogateescape"))
        return
    content = ""
    if stat.S_ISREG(status.st_mode):
        content = of_file(path)
    line = f"{stat.S_IFMT(status.st_mode):o} {stat.S_IMODE(status.st_mode):o} {content} {name}\0"
    found.update(line.encode("utf-8", "surrogateescape"))
    here = (status.st_dev, status.st_ino)
    if stat.S_ISDIR(status.st_mode) and here not in above:
        for entry in sorted(os.listdir(path)):
            _add(f"{path}/{entry}", f"{name}/{entry}", found, (*above, here))
