"""`--sharens`: what the same parent starts is in one container, which ends with the last of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.processes import ended
from tests.system.program import AMPLE, Program, eventually
from tests.system.test_instances import names

#: Starts as many commands as it is told at once, as mpirun does on a node, and waits for all.
LAUNCHER = """
import os, subprocess, sys
count, words = int(sys.argv[1]), sys.argv[2:]
ranks = [subprocess.Popen(words, env={**os.environ, "RANK": str(rank)}) for rank in range(count)]
sys.exit(max(rank.wait() for rank in ranks))
"""
KINDS = "user ipc uts net pid mnt"
SHOW = f"echo $(for kind in {KINDS}; do readlink /proc/self/ns/$kind; done)"


@pytest.fixture
def sharing(soliton: Program) -> Iterator[Program]:
    """The program; in the end no container of several processes is left."""
    alone = soliton.having(SOLITON_IMAGE_SERVER="off")
    yield alone
    eventually(lambda: not names(alone, "--all"), lambda: f"left: {names(alone, '--all')}")
    assert not list(soliton.home.glob(".apptainer/instances/*/*/*/*"))


def siblings(soliton: Program, count: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/python3", "-c", LAUNCHER, str(count), soliton.name, *map(str, words)],
        cwd=soliton.cwd,
        env=soliton.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AMPLE,
        check=False,
    )


@pytest.mark.parametrize("isolation", [(), ("--containall",), ("--fakeroot", "--pid")])
def test_siblings_are_in_one_container(
    sharing: Program, busybox_sif: Path, isolation: tuple[str, ...]
) -> None:
    # Each waits until it sees the files of all others, in the container's own /tmp where it has one.
    place = "/tmp" if "--containall" in isolation else f"'{sharing.cwd}'"
    meet = f"touch {place}/rank-$$; until [ $(ls {place} | grep -c rank-) = 8 ]; do sleep 0.05; done; {SHOW}"
    done = siblings(sharing, 8, "exec", "--sharens", *isolation, busybox_sif, "sh", "-c", meet)
    assert (done.returncode, done.stderr) == (0, "")
    seen = done.stdout.splitlines()
    assert len(seen) == 8 and len(set(seen)) == 1, seen
    assert seen[0].count(":[") == len(KINDS.split())
    here = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt")]
    assert not [kind for kind in here if kind in seen[0]]
    if "--containall" in isolation:
        assert not list(Path("/tmp").glob("rank-*"))


def test_processes_of_other_parents_or_of_other_wishes_are_apart(sharing: Program, busybox_sif: Path) -> None:
    ready = [
        sharing.start("exec", "--sharens", *words, busybox_sif, "sh", "-c", f"{SHOW}; exec sleep 1000")
        for words in ((), (), ("--bind", "/usr:/mnt"))
    ]
    seen = [one.stdout.readline() for one in ready if one.stdout]
    assert seen[0] == seen[1] != seen[2]
    other = siblings(sharing, 1, "exec", "--sharens", busybox_sif, "sh", "-c", SHOW)
    assert other.stdout.encode() not in seen
    # The other's has ended with it, a little later.
    eventually(lambda: len(names(sharing, "--all")) == 2, lambda: str(names(sharing, "--all")))
    assert names(sharing) == []
    # As long as one is there, the container is.
    ready[0].kill()
    ready[0].wait()
    late = sharing("exec", "--sharens", busybox_sif, "sh", "-c", SHOW).ok()
    assert late.out.encode() == seen[1]
    for one in ready[1:]:
        one.kill()
        one.wait()


def test_output_of_one_ends_although_another_goes_on(sharing: Program, busybox_sif: Path) -> None:
    """The container belongs to all: what keeps it together holds no pipe of who came first."""
    words = ("exec", "--sharens", "--pid", busybox_sif, "sh", "-c")
    first = sharing.start(*words, "echo ready; until [ -e go ]; do sleep 0.1; done; echo done")
    assert first.stdout is not None
    assert first.stdout.readline() == b"ready\n"
    second = sharing.start(*words, "echo ready; exec sleep 1000")
    assert second.stdout is not None
    assert second.stdout.readline() == b"ready\n"
    (sharing.cwd / "go").touch()
    assert first.communicate(timeout=AMPLE)[0] == b"done\n"
    assert second.poll() is None
    second.kill()
    second.wait()


@pytest.mark.parametrize("isolation", [(), ("--pid",)])
@pytest.mark.parametrize("victim", ["monitor", "first", "rank"])
def test_a_process_that_is_killed_leaves_nothing(
    sharing: Program, busybox_sif: Path, isolation: tuple[str, ...], victim: str
) -> None:
    words = ("exec", "--sharens", *isolation, busybox_sif, "sh", "-c", "echo ready; exec sleep 1000")
    ranks = [sharing.start(*words) for _ in range(2)]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"ready\n"
    (path,) = sharing.home.glob(".apptainer/instances/app/*/*/*/*.json")
    known = json.loads(path.read_text())
    os.kill({"monitor": known["ppid"], "first": known["pid"], "rank": ranks[0].pid}[victim], signal.SIGKILL)
    if victim == "rank" or not isolation:
        # The others do not need it.
        assert ranks[1].poll() is None
        for rank in ranks:
            rank.kill()
    for rank in ranks:
        rank.wait(timeout=AMPLE)
    for number in (int(known["ppid"]), int(known["pid"])):
        eventually(lambda number=number: ended(number))  # type: ignore[misc]
    # The next one finds everything as if nothing had been.
    assert sharing(*words[:-1], "echo again").ok().out == "again\n"


#: Starts one command under a program that keeps it for a while from opening the door that it has made, and another meanwhile.
HASTE = """
import subprocess, sys, time
name, *words = sys.argv[1:]
hold = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", "trace=listen", "-e", "inject=listen:delay_enter=3000000"]
first = subprocess.Popen([*hold, *words])
while name not in open("/proc/net/unix").read():
    time.sleep(0.01)
second = subprocess.Popen(words)
if second.wait():
    first.kill()
sys.exit(first.wait() or second.wait())
"""


def test_who_comes_while_the_door_is_being_made_waits(sharing: Program, busybox_sif: Path) -> None:
    """However long that takes: the maker may be kept from going on between two calls."""
    meet = f"touch rank-$$; until [ $(ls | grep -c rank-) = 2 ]; do sleep 0.05; done; {SHOW}"
    words = [sharing.name, "exec", "--sharens", str(busybox_sif), "sh", "-c", meet]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", HASTE, f"@soliton-{os.getuid()}-sharens-", *words],
        cwd=sharing.cwd,
        env=sharing.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AMPLE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2 and len(set(done.stdout.splitlines())) == 1


@pytest.mark.parametrize("isolation", [(), ("--pid",)])
def test_who_comes_while_the_last_container_is_taken_away_has_a_new_one(
    sharing: Program, busybox_sif: Path, isolation: tuple[str, ...]
) -> None:
    """As in a loop of a shell: its record may be there a moment longer, and here is for three seconds."""
    words = ("exec", "--sharens", *isolation, busybox_sif, "echo", "done")
    hold = "strace -D -f -qq -o /dev/null -e trace=unlinkat -e inject=unlinkat:delay_enter=3000000"
    replace(sharing, wrapper=tuple(hold.split())).start(*words).wait(AMPLE)
    again = sharing(*words).ok()
    assert (again.out, again.err) == ("done\n", "")


def test_status_and_failures_are_those_of_exec(sharing: Program, busybox_sif: Path) -> None:
    assert siblings(sharing, 3, "exec", "--sharens", busybox_sif, "sh", "-c", "exit 7").returncode == 7
    missing = siblings(sharing, 2, "exec", "--sharens", "--bind", "/nowhere/at/all", busybox_sif, "true")
    assert missing.returncode == 255
    assert missing.stderr.count("FATAL:   the bind source `/nowhere/at/all` does not exist") == 2
    assert siblings(sharing, 2, "exec", "--sharens", busybox_sif, "nothing").returncode == 255
    for words, what in (
        (["--memory", "1G"], "limits of resources and `--sharens` exclude each other"),
        (["--unsquash"], "`--unsquash` and `--sharens` exclude each other"),
    ):
        failed = sharing("exec", "--sharens", *words, busybox_sif, "true")
        assert (failed.status, what in failed.err) == (255, True)


@pytest.mark.parametrize("kind", ["directory", "image"])
def test_a_writable_overlay_serves_all_of_them(sharing: Program, busybox_sif: Path, kind: str) -> None:
    if kind == "directory":
        (sharing.cwd / "o").mkdir()
    else:
        sharing("overlay", "create", "--size", "64", "o").ok()
    words = ("exec", "--sharens", "-o", "o", busybox_sif, "sh", "-c")
    script = "mkdir -p /ranks && touch /ranks/$$; until [ $(ls /ranks | wc -l) = 4 ]; do sleep 0.1; done"
    assert siblings(sharing, 4, *words, script).returncode == 0
    eventually(lambda: sharing("exec", "-o", "o:ro", busybox_sif, "ls", "/ranks").out.count("\n") == 4)


def test_who_comes_late_shares_the_writable_overlay_and_others_do_not(
    sharing: Program, busybox_sif: Path
) -> None:
    (sharing.cwd / "o").mkdir()
    words = ("exec", "--sharens", "-o", "o", busybox_sif, "sh", "-c")
    first = sharing.start(*words, f"echo mine > /mark; {SHOW}; exec sleep 1000")
    assert first.stdout is not None
    seen = first.stdout.readline()
    assert sharing(*words, f"cat /mark; {SHOW}").ok().out.encode() == b"mine\n" + seen
    other = siblings(sharing, 1, *words, "true")
    assert (other.returncode, "is in use" in other.stderr) == (255, True)
    first.kill()
    first.wait()


def test_each_has_its_own_variables_and_an_option_by_variable_counts(
    sharing: Program, busybox_sif: Path
) -> None:
    for name in ("SOLITON_SHARENS", "APPTAINER_SHARENS"):
        # Each waits for the others, lest the container end before they come.
        meet = f"touch {name}-$RANK; until [ $(ls | grep -c {name}-) = 3 ]; do sleep 0.1; done"
        script = f"{meet}; echo $RANK; {SHOW}"
        done = siblings(sharing.having(**{name: "1"}), 3, "exec", busybox_sif, "sh", "-c", script)
        lines = done.stdout.splitlines()
        assert sorted(line for line in lines if line.isdigit()) == ["0", "1", "2"]
        assert len({line for line in lines if ":[" in line}) == 1
