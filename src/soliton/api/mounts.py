"""The images that the caller's containers share on this node: which they are, and letting go of them.

Each is served by a process that listens in the private directory of the user (`core/src/shared`). Which process that is the kernel
tells of its socket; the image, the mounts of that process; who uses it, the mounts of all in its user namespace. A process without
any image holds that namespace for containers from directories; it is named by a link.
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
#: How the name of a server ends that has no image (`core/src/shared/key.rs`).
_WITHOUT_IMAGE = "-namespace"
#: A server that was asked to let go does so at once, unless a launch is just joining. Looks, so many seconds apart, and not time: on a
#: machine that stood still for a while it had none.
_LOOKS, _STEP = 250, 0.02


@dataclass(frozen=True)
class Mounted:
    """image: its path when it was mounted; None where containers from directories share nothing but their user namespace.
    pid: of the server. processes: of containers that use it."""

    image: str | None
    pid: int
    processes: int

    @property
    def title(self) -> str:
        return self.image or "(containers from directories)"


def mounted() -> list[Mounted]:
    """What is mounted now, by path. A server that has died is none."""
    folder = _folder()
    if folder is None:
        return []
    try:
        servers: dict[int, _Mount | None] = {}
        for name in sorted(os.listdir(folder)):
            if "." in name:
                continue
            if name.endswith(_WITHOUT_IMAGE):
                if pid := _holding(folder, name):
                    servers[pid] = None
            elif (pid := _listening(folder, name)) and (mount := _mount_of(pid)):
                servers[pid] = mount
    finally:
        os.close(folder)
    users = _users(servers)
    found = [Mounted(mount.image if mount else None, pid, users[pid]) for pid, mount in servers.items()]
    return sorted(found, key=lambda mount: (mount.image or "", mount.pid))


def stop(mount: Mounted) -> None:
    """Lets go of a mount, which who has it in use keeps. Raises SolitonError if it is not let go of."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(mount.pid, signal.SIGTERM)
    for _ in range(_LOOKS):
        if all(other.pid != mount.pid for other in mounted()):
            return
        time.sleep(_STEP)
    raise SolitonError(
        f"`{mount.title}` is not let go of",
        why=f"process {mount.pid} does not react",
        remedy=f"end it with `kill -9 {mount.pid}`"
        + ("; containers that use it lose their files then" if mount.image else ""),
    )


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


def _holding(folder: int, name: str) -> int | None:
    """The process that a link names as holding a user namespace (`core/src/shared/namespace.rs`); None where it has ended."""
    try:
        pid, _, inode = os.readlink(name, dir_fd=folder).partition(":")
    except OSError:
        return None
    there = _namespace(pid) if pid.isdigit() else None
    return int(pid) if there and str(there[1]) == inode else None


@dataclass(frozen=True)
class _Mount:
    """marks: of which one is in the /proc/PID/mountinfo of whoever has it, as a mount or as a layer of an overlay."""

    image: str
    marks: tuple[str, str]


def _mount_of(pid: int) -> _Mount | None:
    """What a server has mounted: the one file system that soliton serves there."""
    for line in _text(f"/proc/{pid}/mountinfo").splitlines():
        kind, _, rest = line.partition(" - ")[2].partition(" ")
        if kind == "fuse.soliton":
            device = line.split(" ")[2]
            # As `core/src/shared/users.rs` names layers.
            marks = (f" {device} ", f"image.{device.replace(':', '.')}.layer")
            return _Mount(_unescaped(rest.split(" ")[0]), marks)
    return None


def _unescaped(text: str) -> str:
    """Blanks and the like are octal in /proc/PID/mountinfo."""
    for character in " \t\n":
        text = text.replace(f"\\{ord(character):03o}", character)
    return text.replace("\\134", "\\")


def _users(servers: dict[int, _Mount | None]) -> dict[int, int]:
    """For each server how many processes use it: those that have its image or, where it has none, those in its user namespace
    that have no image of another server's."""
    count = dict.fromkeys(servers, 0)
    namespaces = {pid: _namespace(pid) for pid in servers}
    for name in os.listdir("/proc"):
        namespace = _namespace(name) if name.isdigit() else None
        here = [pid for pid in servers if namespace and namespaces[pid] == namespace]
        if not here or _text(f"/proc/{name}/comm").startswith("soliton-"):
            continue
        mounts = _text(f"/proc/{name}/mountinfo")
        having = [
            pid for pid in here if (mount := servers[pid]) and any(mark in mounts for mark in mount.marks)
        ]
        for pid in having or [pid for pid in here if servers[pid] is None]:
            count[pid] += 1
    return count


def _namespace(pid: int | str) -> tuple[int, int] | None:
    """The user namespace of a process."""
    try:
        found = os.stat(f"/proc/{pid}/ns/user")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
