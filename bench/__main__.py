"""`make bench`: everything in one run, one table, a JSON record and an SVG picture in `bench/results/`.

usage: python -m bench [--dir DIRECTORY] [--runs N] [CASE …]

Root prepares (the userland, the kernel's own mount of the image), then measures as an unprivileged user, and empties the
kernel's caches when that one asks; without root the kernel's mount is left out, and only the image's pages are dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import cases, cold, fixtures, steps, suite
from bench.plot import svg
from bench.table import Row, render

USER = "soliton-bench"
_APART = "SOLITON_BENCH_APART"


def become(user: str) -> None:
    """Gives up root for the rest of the process."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    path = os.environ.get("PATH", os.defpath)
    # What the caller has set would be told of, or looked at, by one program and not by another.
    os.environ.clear()
    os.environ.update(PATH=path, HOME=entry.pw_dir, USER=user, LANG="C.UTF-8")


def as_user(work: Callable[[socket.socket | None], None]) -> None:
    """Does this in a process of its own, which is nobody special; ends the run if it fails. Root serves it meanwhile."""
    sys.stdout.flush()
    root = os.geteuid() == 0
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ours.close()
            if root:
                become(USER)
            work(theirs if root else None)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    theirs.close()
    if root:
        cold.serve(ours)
    ours.close()
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(1)


def apart() -> None:
    """Root goes on in mounts of its own, where control groups are as they are on current systems: crun refuses the mixed
    form that some machines still have, and podman wants mounts that spread."""
    if os.geteuid() != 0 or os.environ.pop(_APART, ""):
        return
    os.environ[_APART] = "yes"
    script = (
        "mount --make-rshared /; "
        '[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
    )
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    os.execvp(words[0], [*words, sys.executable, "-m", "bench", *sys.argv[1:]])


def main() -> int:
    apart()
    every = [*cases.ALL, *suite.ALL, *steps.ALL]
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("cases", nargs="*", help=f"which of: {' '.join(every)} (default: all)")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp/soliton-bench"), help="where fixtures are kept"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    directory: Path = options.dir
    root = os.geteuid() == 0
    directory.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(exist_ok=True)

    fixtures.userland(directory)
    if root:
        if subprocess.run(["id", USER], capture_output=True, check=False).returncode != 0:
            subprocess.run(
                ["useradd", "--home-dir", str(directory / "home"), "--shell", "/bin/sh", USER], check=True
            )
        subprocess.run(["chown", "-R", f"{USER}:", str(directory)], check=True)
        if Path("/dev/fuse").exists():
            Path("/dev/fuse").chmod(0o666)
    program = Path(sys.executable).parent / "soliton"

    # Prepared by the user, so that root does nothing but the kernel's mount.
    as_user(lambda _: cases.prepare(directory, program))
    kernel = directory / "kernel"
    mounted = False
    if root:
        kernel.mkdir(exist_ok=True)
        mounted = fixtures.kernel_mount(directory / "scipy.sif", kernel, program)
    measured = directory / "tmp" / "rows.json"

    def measure(channel: socket.socket | None) -> None:
        names = options.cases or every
        caches = cold.Cold(channel, [directory / "scipy.sif", directory / "scipy.squashfs"])
        rows = cases.run(names, directory, program, options.runs, kernel if mounted else None, caches)
        measured.write_text(json.dumps([row._asdict() for row in rows]))

    try:
        as_user(measure)
    finally:
        if mounted:
            subprocess.run(["umount", str(kernel)], check=True)
    text = measured.read_text()
    measured.unlink()
    rows = [Row(**record) for record in json.loads(text)]
    print(render(rows))
    failing = [row for row in rows if row.holds is False]
    print(f"\nrequired: {sum(row.holds is True for row in rows)} hold, {len(failing)} do not")
    for row in failing:
        print(f"  {row.work}, {row.who}: {row.limit} {row.ratio_to}".rstrip())
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    (options.results / f"{stamp}.svg").write_text(svg(rows))
    (options.results / f"{stamp}.json").write_text(
        json.dumps(
            {
                "machine": {"cpus": os.cpu_count(), "kernel": platform.release()},
                "rows": [r._asdict() for r in rows],
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
