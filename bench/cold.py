"""Reading what nobody has in memory. Dropping the kernel's caches is for root: a run that root began keeps a process that
does it when the measuring user asks; without root only the pages of the fixtures' large files are dropped."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path


def serve(channel: socket.socket) -> None:
    """Root's part: empties the caches for every byte that comes, until the other end is closed."""
    while channel.recv(1):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        channel.sendall(b"!")


class Cold:
    """channel: to root's process, or None. files: those whose pages are dropped without it."""

    def __init__(self, channel: socket.socket | None, files: Sequence[Path]) -> None:
        self._channel, self._files = channel, files

    @property
    def complete(self) -> bool:
        """Whether everything is dropped, directories of the host included."""
        return self._channel is not None

    def drop(self) -> None:
        if self._channel is not None:
            self._channel.sendall(b"?")
            if not self._channel.recv(1):
                raise RuntimeError("the process that empties the caches has ended")
            return
        for path in self._files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def busy(path: Path) -> float | None:
    """Seconds for which the block device under `path` had something to do so far; None where it has none."""
    device = path.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[9]) / 1000 if stat.exists() else None


def transfer(path: Path) -> float:
    """Seconds for reading a file from one end to the other: what the disk can do."""
    begun = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    return time.perf_counter() - begun
