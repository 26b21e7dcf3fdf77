"""Dates in what package managers write down of their packages, replaced by the image's own time.

These files are needed, so they cannot be left out as logs are (`traces`); `--keep-logs` leaves them alone. Whatever lies there
was written inside: no link is followed, and what cannot be read or is larger than such files are stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator

#: More than any of these files has.
LARGEST = 4 << 20
#: More packages than any system has.
MOST = 100_000
_INSTALLED = re.compile(rb"(?m)^(%INSTALLDATE%\n)[0-9]{1,12}$")
_GENERATED = re.compile(rb"(?m)^(# AutoInstalled generated) .*$")


def settle(directory: str, epoch: int) -> None:
    """Sees to the files in a root, or in what a step has written."""
    date = str(epoch).encode()
    with _folder(directory, "var/lib/pacman/local") as local:
        for package in _names(local):
            _rewrite(local, f"{package}/desc", lambda data: _INSTALLED.sub(rb"\g<1>" + date, data))
    with _folder(directory, "var/lib/zypp") as zypp:
        _rewrite(zypp, "AutoInstalled", lambda data: _GENERATED.sub(rb"\1", data))


@contextlib.contextmanager
def _folder(directory: str, path: str) -> Iterator[int | None]:
    """A directory below another, reached without links; None if there is none."""
    fd: int | None = None
    try:
        with contextlib.suppress(OSError):
            fd = _descend(directory, path)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _descend(directory: str, path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(directory, flags)
    for part in path.split("/"):
        try:
            below = os.open(part, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _names(folder: int | None) -> list[str]:
    if folder is None:
        return []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(MOST), strict=False)]
    return []


def _rewrite(folder: int | None, path: str, change: Callable[[bytes], bytes]) -> None:
    """In place: owner, mode and attributes stay."""
    if folder is None:
        return
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        parent, _, name = path.rpartition("/")
        where = _open_below(folder, parent)
        try:
            with os.fdopen(os.open(name, flags, dir_fd=where), "r+b") as file:
                data = file.read(LARGEST + 1)
                changed = change(data)
                if len(data) <= LARGEST and changed != data:
                    file.seek(0)
                    file.write(changed)
                    file.truncate()
        finally:
            os.close(where)


def _open_below(folder: int, name: str) -> int:
    if not name:
        return os.dup(folder)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
