"""What a program inside a container is left with, and that nothing in its /proc leads to the host's root."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.program import Program

#: Says which links of /proc lead to something that only the host has.
LOOK = """
mark=$1
for process in /proc/[0-9]* /proc/self; do
    for link in $process/root $process/cwd $process/exe $process/fd/* $process/task/*/root $process/task/*/cwd; do
        up=$link
        for step in 1 2 3 4 5 6 7 8 9 10 11 12; do
            [ -e "$up/$mark" ] && echo "$link: $(cat $process/comm 2>/dev/null)" && break
            up=$up/..
        done
    done
done
echo looked
"""


@pytest.fixture
def busy(soliton: Program, busybox_sif: Path) -> Iterator[Program]:
    """The program, while containers of every kind run whose processes know the host."""
    (soliton.cwd / "o").mkdir()
    soliton("overlay", "create", "--sparse", "o.img").ok()
    running = []
    for root in ((), ("--fakeroot",)):
        soliton("instance", "start", "-c", *root, busybox_sif, f"i{len(root)}").ok()
        for words in ((), ("--pid",), ("-o", "o:ro"), ("--sharens",), ("--sharens", "--pid")):
            script = ("sh", "-c", "echo ready; exec sleep 1000")
            one = soliton.start("exec", "-c", *root, *words, busybox_sif, *script)
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
            running.append(one)
    for overlay in ("o", "o.img"):
        one = soliton.start("exec", "-c", "--fakeroot", "-o", overlay, busybox_sif, *script)
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
        running.append(one)
    yield soliton
    for one in running:
        one.kill()
        one.wait()
    soliton("instance", "stop", "--all", "--force").ok()


def test_no_link_in_proc_leads_to_the_host(busy: Program, busybox_sif: Path, tmp_path: Path) -> None:
    # Something that is in no container: a directory of the host's that none of them shows.
    mark = f"{str(tmp_path)[1:]}/only-on-the-host"
    (tmp_path / "only-on-the-host").touch()
    script = busy.cwd / "look"
    script.write_text(LOOK)
    assert (
        subprocess.run(["sh", script, mark], capture_output=True, text=True, check=True).stdout != "looked\n"
    )
    for root in ((), ("--fakeroot",)):
        for words in ((), ("--pid",), ("--no-init", "--pid"), ("--writable-tmpfs",)):
            bind = ("-B", f"{script}:/look")
            done = busy("exec", "-c", *root, *words, *bind, busybox_sif, "sh", "/look", mark).ok()
            assert done.out == "looked\n", (root, words, done.out)


def test_only_the_three_streams_reach_the_program(
    soliton: Program, busybox_sif: Path, tmp_path: Path
) -> None:
    """Whatever the caller has open, directories of the host among it."""
    opened = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(100)]
    try:
        for words in ((), ("--pid",), ("--fakeroot",), ("--containall",), ("--writable-tmpfs",)):
            done = subprocess.run(
                [
                    soliton.name,
                    "exec",
                    *words,
                    str(busybox_sif),
                    "sh",
                    "-c",
                    "for n in /proc/$$/fd/*; do echo ${n##*/}; done",
                ],
                cwd=soliton.cwd,
                env=soliton.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                pass_fds=opened,
                check=True,
            )
            # 3 is the shell's own: the directory that it lists.
            assert done.stdout.split() == ["0", "1", "2", "3"], (words, done.stdout)
    finally:
        for fd in opened:
            os.close(fd)


def test_as_many_open_files_as_may_be_cost_no_calls(
    soliton: Program, busybox_sif: Path, tmp_path: Path
) -> None:
    """Nothing closes or asks one by one what may be open: as many calls with any limit."""
    strace = shutil.which("strace")
    assert strace, "strace is not installed: `scripts/prepare test`"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    high = hard if hard != resource.RLIM_INFINITY else 1 << 20
    assert high >= 4096, "the hard limit of open files is too low for this test"
    counts = []
    for limit in (1024, high):
        log = tmp_path / f"calls-{limit}"
        # The hard limit as well, for the launcher raises the other one up to it.
        words = ["prlimit", f"--nofile={min(limit, 1024)}:{limit}", strace, "-f", "-qq", "-o", str(log)]
        plain = soliton.having(SOLITON_SHORTCUT="off")
        done = subprocess.run(
            [*words, plain.name, "exec", "--pid", str(busybox_sif), "true"],
            cwd=plain.cwd,
            env=plain.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        counts.append(len(log.read_text().splitlines()))
    assert counts[1] < counts[0] + (high - 1024) // 4, counts
