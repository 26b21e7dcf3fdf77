"""The images that the caller's containers share on this node: which they are, and letting go of them.

Each is served by a process that listens in the private directory of the user (`core/src/shared`). Which process that is the kernel
tells of its socket; the image, the mounts of that process; who uses it, the user namespaces of all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import struct
import time
from dataclasses import dataclass

from soliton.errors import SolitonError
from soliton.launch.shortcut import STORE_VARIABLE

_FOLDER = "mounts"
#: A server that was asked to let go does so at once, unless a launch is just joining.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Mounted:
    """image: its path when it was mounted. pid: of the server. processes: of containers in its user namespace, which those of
    other images of the same job share."""

    image: str
    pid: int
    processes: int


def mounted() -> list[Mounted]:
    """What is mounted now, by path. A server that has died is none."""
    folder = _folder()
    if folder is None:
        return []
    try:
        found = []
        for name in sorted(os.listdir(folder)):
            pid = None if "." in name else _listening(folder, name)
            image = _image_of(pid) if pid else None
            if pid and image:
                found.append(Mounted(image, pid, _users_of(pid)))
        return sorted(found, key=lambda mount: (mount.image, mount.pid))
    finally:
        os.close(folder)


def stop(mount: Mounted) -> None:
    """Lets go of a mount, which who has it in use keeps. Raises SolitonError if it is not let go of."""
    until = time.monotonic() + _PATIENCE
    with contextlib.suppress(ProcessLookupError):
        os.kill(mount.pid, signal.SIGTERM)
    while any(other.pid == mount.pid for other in mounted()):
        if time.monotonic() > until:
            raise SolitonError(
                f"`{mount.image}` is not let go of",
                why=f"process {mount.pid} does not react",
                remedy=f"end it with `kill -9 {mount.pid}`; containers that use it lose their files then",
            )
        time.sleep(0.02)


def _folder() -> int | None:
    """The directory of the sockets, open; None where there is none or it is not to be trusted."""
    path = os.environ.get(STORE_VARIABLE, f"/tmp/soliton-{os.geteuid()}")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        store = os.open(path, flags)
        try:
            folder = os.open(_FOLDER, flags, dir_fd=store) if _is_private(store) else None
        finally:
            os.close(store)
    except OSError:
        return None
    if folder is not None and not _is_private(folder):
        os.close(folder)
        return None
    return folder


def _is_private(folder: int) -> bool:
    status = os.fstat(folder)
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def _listening(folder: int, name: str) -> int | None:
    """The process behind a socket; None where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            channel.connect(f"/proc/self/fd/{folder}/{name}")
            credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid if uid == os.geteuid() and pid else None


def _image_of(pid: int) -> str | None:
    """What a server has mounted: the source of the one file system that soliton serves there."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                kind, _, rest = line.partition(" - ")[2].partition(" ")
                if kind == "fuse.soliton":
                    return _unescaped(rest.split(" ")[0])
    except OSError:
        pass
    return None


def _unescaped(text: str) -> str:
    """Blanks and the like are octal in /proc/PID/mountinfo."""
    for character in " \t\n":
        text = text.replace(f"\\{ord(character):03o}", character)
    return text.replace("\\134", "\\")


def _is_server(pid: str) -> bool:
    with open(f"/proc/{pid}/comm", "rb") as comm:
        return comm.read() == b"soliton-image\n"


def _users_of(server: int) -> int:
    """Processes in the user namespace of a server that are no servers."""
    try:
        own = os.stat(f"/proc/{server}/ns/user")
    except OSError:
        return 0
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != server:
            with contextlib.suppress(OSError):
                joined = os.path.samestat(os.stat(f"/proc/{name}/ns/user"), own)
                count += joined and not _is_server(name)
    return count
