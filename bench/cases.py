"""What is measured. Each case gives rows: soliton, the peers found here, and the floor."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import fixtures, peers, steps, suite
from bench.binds import binds
from bench.cold import Cold, busy, transfer
from bench.measure import Sample, device_sectors, once, repeat
from bench.table import Row

MIB = 1 << 20


@dataclass(frozen=True)
class Bench:
    """directory: fixtures. program: the soliton to measure. kernel: the image mounted by the kernel, or None.
    cold: how the kernel's caches are emptied."""

    directory: Path
    program: Path
    runs: int
    kernel: Path | None
    cold: Cold

    @property
    def sif(self) -> Path:
        return self.directory / "scipy.sif"

    @property
    def plain(self) -> Path:
        return self.directory / "plain"

    def environment(self, cache: Path) -> dict[str, str]:
        return {**os.environ, "SOLITON_CACHEDIR": str(cache), "TMPDIR": str(self.directory / "tmp")}


def prepare(directory: Path, program: Path) -> None:
    """What every case reads: the image as SIF, as squashfs alone, and as a directory."""
    (directory / "home").mkdir(exist_ok=True)
    (directory / "tmp").mkdir(exist_ok=True)
    fixtures.layout(directory)
    fixtures.plain_directory(directory)
    target = directory / "scipy.sif"
    cache = directory / "cache"
    environment = {**os.environ, "SOLITON_CACHEDIR": str(cache), "TMPDIR": str(directory / "tmp")}
    # Made anew each time: the program that is measured wrote the image that is read.
    once([program, "pull", "--force", target, f"oci:{directory / 'layout'}:latest"], env=environment)
    offset, size = fixtures.partition(target, program)
    with target.open("rb") as source, (directory / "scipy.squashfs").open("wb") as out:
        source.seek(offset)
        left = size
        while left:
            chunk = source.read(min(left, 1 << 20))
            out.write(chunk)
            left -= len(chunk)


def _compared(
    work: str,
    samples: Sequence[tuple[str, float]],
    base: str,
    *,
    unit: str = "s",
    limits: dict[str, float] | None = None,
) -> list[Row]:
    """Rows of one work, as ratios to the program named `base`."""
    values = dict(samples)
    rows = []
    for who, value in samples:
        ratio = value / values[base] if base in values and who != base else None
        limit = (limits or {}).get(who)
        rows.append(
            Row(
                work,
                who,
                value,
                unit,
                ratio,
                base if ratio is not None else "",
                f"<= {limit:g} x" if limit is not None and ratio is not None else "",
                ratio <= limit if limit is not None and ratio is not None else None,
            )
        )
    return rows


def pull(bench: Bench) -> list[Row]:
    """Pull and convert from a registry on loopback, with an empty cache each time."""
    layers = fixtures.layers_of(bench.directory / "layout")
    work = bench.directory / "pull"
    cache, target = work / "cache", work / "image.sif"

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        os.sync()

    rows: list[Row] = []
    floor = repeat(
        ["sh", "-c", 'cat "$@" | gunzip -c | zstd -q -3 -T2 -c >/dev/null', "sh", *layers],
        bench.runs,
        warm=True,
    )
    with fixtures.registry(bench.directory) as reference:
        digests = set()
        written = []
        samples: list[float] = []
        memory = 0
        for _ in range(bench.runs):
            fresh()
            before = device_sectors(bench.directory)
            elapsed, peak = once(
                [bench.program, "pull", "--no-https", target, f"docker://{reference}"],
                env=bench.environment(cache),
                watch_memory=True,
            )
            samples.append(elapsed)
            memory = max(memory, peak)
            os.sync()
            after = device_sectors(bench.directory)
            if before is not None and after is not None:
                written.append((after - before) * 512)
            digests.add(fixtures.digest(target))
        ours = Sample(tuple(samples), memory)
        image = target.stat().st_size
        fresh()
        peers: list[tuple[str, float]] = []
        if shutil.which("umoci") and shutil.which("mksquashfs"):
            script = (
                'skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$1" "oci:$2/layout:latest" && '
                'umoci unpack --rootless --image "$2/layout:latest" "$2/bundle" >/dev/null 2>&1 && '
                'mksquashfs "$2/bundle/rootfs" "$2/image.squashfs" -quiet -no-progress -comp zstd -Xcompression-level 3 >/dev/null'
            )
            elapsed, _ = once(["sh", "-c", script, "sh", reference, work])
            peers.append(("skopeo + umoci + mksquashfs zstd 3", elapsed))
            subprocess.run(["chmod", "-R", "u+rwX", work], check=False)
    blobs = sum(layer.stat().st_size for layer in layers)
    rows += _compared(
        "pull and convert",
        [("soliton", ours.median), *peers, ("floor: gunzip | zstd -3 -T2", floor.median)],
        "floor: gunzip | zstd -3 -T2",
        limits={"soliton": 1.5},
    )
    rows.append(
        Row(
            "pull: memory",
            "soliton",
            ours.memory / MIB,
            "MiB",
            limit="<= 300",
            holds=ours.memory <= 300 * MIB,
        )
    )
    if written:
        amount = statistics.median(written)
        rows.append(
            Row(
                "pull: written to disk",
                "soliton",
                amount / MIB,
                "MiB",
                amount / (blobs + image),
                "blobs + image",
                "<= 1.03 x",
                # The device counts the file system's journal too.
                amount <= 1.03 * (blobs + image),
            )
        )
    rows.append(
        Row(
            "pull: different results",
            "soliton",
            float(len(digests)),
            "",
            limit="= 1",
            holds=len(digests) == 1,
        )
    )
    shutil.rmtree(work, ignore_errors=True)
    return rows


@contextmanager
def squashfuse(bench: Bench) -> Iterator[Path | None]:
    """The image mounted by squashfuse_ll, where it is installed."""
    program = shutil.which("squashfuse_ll")
    if program is None or (shutil.which("fusermount3") is None and shutil.which("fusermount") is None):
        yield None
        return
    at = Path(tempfile.mkdtemp(dir=bench.directory / "tmp"))
    try:
        subprocess.run([program, bench.directory / "scipy.squashfs", at], check=True, capture_output=True)
        yield at
    finally:
        subprocess.run(
            [shutil.which("fusermount3") or "fusermount", "-u", at], check=False, capture_output=True
        )
        at.rmdir()


def _hyperfine(commands: Sequence[tuple[str, str]], runs: int, cwd: Path) -> list[tuple[str, float]]:
    """Medians of short commands without a shell, in seconds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [
                "hyperfine",
                "-N",
                "--style",
                "none",
                "--warmup",
                "5",
                "--runs",
                str(runs),
                "--export-json",
                out.name,
            ]
            + [command for _, command in commands],
            check=True,
            cwd=cwd,
            stdout=subprocess.DEVNULL,
        )
        results = json.load(out)["results"]
    return [(who, result["median"]) for (who, _), result in zip(commands, results, strict=True)]


def mount(bench: Bench) -> list[Row]:
    """What the image costs at a start, without Python: the same plan on the image of 40,000 files and on a directory.

    Twice: with a static program of the host, which reads nothing of the image, so that the difference is the mount;
    and with the image's own `true`, whose libraries are read and unpacked on the way.
    """
    plans = bench.directory / "plans"
    plans.mkdir(exist_ok=True)
    name = bench.directory / "soliton-core"
    name.unlink(missing_ok=True)
    name.symlink_to(bench.program.resolve())
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: `scripts/prepare bench` installs it"
    commands = []
    for what, words in (("busybox of the host", ["/mnt/busybox", "true"]), ("true of the image", ["true"])):
        for where, image in (("image", bench.sif), ("directory", bench.plain)):
            plan = plans / f"{image.name}-{words[0].rpartition('/')[2]}.json"
            plan.write_text(fixtures.plan_of(bench.program, image, f"{busybox}:/mnt/busybox", words))
            commands.append((f"{what}, {where}", f"sh -c 'exec {name} launch 9 9<{plan}'"))
    commands.append(("floor: unshare -Ur chroot", f"unshare -Urm chroot {bench.plain} /bin/true"))
    samples = dict(_hyperfine(commands, max(50, bench.runs * 10), bench.directory))
    difference = samples["busybox of the host, image"] - samples["busybox of the host, directory"]
    return [
        *(Row("launch, without Python", who, value) for who, value in samples.items()),
        Row("mounting 40,000 files", "soliton", difference, limit="<= 5 ms", holds=difference <= 0.005),
    ]


#: Reads every file below a directory in the order of the directory listings, as `tar` does.
_READ = "find {root}/usr -xdev -type f -print0 | xargs -0 -n 512 cat >/dev/null"


def read(bench: Bench) -> list[Row]:
    """All of /usr, one reader: cold (nothing in memory) and warm (what the kernel keeps, it keeps)."""
    inside = [str(bench.program), "exec", str(bench.sif), "sh", "-c", _READ.format(root="")]
    with squashfuse(bench) as mounted:
        roots = {"squashfuse_ll": mounted, "kernel squashfs": bench.kernel, "plain directory": bench.plain}
        others = {
            name: ["sh", "-c", _READ.format(root=root)] for name, root in roots.items() if root is not None
        }
        rows = _read_cold(bench, {"soliton": inside, **others})
        # Warm within one container: the second reading of the same mount.
        samples = [("soliton", _inside_twice(bench, _READ.format(root="")))]
        samples += [(name, repeat(words, bench.runs).median) for name, words in others.items()]
    base = "kernel squashfs" if bench.kernel is not None else "plain directory"
    return rows + _compared("read all of /usr, warm", samples, base, limits={"soliton": 1.3})


def _read_cold(bench: Bench, commands: dict[str, list[str]]) -> list[Row]:
    """One after the other, several times round; with the time that the disk was busy, and what it takes for the image alone."""
    times: dict[str, list[float]] = {}
    worked = []
    for _ in range(max(3, bench.runs // 2)):
        for who, words in commands.items():
            subprocess.run([bench.program, "mounts", "stop"], capture_output=True, check=True)
            bench.cold.drop()
            before = busy(bench.directory)
            times.setdefault(who, []).append(once(words)[0])
            after = busy(bench.directory)
            if who == "soliton" and before is not None and after is not None:
                worked.append(after - before)
        bench.cold.drop()
        times.setdefault("floor: the image from the disk", []).append(transfer(bench.sif))
    values = {who: statistics.median(seconds) for who, seconds in times.items()}
    if worked:
        values["soliton, disk busy"] = statistics.median(worked)
    rows = _compared("read all of /usr, cold", list(values.items()), "squashfuse_ll", limits={"soliton": 0.5})
    # Where the disk has had something to do nearly all the time, nobody is faster.
    if worked and values["soliton, disk busy"] >= 0.9 * values["soliton"]:
        rows[0] = rows[0]._replace(limit=f"{rows[0].limit} or the disk's limit", holds=True)
    return rows


def _inside_twice(bench: Bench, script: str) -> float:
    """Runs a shell script three times in one container; seconds of the median of the last two."""
    timed = f"{script}; for i in 1 2 3; do s=$(date +%s%N); {script}; e=$(date +%s%N); echo $((e - s)); done"
    done = subprocess.run(
        [bench.program, "exec", bench.sif, "sh", "-c", timed], check=True, capture_output=True, text=True
    )
    return statistics.median(int(line) for line in done.stdout.split()) / 1e9


def build(bench: Bench) -> list[Row]:
    """The 1 GB image as base and one line of %post; the floor is a copy of the file."""
    work = bench.directory / "build"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    definition = work / "one-line.def"
    definition.write_text(f"Bootstrap: localimage\nFrom: {bench.sif}\n%post\n    echo built > /opt/stage\n")
    environment = bench.environment(bench.directory / "cache")
    ours = repeat(
        [bench.program, "build", "--force", "--no-cache", work / "out.sif", definition],
        bench.runs,
        env=environment,
        warm=True,
    )
    floor = repeat(["cp", bench.sif, work / "copy.sif"], bench.runs)
    shutil.rmtree(work)
    rows = _compared(
        "build: base and one line of %post",
        [("soliton", ours.median), ("floor: cp", floor.median)],
        "floor: cp",
    )
    first = rows[0]._replace(limit="<= 3 s", holds=ours.median <= 3.0)
    return [first, *rows[1:]]


ALL: dict[str, Callable[[Bench], list[Row]]] = {
    "pull": pull,
    "mount": mount,
    "binds": binds,
    "read": read,
    "build": build,
}


def run(
    names: Sequence[str], directory: Path, program: Path, runs: int, kernel: Path | None, cold: Cold
) -> list[Row]:
    bench = Bench(directory, program, runs, kernel, cold)
    os.chdir(directory)
    # What the containers of one case share is not to be looked for anew in the middle of it.
    os.environ["SOLITON_IMAGE_SERVER"] = "60"
    if not cold.complete:
        print(
            "bench: without root only the pages of the images are dropped: directories are not cold",
            flush=True,
        )
    peers.settle()
    rows: list[Row] = []
    with squashfuse(bench) as mounted:
        measured = suite.Suite(directory, program, runs, kernel, mounted, cold)
        for name in names:
            begun = time.monotonic()
            try:
                if name in steps.ALL:
                    rows += steps.ALL[name](directory, program, runs)
                else:
                    rows += ALL[name](bench) if name in ALL else suite.ALL[name](measured)
            except (OSError, RuntimeError, subprocess.SubprocessError):
                # What the others have measured is not lost; the table says what is missing.
                traceback.print_exc()
                rows.append(Row(f"{name}: failed", "soliton", 0, "", limit="to be measured", holds=False))
            print(f"bench: {name}: {time.monotonic() - begun:.0f} s", flush=True)
        measured.forget()
    peers.settle()
    return rows
