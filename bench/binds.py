"""The case "binds": starts per second at 1, 8 and 64 at a time, and what each bind adds to a start."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.table import Row

if TYPE_CHECKING:
    from bench.cases import Bench

#: How many containers are started together, and how many in all.
TOGETHER = ((1, 64), (8, 64), (64, 128))
COUNTS = (0, 10, 100)

#: A command line for so many binds.
Maker = Callable[[int], list[str]]


def binds(bench: Bench) -> list[Row]:
    sources = bench.directory / "tmp" / "binds"
    shutil.rmtree(sources, ignore_errors=True)
    for number in range(max(COUNTS)):
        (sources / str(number)).mkdir(parents=True)
    try:
        makers = _makers(bench, sources)
        return [*_together(bench, makers), *_each(bench, makers)]
    finally:
        shutil.rmtree(sources)


def _makers(bench: Bench, sources: Path) -> dict[str, Maker]:
    # Places that the image has, none in another: not everybody makes missing ones in a root that cannot be written.
    targets = [
        f"/{Path(folder).relative_to(bench.plain)}"
        for folder, below, _ in os.walk(bench.plain / "usr/share")
        if not below
    ]
    pairs = [
        (str(sources / str(number)), target) for number, target in enumerate(sorted(targets)[: max(COUNTS)])
    ]

    def joined(option: str, count: int) -> list[str]:
        return [word for source, target in pairs[:count] for word in (option, f"{source}:{target}")]

    def listed(count: int) -> list[str]:
        # As short as it goes: the kernel bounds what a command line may hold.
        return ["-B", ",".join(f"{source}:{target}" for source, target in pairs[:count])] if count else []

    def apart(option: str, count: int) -> list[str]:
        return [word for pair in pairs[:count] for word in (option, *pair)]

    program, plain = str(bench.program), str(bench.plain)
    makers: dict[str, Maker] = {
        "soliton, SIF": lambda count: [program, "exec", *listed(count), str(bench.sif), "true"],
        "soliton, directory": lambda count: [program, "exec", *listed(count), plain, "true"],
    }
    if shutil.which("bwrap"):
        root = ("--ro-bind", plain, "/", "--proc", "/proc", "--dev", "/dev")
        makers["bwrap, directory"] = lambda count: ["bwrap", *root, *apart("--bind", count), "/bin/true"]
    if shutil.which("ch-run"):
        makers["ch-run, directory"] = lambda count: ["ch-run", *joined("-b", count), plain, "--", "/bin/true"]
    return makers


def _start_all(command: Sequence[str], together: int, total: int) -> float:
    """Seconds for all of them, never more than `together` at a time."""
    running: list[subprocess.Popen[bytes]] = []
    begun = time.perf_counter()
    for _ in range(total):
        if len(running) == together:
            _end(running.pop(0))
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    for process in running:
        _end(process)
    return time.perf_counter() - begun


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise RuntimeError(f"{process.args!r}: status {process.returncode}")


def _together(bench: Bench, makers: dict[str, Maker]) -> list[Row]:
    rows = []
    for together, total in TOGETHER:
        for who, maker in makers.items():
            command = maker(0)
            _end(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            best = min(_start_all(command, together, total) for _ in range(max(2, bench.runs // 2)))
            rows.append(_row(f"starts, {together} at a time", who, total / best, "/s"))
    return rows


def _each(bench: Bench, makers: dict[str, Maker]) -> list[Row]:
    """Of each count the least of several rounds, taken in turns; others on the machine make it only larger."""
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(max(10, bench.runs * 2)):
        for who, maker in makers.items():
            for count in COUNTS:
                begun = time.perf_counter()
                _end(subprocess.Popen(maker(count), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
                times.setdefault((who, count), []).append(time.perf_counter() - begun)
    rows = []
    for who in makers:
        bare = min(times[who, 0])
        for count in COUNTS[1:]:
            added = (min(times[who, count]) - bare) / count
            rows.append(_row(f"added by each of {count} binds", who, added * 1e6, "µs"))
        rows.append(_row("start without binds", who, statistics.median(times[who, 0]), "s"))
    return rows


def _row(work: str, who: str, value: float, unit: str) -> Row:
    return Row(work, who, value, unit, None, "", "", None)
