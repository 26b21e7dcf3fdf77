"""Whether a file speaks for the site: it is root's, and so is the way to it, and nobody else can write there."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def distrust(path: str) -> str | None:
    """Why the file at `path` does not speak for the site: a clause; None if it does.

    Every directory on the way counts, on the way as it is written and on the way that links lead.
    """
    owners = roots()
    for place in _way(path):
        try:
            status = os.stat(place)
        except OSError as error:
            return f"`{place}`: {error.strerror}"
        if status.st_uid not in owners:
            return f"`{place}` belongs to {_name(status.st_uid)}, not to root"
        if status.st_mode & _OTHERS_WRITE:
            return f"`{place}` can be written by others than root"
    return None


def _way(path: str) -> Iterator[str]:
    real = os.path.realpath(path)
    seen: set[str] = set()
    for place in (real, os.path.dirname(os.path.abspath(path)), os.path.dirname(real)):
        while place not in seen:
            seen.add(place)
            yield place
            place = os.path.dirname(place)


def roots() -> frozenset[int]:
    """The numbers under which files of root appear: inside a user namespace that root is not mapped to, as nobody's."""
    try:
        with open("/proc/self/uid_map", "rb") as table:
            if table.read().split() == [b"0", b"0", b"4294967295"]:
                return frozenset({0})
        with open("/proc/sys/kernel/overflowuid", "rb") as number:
            return frozenset({0, int(number.read())})
    except (OSError, ValueError):
        return frozenset({0})


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
