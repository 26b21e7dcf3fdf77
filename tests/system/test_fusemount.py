"""`--fusemount`: file systems that programs of the host or of the image serve, and that end with the container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.program import AMPLE, Program, eventually
from tests.system.test_overlays import tool

TYPES = ["host", "host-daemon", "container", "container-daemon"]


@pytest.fixture(scope="session")
def image(shared: Program, busybox_sandbox: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small image with the host's squashfuse_ll and its libraries in it, and something for it to serve."""
    root = tmp_path_factory.mktemp("fuse") / "root"
    shutil.copytree(busybox_sandbox, root, symlinks=True)
    program = tool("squashfuse_ll")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *(word for word in listed.split() if word.startswith("/"))]:
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path[1:])
    (root / "data").mkdir()
    (root / "data/f").write_text("served\n")
    make = [tool("mksquashfs"), str(root / "data"), str(root / "data.sqfs"), "-quiet", "-no-progress"]
    subprocess.run(make, check=True)
    target = shared.cwd / "fuse.sif"
    shared("build", target, root).ok()
    shutil.copy(root / "data.sqfs", shared.cwd / "data.sqfs")
    return target


def spec(kind: str, image: Path, place: str = "/mnt") -> str:
    served = "/data.sqfs" if kind.startswith("container") else image.parent / "data.sqfs"
    return f"{kind}:squashfuse_ll {served} {place}"


def servers() -> list[int]:
    found = []
    for pid in processes.own():
        program, *words = processes.command_of(pid) or [""]
        if program.endswith("squashfuse_ll") and any("data.sqfs" in word for word in words):
            found.append(pid)
    return found


def require_none() -> None:
    eventually(lambda: not servers(), lambda: f"left: {servers()}")


@pytest.mark.parametrize("kind", TYPES)
def test_a_program_serves_a_place_as_long_as_the_container_lives(
    soliton: Program, image: Path, kind: str
) -> None:
    script = "cat /mnt/f; grep ' /mnt ' /proc/mounts; ls /proc/self/fd"
    done = soliton("exec", "--fusemount", spec(kind, image), image, "sh", "-c", script).ok()
    first, mounted, *descriptors = done.out.splitlines()
    assert first == "served"
    assert mounted.startswith("squashfuse_ll /mnt fuse.fusemount ")
    # The payload has none of it: 3 is the listing's own.
    assert descriptors == ["0", "1", "2", "3"]
    require_none()
    # Through the variable, and beside the option.
    again = soliton.having(APPTAINER_FUSESPEC=spec(kind, image))
    assert again("exec", "--containall", image, "cat", "/mnt/f").ok().out == "served\n"
    require_none()


@pytest.mark.parametrize("kind", TYPES)
def test_a_container_that_is_killed_takes_its_programs_with_it(
    soliton: Program, image: Path, kind: str
) -> None:
    words = ("--fusemount", spec(kind, image), image, "sh", "-c", "cat /mnt/f; exec sleep 1000")
    container = soliton.start("exec", *words)
    assert container.stdout is not None
    assert container.stdout.readline() == b"served\n"
    assert servers()
    container.kill()
    container.wait()
    require_none()


def test_a_program_that_is_killed_is_an_error_of_the_files_and_not_of_the_container(
    soliton: Program, image: Path
) -> None:
    script = "cat /mnt/f; until [ -e go ]; do sleep 0.1; done; cat /mnt/f || echo gone"
    container = soliton.start("exec", "--fusemount", spec("host", image), image, "sh", "-c", script)
    assert container.stdout is not None
    assert container.stdout.readline() == b"served\n"
    for number in servers():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    require_none()
    (soliton.cwd / "go").touch()
    out, _ = container.communicate(timeout=AMPLE)
    assert (out, container.returncode) == (b"gone\n", 0)


def test_several_and_an_instance(soliton: Program, image: Path) -> None:
    alone = soliton.having(SOLITON_IMAGE_SERVER="off")
    several = ("--fusemount", spec("host", image), "--fusemount", spec("container", image, "/srv"))
    alone("instance", "start", *several, image, "served").ok()
    try:
        assert alone("exec", "instance://served", "cat", "/mnt/f", "/srv/f").ok().out == "served\nserved\n"
    finally:
        alone("instance", "stop", "served").ok()
    require_none()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("host:no-such-program x /mnt", "the program `no-such-program` of `--fusemount` serves nothing"),
        ("container:no-such-program x /mnt", "the program `no-such-program` of `--fusemount` serves nothing"),
        ("host:squashfuse_ll /no/such/file /mnt", "it ended before /mnt was there"),
        ("container:squashfuse_ll /no/such/file /mnt", "it ended before /mnt was there"),
        ("container-daemon:squashfuse_ll /no/such/file /mnt", "it ended before /mnt was there"),
        ("squashfuse_ll /data.sqfs /mnt", "has no type"),
        ("guest:squashfuse_ll /data.sqfs /mnt", "has no type"),
        ("container:/mnt", "names no program and place"),
        ("container:squashfuse_ll mnt", "`mnt` of `--fusemount` is not an absolute path"),
    ],
)
def test_what_cannot_be_served_starts_nothing(soliton: Program, image: Path, given: str, what: str) -> None:
    failed = soliton("exec", "--fusemount", given, image, "echo", "started")
    assert (failed.status, failed.out) == (255, "")
    assert what in failed.err
    own = [line for line in failed.err.splitlines() if line.startswith(("FATAL:", "         "))]
    assert len(own) <= 3
    require_none()
