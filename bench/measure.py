"""How a command is timed: whole processes, several runs, medians; memory as the sum over the process tree."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """seconds: wall time of each run. memory: largest sum of resident bytes, file pages not counted."""

    seconds: tuple[float, ...]
    memory: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def _tree_memory(root: int) -> int:
    """Anonymous and shared-memory resident bytes of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    memory: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            status = Path(f"/proc/{entry}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        pid = int(entry)
        children.setdefault(int(fields["PPid"]), []).append(pid)
        memory[pid] = sum(int(fields[k].split()[0]) * 1024 for k in ("RssAnon", "RssShmem") if k in fields)
    total, queue = 0, [root]
    while queue:
        pid = queue.pop()
        total += memory.get(pid, 0)
        queue.extend(children.get(pid, ()))
    return total


def once(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, watch_memory: bool = False
) -> tuple[float, int]:
    """Runs a command that must succeed; its wall time and, if asked, its largest memory."""
    peak = 0
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, _tree_memory(process.pid))

    watcher = threading.Thread(target=watch)
    if watch_memory:
        watcher.start()
    assert process.stderr is not None
    errors = process.stderr.read()
    status = process.wait()
    elapsed = time.perf_counter() - start
    done.set()
    if watch_memory:
        watcher.join()
    if status != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: status {status}\n{errors.decode(errors='replace')}"
        )
    return elapsed, peak


def repeat(
    command: Sequence[str | Path],
    runs: int,
    *,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    warm: bool = True,
    watch_memory: bool = False,
) -> Sample:
    """`runs` timed runs, after one that is not counted if `warm`; `before` is called ahead of each."""
    times, peak = [], 0
    for run in range(runs + warm):
        if before is not None:
            before()
        elapsed, memory = once(command, env=env, watch_memory=watch_memory)
        if run >= warm:
            times.append(elapsed)
            peak = max(peak, memory)
    return Sample(tuple(times), peak)


def device_sectors(path: Path) -> int | None:
    """Sectors of 512 bytes written so far to the block device under `path`; None where it has none."""
    device = path.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not stat.exists():
        return None
    return int(stat.read_text().split()[6])
