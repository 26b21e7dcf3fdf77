"""What runs on this machine, as tests look at it.

Others run programs at the same time, the same tests among them, so only this user's processes count. They and what they have open
come and go while one looks: what is gone is passed over, and nothing beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def own() -> Iterator[int]:
    """Processes of this user's that have not ended. Where nobody may look into one its entry is root's, and its status is not."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = status(int(entry.name))
            if fields and fields["Uid"].split()[0] == str(os.getuid()) and fields["State"][0] not in "ZX":
                yield int(entry.name)


def status(pid: object) -> dict[str, str]:
    """The fields of /proc/PID/status; none if there is no such process."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "Uid" in fields:
            return fields
    return {}


def name_of(pid: object) -> str:
    """What a process is called; nothing if there is none."""
    return status(pid).get("Name", "")


def command_of(pid: object) -> list[str]:
    """Its words; none if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def ended(pid: object) -> bool:
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    return status(pid).get("State", "X")[0] in "ZX"


def has_open(pid: int, wanted: Callable[[Path], bool]) -> bool:
    """Whether anything that a process has open is what is wanted. One that may not be looked into has nothing."""
    descriptors: list[Path] = []
    with contextlib.suppress(OSError):
        descriptors += Path(f"/proc/{pid}/fd").iterdir()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if wanted(descriptor):
                return True
    return False
