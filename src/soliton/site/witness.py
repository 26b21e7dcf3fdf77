"""Which files were looked at while a plan was made: what the plan depends on, noted before it is read.

The interpreter tells of everything that is opened or listed (`sys.addaudithook`), so no reader of a configuration has to
remember to say so. Whatever else reaches out of the process makes the plan one of a kind that is not stored. Only installed
where a plan may be stored (`launch/shortcut.py`); it cannot be taken back, and costs a call for each event.
"""

from __future__ import annotations

import os
import sys

#: What the C library reads to name a user, and does not tell of.
NAME_SERVICES = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")
#: Facts of this process that the core fills in or that are part of a plan's name.
_FILLED_IN = ("/proc/self/status", "/proc/self/uid_map")
_REACHING_OUT = (
    "subprocess.",
    "socket.connect",
    "socket.sendto",
    "socket.getaddrinfo",
    "os.posix_spawn",
    "os.fork",
    "os.system",
)

#: What is told before something is found out about a path without opening it (`program` in `site/host.py`).
_LOOKED_AT = "soliton.looked_at"

Status = tuple[int, int, int, int, int, int]


def status_of(path: str) -> Status | None:
    """What shows that a file has changed; None where nothing is. Follows links. Raises OSError."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return as_status(found)


def as_status(found: os.stat_result) -> Status:
    return (found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Witness:
    """files: every path looked at since, with its status before. reason: why the plan cannot be stored, once there is one."""

    __slots__ = ("_own", "_watching", "files", "reason")

    def __init__(self) -> None:
        self.files: dict[str, Status | None] = {}
        self.reason = ""
        #: The interpreter and its library: an upgrade of them is one of soliton, as it shows in the program itself.
        self._own = tuple(
            {f"{path}/" for path in (sys.prefix, sys.base_prefix + "/lib", sys.base_exec_prefix + "/lib")}
        )
        self._watching = True
        for path in NAME_SERVICES:
            self.note(path)
        sys.addaudithook(self._hear)

    def note(self, path: str) -> None:
        """Remembers how a file looks before it is read."""
        if path not in self.files:
            try:
                self.files[path] = status_of(path)
            except OSError as error:
                self.reason = f"{path}: {error.strerror}"

    def end(self) -> None:
        self._watching = False

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watching:
            return
        if event in ("open", "os.listdir", "os.scandir"):
            path = arguments[0]
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if not isinstance(path, str):
                if path is None or not isinstance(path, int):
                    self.reason = f"{event} of {path!r}"
                return
            if path.startswith(self._own) or path.endswith((".py", ".pyc")) or path in _FILLED_IN:
                return
            if event == "open" and path.startswith(("/proc/", "/sys/")):
                self.reason = f"{path} was read"
            else:
                self.note(path)
        elif event == _LOOKED_AT:
            self.note(str(arguments[0]))
        elif event.startswith(_REACHING_OUT):
            self.reason = event
