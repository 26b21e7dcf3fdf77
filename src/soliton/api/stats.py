"""What an instance uses: from its control group if it has one of its own, else summed over its processes.

Peers know only the first, and have nothing to say of an instance without limits. The sum counts what processes share once (their
proportional set sizes) where the kernel lets it be read.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soliton.errors import SolitonError
from soliton.launch import doors
from soliton.launch.instance import Instance, stat_fields
from soliton.site import cgroups

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """cpu: nanoseconds so far. at: when that was read (monotonic, ns). memory, limit, read, written: bytes. tasks: threads."""

    cpu: int
    at: int
    memory: int
    limit: int
    read: int
    written: int
    tasks: int

    def share_since(self, earlier: Usage) -> float:
        """Per cent of one processor."""
        return 100 * (self.cpu - earlier.cpu) / max(1, self.at - earlier.at)

    def as_peers(self) -> Mapping[str, Any]:
        """The part of the OCI library's record that is known here."""
        return {
            "cpu_stats": {"cpu_usage": {"total_usage": self.cpu}},
            "memory_stats": {"usage": {"usage": self.memory, "limit": self.limit}},
            "pids_stats": {"current": self.tasks},
            "blkio_stats": {
                "io_service_bytes_recursive": [
                    {"major": 0, "minor": 0, "op": "read", "value": self.read},
                    {"major": 0, "minor": 0, "op": "write", "value": self.written},
                ]
            },
        }


def usage(instance: Instance) -> Usage:
    """Raises SolitonError if the instance has ended."""
    found = _of_processes(instance)
    if instance.cgroup is not None:
        with contextlib.suppress(SolitonError, OSError):
            return _of_group(cgroups.look().mount + instance.cgroup, found)
    return found


def _of_group(folder: str, otherwise: Usage) -> Usage:
    """Of a control group; what its controllers do not count is taken from the processes."""

    def number(name: str) -> int | None:
        try:
            with open(os.path.join(folder, name), encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    with open(os.path.join(folder, "cpu.stat"), encoding="ascii") as file:
        cpu = next(int(line.split()[1]) * 1000 for line in file if line.startswith("usage_usec"))
    at = time.monotonic_ns()
    read, written = otherwise.read, otherwise.written
    with contextlib.suppress(OSError), open(os.path.join(folder, "io.stat"), encoding="ascii") as file:
        words = [word.partition("=") for word in file.read().split()]
        read = sum(int(value) for key, _, value in words if key == "rbytes")
        written = sum(int(value) for key, _, value in words if key == "wbytes")
    memory, tasks = number("memory.current"), number("pids.current")
    return Usage(
        cpu,
        at,
        otherwise.memory if memory is None else memory,
        number("memory.max") or otherwise.limit,
        read,
        written,
        otherwise.tasks if tasks is None else tasks,
    )


def _of_processes(instance: Instance) -> Usage:
    monitor = instance.monitor
    if monitor is None or not monitor.lives():
        raise SolitonError(f"instance `{instance.name}` has no statistics", why="it has ended", status=1)
    ticks = memory = read = written = tasks = 0
    for pid in _inside(instance):
        fields = stat_fields(pid)
        if not fields:
            continue
        # Its own time, and that of children that have ended.
        ticks += sum(int(fields[index]) for index in (11, 12, 13, 14))
        tasks += int(fields[17])
        memory += _memory(pid, int(fields[21]) * _PAGE)
        counts = _counts(f"/proc/{pid}/io")
        read += counts.get("read_bytes", 0)
        written += counts.get("write_bytes", 0)
    return Usage(
        ticks * 10**9 // _TICKS,
        time.monotonic_ns(),
        memory,
        _counts("/proc/meminfo").get("MemTotal", 0) * 1024,
        read,
        written,
        tasks,
    )


def _inside(instance: Instance) -> list[int]:
    """Process 1, all that descend from it, and those that have joined."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            parents[int(entry)] = int(fields[1])
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found = [instance.pid]
    for pid in found:
        found += children.get(pid, [])
    known = set(found)
    namespace = doors.pid_namespace(instance.door, instance.token)
    for pid in parents:
        if pid not in known and namespace is not None and _namespace(f"/proc/{pid}/ns/pid") == namespace:
            found.append(pid)
    return found


def _namespace(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _memory(pid: int, resident: int) -> int:
    proportional = _counts(f"/proc/{pid}/smaps_rollup").get("Pss")
    return resident if proportional is None else proportional * 1024


def _counts(path: str) -> dict[str, int]:
    """Lines `name: number …`."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdigit():
                found[key] = int(words[0])
    return found
