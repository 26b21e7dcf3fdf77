"""How builds from Dockerfiles stop, go on, and share their work: interrupted, killed, out of room, two at once, and with many steps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from soliton.build import workspace
from tests.system.program import AMPLE, Program, eventually, interrupt

#: A mount namespace of the caller's own, in which it may still mount.
MOUNTING = ("unshare", "-m", "--map-current-user", "--keep-caps", "sh", "-c")


@pytest.fixture
def project(soliton: Program, busybox_sif: Path) -> Program:
    shutil.copy(busybox_sif, soliton.cwd / "base.sif")
    return soliton


def write(soliton: Program, text: str) -> None:
    (soliton.cwd / "Dockerfile").write_text(f"FROM ./base.sif\n{text}")


class Told:
    """What a build in the background has said so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.lines = process, list[str]()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace"))

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def until(self, words: str) -> None:
        eventually(lambda: words in self.text or not self.thread.is_alive(), lambda: self.text)
        assert words in self.text, self.text

    def end(self) -> str:
        self.process.wait(AMPLE)
        self.thread.join(AMPLE)
        assert not self.thread.is_alive(), "somebody still has the program's output"
        return self.text


def running(word: str) -> list[str]:
    """Processes of this user with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes() and path.stat().st_uid == os.getuid():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def left_in(soliton: Program) -> set[str]:
    return {path.name for path in soliton.cwd.iterdir()} - {"base.sif", "Dockerfile", "big"}


def swept(soliton: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed build could not take away is removed by a later one, as soon as nobody can just have made it."""
    monkeypatch.setattr(workspace, "YOUNG", -1.0)
    assert len(os.listdir(soliton.home / "tmp")) <= 1, "only a killed build leaves its own"
    workspace.sweep(str(soliton.home / "tmp"), workspace.NAME, None)


def test_ctrl_c_in_a_run_ends_everything_and_the_next_build_goes_on(project: Program) -> None:
    write(project, "RUN echo one > /one\nRUN echo begun; sleep 5151 & sleep 5152\n")
    process = project.start("build", "image.sif", ".")
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    ended = interrupt(process)
    assert ended.status in (130, -signal.SIGINT) and "Traceback" not in ended.err
    eventually(lambda: not running("sleep\x005151") and not running("sleep\x005152"))
    assert not left_in(project)
    write(project, "RUN echo one > /one\nRUN true\n")
    assert "RUN echo one > /one (cached)" in project("build", "image.sif", ".").ok().err


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.3, 0.45, 0.6])
def test_ctrl_c_in_a_copy_or_while_writing_leaves_nothing_or_an_image(project: Program, delay: float) -> None:
    (project.cwd / "big").write_bytes(os.urandom(1 << 20) * 48)
    write(project, "COPY big /one\nCOPY big /two\n")
    process = project.start("build", "image.sif", ".")
    time.sleep(delay)
    ended = interrupt(process)
    assert "Traceback" not in ended.err
    left = left_in(project)
    assert left == {"image.sif"} or (ended.status and not left)
    if left:  # It came when the image had its name: then that is whole.
        assert project("exec", "image.sif", "stat", "-c", "%s", "/two").ok().out == f"{48 << 20}\n"
    assert not list((project.home / "cache/steps/layers").glob(".*")), "a half-written result was left"
    project("build", "--force", "image.sif", ".").ok()
    assert project("exec", "image.sif", "stat", "-c", "%s", "/two").ok().out == f"{48 << 20}\n"


def test_a_killed_build_takes_its_processes_with_it(
    project: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "RUN echo one > /one\nRUN echo begun; sleep 5253\n")
    process = project.start("build", "image.sif", ".")
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate()
    eventually(lambda: not running("sleep\x005253"))
    assert not left_in(project)
    write(project, "RUN echo one > /one\nRUN true\n")
    assert "RUN echo one > /one (cached)" in project("build", "image.sif", ".").ok().err
    swept(project, monkeypatch)


def test_two_builds_of_one_step_do_it_once_and_the_second_takes_over_from_a_killed_one(
    project: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = project.cwd / "gate"
    gate.mkdir()
    mounts = "--mount=type=bind,source=gate,target=/gate --mount=type=cache,target=/c"
    write(
        project,
        f"RUN {mounts} echo x >> /c/n; echo begun; until test -e /gate/go; do sleep 0.1; done; cp /c/n /n\n",
    )
    first = Told(project.start("build", "first.sif", "."))
    # It has the step, and has written, before the other one comes and it is killed.
    assert first.process.stdout is not None and first.process.stdout.readline() == b"begun\n"
    second = Told(project.start("build", "second.sif", "."))
    second.until("another build is at it")
    first.process.kill()
    first.end()
    eventually(lambda: second.text.count("[2/3]") == 2)
    third = Told(project.start("build", "third.sif", "."))
    third.until("another build is at it")
    (gate / "go").touch()
    assert "(cached)" not in second.end() and second.process.returncode == 0, second.text
    assert "(cached)" in third.end() and third.process.returncode == 0, third.text
    assert project("exec", "third.sif", "cat", "/n").ok().out == "x\nx\n"
    assert (project.cwd / "second.sif").read_bytes() == (project.cwd / "third.sif").read_bytes()
    assert not list((project.home / "cache/steps/locks").iterdir())
    eventually(lambda: not running("/gate/go"))
    swept(project, monkeypatch)


@pytest.mark.parametrize(
    ("full", "instruction", "told"),
    [
        ("tmp", "RUN dd if=/dev/zero of=/big bs=1M count=60", "the temporary directory"),
        ("tmp", "COPY big /big", "the temporary directory"),
        ("cache", "COPY big /big", "a result of a step is not kept: no space is left"),
        ("image", "COPY big /big", "no space is left"),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(
    project: Program, full: str, instruction: str, told: str
) -> None:
    (project.cwd / "big").write_bytes(os.urandom(30 << 20))
    write(project, f"{instruction}\n")
    small = project.cwd / "small"
    small.mkdir()
    variable = {"tmp": "TMPDIR", "cache": "SOLITON_CACHEDIR", "image": "UNUSED"}[full]
    target = "small/image.sif" if full == "image" else "image.sif"
    script = 'mount -t tmpfs -o size=12m none small && "$@"; status=$?; ls -A small >&2; exit $status'
    tight = Program(
        project.home,
        project.cwd,
        {variable: str(small)},
        wrapper=(*MOUNTING, script, "sh"),
        name=project.name,
    )
    # In a namespace that has one id there are no others to be had.
    failed = tight("build", "--ignore-subuid", target, ".")
    assert told in failed.err and "Traceback" not in failed.err, failed.err
    assert failed.err.splitlines()[-1] != "image.sif" and "soliton-build-" not in failed.err.splitlines()[-1]
    # The cache is a help, not a condition.
    assert failed.status == (0 if full == "cache" else 255)
    assert left_in(project) == ({"small", "image.sif"} if full == "cache" else {"small"})


def test_a_hundred_and_fifty_steps_hide_and_show_what_they_should(project: Program) -> None:
    steps = [
        "RUN mkdir -p /d/e && echo 0 > /d/e/old && ln -s e /d/l && echo 0 > /f",
        *(f"RUN echo {n} >> /all; echo {n} > /d/{n}; rm -f /d/{n - 1}" for n in range(70)),
        # Gone and there again, as something else.
        "RUN rm -r /d/e && mkdir /d/e && echo new > /d/e/new && rm /f && mkdir /f && rm -r /bin/../home",
        *(f"RUN echo {n} >> /all; echo {n} > /d/e/{n}; rm -f /d/e/{n - 1}" for n in range(70, 147)),
        "RUN test $(wc -l < /all) = 147 && test ! -e /d/e/old && test -d /f && test ! -e /home && ls -R /d > /list",
    ]
    assert len(steps) == 150
    write(project, "\n".join(steps) + "\n")
    project("build", "image.sif", ".").ok()
    seen = project("exec", "--no-home", "image.sif", "sh", "-c", "ls -R /d; wc -l < /all; ls -d /f /home").out
    assert seen == "/d:\n69\ne\nl\n\n/d/e:\n146\nnew\n147\n/f\n"
    assert project("exec", "image.sif", "cat", "/list").ok().out == "/d:\n69\ne\nl\n\n/d/e:\n146\nnew\n"
