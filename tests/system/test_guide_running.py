"""The guide's chapter on running, section by section and line by line, as a reader would type it.

What a machine may lack is made up: drivers and tools by programs of these names, a server by one on the loopback. Where something cannot
be had (subordinate ids, control groups), the line has to be refused, with the message that says so.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.program import AMPLE, Program
from tests.system.registry import free_port
from tests.system.test_limits import FILE as LIMITS
from tests.system.test_limits import delegated
from tests.system.test_overlays import tool

RUNNING = Path(__file__).parents[2] / "docs/guide/running.md"
#: Programs that the examples call in the image, and nothing depends on what they do.
PROGRAMS = "python3 pip psql make"
DRIVER = "#!/bin/sh\necho the driver\n"
#: Starts two of what it is to start eight of, as the one parent of both.
MPIRUN = '#!/bin/sh\nshift 2\n"$@" & first=$!\n"$@" && wait $first\n'
#: Makes a program of the driver in the root, the last of its words.
CONTAINER_CLI = "#!/bin/sh\nfor root; do :; done\ncp {driver} $root/usr/bin/nvidia-smi\n"


def sections() -> dict[str, list[str]]:
    """The command lines under each heading."""
    found: dict[str, list[str]] = {}
    heading, inside = "", False
    for line in RUNNING.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside:
            found.setdefault(heading, []).append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


SECTIONS = sections()


def test_every_line_of_the_chapter_is_found() -> None:
    assert len(SECTIONS) >= 12
    assert sum(len(lines) for lines in SECTIONS.values()) > 60


@pytest.fixture(scope="session")
def guide_image(shared: Program, busybox_sandbox: Path) -> Path:
    """An image with everything that the examples call in it."""
    root = Path(shutil.copytree(busybox_sandbox, shared.cwd / "guide-root", symlinks=True))
    for folder in ("opt", "usr/bin", "sbin", ".singularity.d"):
        (root / folder).mkdir(exist_ok=True)
    for name in ("su", "ip", "wget", "nc", "ps"):
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc/inittab").write_text("::sysinit:/bin/true\n")
    for name in PROGRAMS.split():
        write(root / "bin" / name, "#!/bin/sh\n")
    for name, text in (("runscript", 'echo "$@"'), ("startscript", "sleep 1000 &"), ("test", "true")):
        write(root / ".singularity.d" / name, f"#!/bin/sh\n{text}\n")
    with open(root / "etc/passwd", "a") as file:
        file.write("user:x:500:500::/:/bin/sh\n")
    image = shared.cwd / "guide.sif"
    shared("build", image, root).ok()
    return image


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def reader(soliton: Program, guide_image: Path) -> Iterator[Program]:
    """Somebody with the files that the examples name, and with drivers."""
    here = soliton.cwd
    for folder in ("data", "results", "bin"):
        (here / folder).mkdir()
    (here / "data/table.csv").write_text("1,2\n")
    subprocess.run([tool("mksquashfs"), "data", "data.sqfs", "-quiet", "-no-progress"], cwd=here, check=True)
    shutil.copy(guide_image, here / "image.sif")
    for name in ("program", "solver"):
        write(here / name, "#!/bin/sh\n")
    (here / "job.env").write_text("THREADS=4\n")
    (here / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    (here / "limits.toml").write_text(LIMITS)
    for name in ("nvidia-smi", "rocminfo"):
        write(here / "bin" / name, DRIVER)
    write(here / "bin/mpirun", MPIRUN)
    write(here / "bin/nvidia-container-cli", CONTAINER_CLI.format(driver=here / "bin/nvidia-smi"))
    (soliton.home / "cdi").mkdir()
    for kind, name in (("nvidia.com/gpu", "0"), ("example.org/card", "all")):
        mount = {
            "hostPath": str(here / "bin/nvidia-smi"),
            "containerPath": "/usr/bin/nvidia-smi",
            "options": ["ro"],
        }
        device = {"name": name, "containerEdits": {"mounts": [mount]}}
        specification = {"cdiVersion": "0.5.0", "kind": kind, "devices": [device]}
        (soliton.home / "cdi" / f"{kind.partition('.')[0]}.json").write_text(json.dumps(specification))
    path = f"{here / 'bin'}:{soliton.environment()['PATH']}:/usr/sbin:/sbin"
    yield soliton.having(PATH=path)
    if soliton("instance", "list", "--json").ok().out.count('"pid"'):
        soliton("instance", "stop", "--all", "--force")


@contextmanager
def web_server() -> Iterator[int]:
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def refusal(line: str, has_subordinate_ids: bool) -> str | None:
    """What a line is refused with on this machine; None: it has to work."""
    if ("uid:" in line or "gid:" in line or "--allow-setuid" in line) and not has_subordinate_ids:
        return "subordinate ids"
    if "apparmor:" in line:
        return "apparmor"  # no module, or no such profile
    if "container:sshfs" in line:
        return "serves nothing"  # no such program in the image
    needed = {
        controller
        for flag, controller in (
            ("--memory", "memory"),
            ("--cpus ", "cpu"),
            ("--pids-limit", "pids"),
            ("--cpuset-cpus", "cpuset"),
            ("--apply-cgroups", "hugetlb"),
        )
        if flag in line
    }
    above = delegated()
    there = set((above / "cgroup.controllers").read_text().split()) if above else set()
    return None if needed <= there else "cannot be had here"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_of_the_guide_works_as_it_stands(
    reader: Program, section: str, has_subordinate_ids: bool
) -> None:
    with web_server() as port:
        replaced = {
            # Nobody is to depend on the network, on ports that are free, or on what this machine is.
            "--net image.sif wget https://example.org": (
                f"--net --network-args hostport={port}/tcp image.sif wget -q -O - http://127.0.0.1:{port}/"
            ),
            # One port each: what carried the first may still hold it.
            "127.0.0.1:8080": f"127.0.0.1:{free_port()}",
            "8080": str(free_port()),
            "--cpuset-cpus 0-3": "--cpuset-cpus 0",
            "--device nvidia": "--cdi-dirs ~/cdi --device nvidia",
        }
        other = reader.start(
            "exec", "--net", "--network", "none", "image.sif", "sh", "-c", "echo; exec sleep 1000"
        )
        assert other.stdout and other.stdout.readline() == b"\n"
        replaced["4711"] = str(other.pid)
        try:
            work_through(reader, SECTIONS[section], replaced, has_subordinate_ids)
        finally:
            other.kill()
            other.communicate(timeout=AMPLE)


def work_through(
    reader: Program, lines: list[str], replaced: dict[str, str], has_subordinate_ids: bool
) -> None:
    # All at once: a port may well have the digits of what another one stands for.
    given = re.compile("|".join(map(re.escape, replaced)))
    for written in lines:
        line = given.sub(lambda match: replaced[match[0]], written)
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=reader.cwd,
            env=reader.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=AMPLE,
        )
        refused = refusal(line, has_subordinate_ids)
        if refused is None:
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            if "nvidia-smi" in line or "rocminfo" in line:
                assert done.stdout == "the driver\n", f"{line}\n{done.stderr}"
            if "wget" in line:
                assert done.stdout == "hello"
            continue
        assert done.returncode == 255, f"{line}\n{done.stderr}"
        assert refused in done.stderr.lower(), f"{line}\n{done.stderr}"
        if "instance start" in line:
            # The lines that follow speak of it.
            reader("instance", "start", "image.sif", "web").ok()
