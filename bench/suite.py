"""Starts, one at a time and many at once; reading; memory; and what grows with the size of an image."""

from __future__ import annotations

import io
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bench import peers
from bench.cold import Cold
from bench.measure import once
from bench.peers import Peer
from bench.table import Row

MIB = 1 << 20
SCIPY = "import numpy, scipy.stats, scipy.optimize"
#: Reads blocks at places in the image's larger files that look random and are the same in every run; prints seconds.
RANDOM = """
import os, random, time
files = []
for folder, _, names in os.walk("/usr/lib"):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) > 1 << 20:
            files.append((path, os.path.getsize(path)))
files.sort()
random.seed(7)
opened = {path: os.open(path, os.O_RDONLY) for path, _ in files}
wanted = [random.choice(files) for _ in range(4000)]
start = time.perf_counter()
for path, size in wanted:
    os.pread(opened[path], 4096, random.randrange(size // 4096) * 4096)
print(time.perf_counter() - start)
"""
FIND = "find /usr -xdev -printf '%s\\n' >/dev/null"


class Suite:
    """Where the fixtures are, which soliton is measured, how often, and the kernel's mount of the image if there is one."""

    def __init__(
        self,
        directory: Path,
        program: Path,
        runs: int,
        kernel: Path | None,
        squashfuse: Path | None,
        cold: Cold,
    ) -> None:
        self.directory, self.program, self.runs = directory, program, runs
        self.kernel, self.squashfuse, self.cold = kernel, squashfuse, cold
        self.sif = directory / "scipy.sif"
        self.own = Peer("soliton, SIF", (str(program), "exec", str(self.sif)))

    def forget(self) -> None:
        """Lets go of the image and of what is in memory of it: what follows is cold."""
        subprocess.run([self.program, "mounts", "stop"], capture_output=True, check=True)
        self.cold.drop()


def best(run: Callable[[], float], runs: int) -> float:
    """The least of several: on a machine that does other things too, what the work itself takes."""
    return min(run() for _ in range(runs))


def interleaved(work: Sequence[tuple[str, Callable[[], float]]], runs: int) -> list[tuple[str, float]]:
    """The median for each, one run of everybody after the other, so that a disturbance meets all alike."""
    samples: dict[str, list[float]] = {name: [] for name, _ in work}
    for _ in range(runs):
        for name, run in work:
            samples[name].append(run())
    return [(name, statistics.median(values)) for name, values in samples.items()]


def rows_of(
    work: str, samples: Iterable[tuple[str, float]], base: str, limits: dict[str, float] | None = None
) -> list[Row]:
    values = dict(samples)
    rows = []
    for who, value in values.items():
        ratio = value / values[base] if base in values and who != base else None
        limit = (limits or {}).get(who) if ratio is not None else None
        rows.append(
            Row(
                work,
                who,
                value,
                ratio=ratio,
                ratio_to=base if ratio is not None else "",
                limit=f"<= {limit:g} x" if limit is not None else "",
                holds=ratio <= limit if limit is not None and ratio is not None else None,
            )
        )
    return rows


def _timed(words: Sequence[str]) -> Callable[[], float]:
    return lambda: once(words)[0]


def start(suite: Suite) -> list[Row]:
    """Starts of /bin/true: warm, and with nothing of the image in memory or mounted."""
    everybody = [suite.own, *peers.found(suite.directory)]
    for peer in everybody:
        once(peer.words("/bin/true"))
    warm = interleaved([(peer.name, _timed(peer.words("/bin/true"))) for peer in everybody], suite.runs * 10)
    rows = rows_of("start of /bin/true, warm", warm, "bwrap, directory", {"soliton, SIF": 1.3})
    python = [str(suite.program), "exec", str(suite.sif), "/bin/true"]

    def uncached() -> float:
        return once(python, env={**os.environ, "SOLITON_SHORTCUT": "off"})[0]

    def cold() -> float:
        suite.forget()
        return once(python)[0]

    rows.append(Row("start of /bin/true, warm", "soliton, SIF, no stored plan", best(uncached, suite.runs)))
    rows.append(Row("start of /bin/true, cold image", "soliton, SIF", best(cold, suite.runs)))
    return rows


def many(suite: Suite) -> list[Row]:
    """64 and 512 starts, 1, 8 and 64 at a time: the cost of one must not grow with their number."""
    rows: list[Row] = []
    chosen = [
        peer for peer in peers.found(suite.directory) if "directory" in peer.name or "floor" in peer.name
    ]
    each: dict[int, float] = {}
    for count, at_once in ((64, 1), (64, 8), (64, 64), (512, 8), (512, 64)):
        everybody = [suite.own, *(peer for peer in chosen if count == 64 or "ch-run" in peer.name)]

        def plain(peer: Peer, count: int = count, at_once: int = at_once) -> float:
            return once(
                ["sh", "-c", f'seq {count} | xargs -n 1 -P {at_once} "$@"', "sh", *peer.words("/bin/true")]
            )[0]

        samples = interleaved([(peer.name, partial(plain, peer)) for peer in everybody], suite.runs)
        limits = {"soliton, SIF": 1.5} if (count, at_once) == (64, 8) else None
        rows += rows_of(f"{count} starts, {at_once} at a time", samples, "ch-run, directory", limits)
        if at_once == 8:
            each[count] = dict(samples)[suite.own.name] / count
    growth = [(f"soliton, of {count}", seconds) for count, seconds in each.items()]
    return rows + rows_of("one start of many", growth, "soliton, of 64", {"soliton, of 512": 1.2})


def _inside(peer: Peer, *command: str) -> float:
    done = subprocess.run(
        peer.words(*command), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return float(done.stdout.split()[-1])


def scipy(suite: Suite) -> list[Row]:
    """An interpreter that imports SciPy, from start to end: the container's start is part of it."""
    rows: list[Row] = []
    with peers.readers(suite.directory, suite.kernel, suite.squashfuse) as others:
        everybody = [suite.own, *others]
        for peer in everybody:
            once(peer.words("python3", "-c", SCIPY))
        work = [(peer.name, _timed(peer.words("python3", "-c", SCIPY))) for peer in everybody]
        warm = interleaved(work, suite.runs * 2)
        rows += rows_of("import SciPy, warm", warm, "plain directory", {"soliton, SIF": 1.1})

        def cold(peer: Peer) -> float:
            suite.forget()
            return once(peer.words("python3", "-c", SCIPY))[0]

        samples = interleaved([(peer.name, partial(cold, peer)) for peer in everybody], suite.runs)
        rows += rows_of("import SciPy, cold", samples, "squashfuse_ll")
    return rows


def random_reads(suite: Suite) -> list[Row]:
    """4,000 reads of 4 KiB at random places of large files."""
    rows: list[Row] = []
    with peers.readers(suite.directory, suite.kernel, suite.squashfuse) as others:
        script = ("python3", "-c", RANDOM)
        everybody = (suite.own, *others)

        def cold(peer: Peer) -> float:
            suite.forget()
            return _inside(peer, *script)

        runs = max(3, suite.runs // 2)
        first = interleaved([(peer.name, partial(cold, peer)) for peer in everybody], runs)
        rows += rows_of("4,000 random reads of 4 KiB, cold", first, "squashfuse_ll")
        warm = interleaved([(peer.name, partial(_inside, peer, *script)) for peer in everybody], runs)
        rows += rows_of("4,000 random reads of 4 KiB, warm", warm, "plain directory")
    return rows


def walk(suite: Suite) -> list[Row]:
    """`find` over all of /usr, sizes asked for."""
    with peers.readers(suite.directory, suite.kernel, suite.squashfuse) as others:
        everybody = [suite.own, *others]
        for peer in everybody:
            once(peer.words("sh", "-c", FIND))
        warm = interleaved(
            [(peer.name, _timed(peer.words("sh", "-c", FIND))) for peer in everybody], suite.runs
        )
        rows = rows_of(
            "find over 40,000 files, warm", warm, "kernel squashfs" if suite.kernel else "plain directory"
        )

        def cold(peer: Peer) -> float:
            suite.forget()
            return once(peer.words("sh", "-c", FIND))[0]

        runs = max(3, suite.runs // 2)
        first = interleaved([(peer.name, partial(cold, peer)) for peer in everybody], runs)
        rows += rows_of("find over 40,000 files, cold", first, "squashfuse_ll")
    return rows


def _memory(pids: Iterable[int], kind: str) -> int:
    """Bytes of these processes that are `Private` or `Shared`."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{kind}_"))
    return total


def _servers() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text() == "soliton-image\n" and entry.stat().st_uid == os.getuid():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def memory(suite: Suite) -> list[Row]:
    """Memory that is nobody else's, of 1 and of 64 containers that sleep, with everything that serves them."""
    sums: dict[int, int] = {}
    server: dict[int, int] = {}
    shared: dict[int, float] = {}
    for count in (1, 64):
        suite.forget()
        others = _servers()
        processes = [
            subprocess.Popen(
                suite.own.words("sleep", "1000"), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(count)
        ]
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if any(process.poll() is not None for process in processes):
                    raise RuntimeError("a container that was to sleep has ended")
                names = [Path(f"/proc/{process.pid}/comm").read_text() for process in processes]
                if names == ["sleep\n"] * count:
                    break
                time.sleep(0.05)
            serving = [pid for pid in _servers() if pid not in others]
            everything = [*serving, *(process.pid for process in processes)]
            server[count] = _memory(serving, "Private")
            sums[count] = _memory(everything, "Private")
            shared[count] = _memory(everything, "Shared") / len(everything)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    extra = (sums[64] - sums[1]) / 63 / MIB
    return [
        Row("private memory", "soliton, one container and its server", sums[1] / MIB, "MiB"),
        Row("private memory", "soliton, 64 containers and their server", sums[64] / MIB, "MiB"),
        Row("private memory", "soliton, its image server", server[64] / MIB, "MiB"),
        Row(
            "private memory", "soliton, each further container", extra, "MiB", limit="<= 3", holds=extra <= 3
        ),
        *(
            Row("memory that others see too, a process", f"soliton, of {count}", value / MIB, "MiB")
            for count, value in shared.items()
        ),
    ]


def _million(directory: Path) -> Path:
    """An image with 1,000,000 empty files in 1,000 directories."""
    target = directory / "million.squashfs"
    if target.exists():
        return target
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with subprocess.Popen(
        ["sqfstar", "-quiet", "-no-progress", "-comp", "zstd", str(partial)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as writer:
        assert writer.stdin is not None
        with tarfile.open(fileobj=writer.stdin, mode="w|") as tar:

            def add(name: str, kind: bytes, data: bytes = b"", link: str = "") -> None:
                entry = tarfile.TarInfo(name)
                entry.type, entry.size, entry.linkname, entry.mode = kind, len(data), link, 0o755
                tar.addfile(entry, io.BytesIO(data))

            for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "var", "var/tmp", "home", "many"):
                add(name, tarfile.DIRTYPE)
            program = next(p for p in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if p.exists())
            add("bin/busybox", tarfile.REGTYPE, program.read_bytes())
            for name in ("sh", "true", "ls"):
                add(f"bin/{name}", tarfile.SYMTYPE, link="busybox")
            add("etc/passwd", tarfile.REGTYPE, b"root:x:0:0:root:/root:/bin/sh\n")
            add("etc/group", tarfile.REGTYPE, b"root:x:0:\n")
            for folder in range(1000):
                add(f"many/{folder:03}", tarfile.DIRTYPE)
                for file in range(1000):
                    add(f"many/{folder:03}/file-{file:03}", tarfile.REGTYPE)
    partial.rename(target)
    return target


def million(suite: Suite) -> list[Row]:
    """What a start and a listing cost in an image with a million files: as much as in a small one."""
    if shutil.which("sqfstar") is None:
        return []
    image = _million(suite.directory)
    large = Peer("soliton, 1,000,000 files", (str(suite.program), "exec", str(image)))
    for peer in (large, suite.own):
        once(peer.words("/bin/true"))

    def fresh(peer: Peer) -> float:
        subprocess.run([suite.program, "mounts", "stop"], capture_output=True, check=True)
        return once(peer.words("/bin/true"))[0]

    named = [(large.name, large), ("soliton, 40,000 files", suite.own)]
    mounting = interleaved([(name, partial(fresh, peer)) for name, peer in named], suite.runs * 4)
    rows = rows_of("mount and start", mounting, "soliton, 40,000 files", {large.name: 1.2})
    rows.append(
        Row(
            "list a directory of 1,000 files",
            large.name,
            best(_timed(large.words("ls", "/many/500")), suite.runs),
        )
    )
    return rows


ALL: dict[str, Callable[[Suite], list[Row]]] = {
    "starts": start,
    "many": many,
    "scipy": scipy,
    "random": random_reads,
    "find": walk,
    "memory": memory,
    "million": million,
}
