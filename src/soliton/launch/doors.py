"""The door of a container in the background, from outside: where those of its user who want to come in get its namespaces.

A socket with a name but without a file (unix(7), "abstract"): it is gone with whoever listens there, however that comes
about, and of many who want to make the same one, one can. `core/src/launch/door.rs` is what answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys

from soliton.errors import SolitonError

#: The order of the core's (core/src/launch/join.rs).
_NAMESPACES = ("user", "ipc", "uts", "net", "cgroup", "pid_for_children", "mnt")


def make(name: str) -> socket.socket | None:
    """A door of this name, which does not block; None if there is one already."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(f"\0{name}")
        door.listen(socket.SOMAXCONN)
        door.setblocking(False)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return door


def knock(name: str, token: str) -> socket.socket | None:
    """A visitor at the door; None if nobody is there."""
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        visitor.connect(f"\0{name}")
        if _owner(visitor) not in (os.geteuid(), 0):
            raise SolitonError(
                "the container cannot be joined",
                why="a process of another user has taken the name of its socket",
            )
        visitor.sendall(token.encode("ascii"))
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, FileNotFoundError):
        visitor.close()
        return None
    except BaseException:
        visitor.close()
        raise
    return visitor


def _owner(visitor: socket.socket) -> int:
    credentials = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)


def come_in(visitor: socket.socket) -> list[int]:
    """Descriptors of the container's namespaces, in the core's order; none if the door has been closed meanwhile."""
    with contextlib.suppress(ConnectionResetError):
        _, descriptors, _, _ = socket.recv_fds(visitor, 1, len(_NAMESPACES))
        if len(descriptors) == len(_NAMESPACES):
            return descriptors
        for fd in descriptors:
            os.close(fd)
    return []


def pid_namespace(name: str, token: str) -> str | None:
    """The PID namespace behind a door, as links in /proc/PID/ns name it."""
    visitor = knock(name, token)
    if visitor is None:
        return None
    with visitor:
        descriptors = come_in(visitor)
    inode = None
    for kind, fd in zip(_NAMESPACES, descriptors, strict=False):
        if kind == "pid_for_children":
            inode = os.fstat(fd).st_ino
        os.close(fd)
    return None if inode is None else f"pid:[{inode}]"
