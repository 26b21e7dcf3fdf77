"""`make bench`: everything in one run, one table, a JSON record and an SVG picture in `bench/results/`.

usage: python -m bench [--dir DIRECTORY] [--runs N] [CASE …]

Root prepares (the userland, the kernel's own mount of the image) and then measures as an unprivileged user; without root
the kernel's mount is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import cases, fixtures, steps, suite
from bench.plot import svg
from bench.table import Row, render

USER = "soliton-bench"


def become(user: str) -> None:
    """Gives up root for the rest of the process."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=user)


def as_user(work: Callable[[], None]) -> None:
    """Does this in a process of its own, which is nobody special; ends the run if it fails."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                become(USER)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(1)


def main() -> int:
    every = [*cases.ALL, *suite.ALL, *steps.ALL]
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("cases", nargs="*", help=f"which of: {' '.join(every)} (default: all)")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp/soliton-bench"), help="where fixtures are kept"
    )
    parser.add_argument("--runs", type=int, default=5)
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
    as_user(lambda: cases.prepare(directory, program))
    kernel = directory / "kernel"
    mounted = False
    if root:
        kernel.mkdir(exist_ok=True)
        mounted = fixtures.kernel_mount(directory / "scipy.sif", kernel, program)
    measured = directory / "tmp" / "rows.json"

    def measure() -> None:
        names = options.cases or every
        rows = cases.run(names, directory, program, options.runs, kernel if mounted else None)
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
