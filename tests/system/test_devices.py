"""Drivers and devices of the host, shown to a container: with libraries of the test's own making, as no GPU is at hand."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.program import Program

LIBS = "/.singularity.d/libs"


def library(folder: Path, name: str, version: str = "") -> Path:
    """A shared library with a name of its own that needs the C library, of a version if asked for."""
    source = folder / "x.c"
    source.write_text('#include <stdio.h>\nint answer(void) { return puts("x"); }\n')
    path = folder / f"{name}.550.54"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", path, source], check=True)
    return path


def test_without_a_driver_the_container_starts_and_says_so(soliton: Program, busybox_sif: Path) -> None:
    for flag in ("nv", "rocm"):
        done = soliton("exec", f"--{flag}", busybox_sif, "echo", "started").ok()
        assert done.out == "started\n"
        assert done.err == "" or f"Could not find any {flag} files on this host!" in done.err
        assert soliton("exec", f"--{flag}", f"--no-{flag}", busybox_sif, "true").ok().err == ""


def test_libraries_of_the_host_are_shown(soliton: Program, busybox_sif: Path) -> None:
    path = library(soliton.cwd, "libown.so.1")
    done = soliton(
        "exec", "--containlibs", path, busybox_sif, "sh", "-c", f"ls {LIBS}; echo $LD_LIBRARY_PATH"
    ).ok()
    assert done.out.splitlines() == [path.name, LIBS]
    assert "is not a file" in soliton("exec", "--containlibs", "missing", busybox_sif, "true").err


@pytest.fixture
def specification(soliton: Program) -> Path:
    folder = soliton.cwd / "cdi specs"
    folder.mkdir()
    driver = library(soliton.cwd, "libcuda.so.1")
    (soliton.cwd / "data").mkdir()
    (soliton.cwd / "data/file").write_text("of the host\n")
    content = {
        "cdiVersion": "0.6.0",
        "kind": "example.org/gpu",
        "containerEdits": {
            "env": ["GENERAL=1"],
            "mounts": [
                {
                    "hostPath": str(driver),
                    "containerPath": "/usr/lib/libcuda.so.550.54",
                    "options": ["ro", "bind"],
                }
            ],
            "hooks": [{"hookName": "createContainer", "path": "/bin/false"}],
        },
        "devices": [
            {
                "name": "0",
                "containerEdits": {
                    "env": ["CARD=$HOME 0"],
                    "deviceNodes": [{"path": "/dev/own0", "hostPath": "/dev/null"}],
                    "mounts": [
                        {
                            "hostPath": str(soliton.cwd / "data"),
                            "containerPath": "/opt/card",
                            "options": ["ro"],
                        }
                    ],
                },
            },
            {"name": "1", "containerEdits": {"env": ["CARD=1"]}},
        ],
    }
    (folder / "example.json").write_text(json.dumps(content))
    return folder


def test_a_device_by_its_cdi_name(soliton: Program, busybox_sif: Path, specification: Path) -> None:
    script = f'echo "$GENERAL $CARD"; ls {LIBS} /usr/lib; cat /opt/card/file; echo x > /dev/own0; test -c /dev/own0; touch /opt/card/y'
    words = ["--contain", "--cdi-dirs", specification, "--device", "example.org/gpu=0", busybox_sif]
    done = soliton("exec", *words, "sh", "-c", script)
    assert done.out.splitlines()[0] == "1 $HOME 0"
    assert "libcuda.so.1" in done.out
    assert "libcuda.so.550.54" in done.out
    assert "of the host" in done.out
    assert "Read-only file system" in done.err
    assert "1 hooks of the CDI specification are not run" in done.err


@pytest.mark.parametrize(
    ("device", "what"),
    [
        ("example.org/gpu=7", "there is no CDI device `example.org/gpu=7`"),
        ("example.org/gpu", "`example.org/gpu` is not a CDI device"),
        ("gpu=0", "`gpu=0` is not a CDI device"),
    ],
)
def test_a_device_that_is_not_there(
    soliton: Program, busybox_sif: Path, specification: Path, device: str, what: str
) -> None:
    result = soliton("exec", "--cdi-dirs", specification, "--device", device, busybox_sif, "echo", "started")
    assert (result.status, result.out) == (255, "")
    assert what in result.err


def test_a_specification_that_cannot_be_read_is_named(soliton: Program, busybox_sif: Path) -> None:
    folder = soliton.cwd / "specs"
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    result = soliton("exec", "--cdi-dirs", folder, "--device", "a/b=c", busybox_sif, "true")
    assert result.status == 255
    assert "broken.json` cannot be read" in result.err


CONTAINER_CLI = """\
#!{python}
import ctypes, os, sys
# What the real one takes, as far as anybody passes it.
words = sys.argv[1:]
flags = {{"--no-cgroups", "--compute", "--compat32", "--graphics", "--utility", "--video", "--display"}}
texts = ("--device=", "--mig-config=", "--mig-monitor=", "--require=", "--ldconfig=@/")
user = words[:1] == ["--user"]
if user:
    words = words[1:]
if words[:1] != ["configure"] or not words[1:]:
    sys.exit("nvidia-container-cli: usage error")
*options, root = words[1:]
for option in options:
    if option not in flags and not option.startswith(texts):
        sys.exit("nvidia-container-cli: unrecognized option: " + option)
if "--device=broken" in options:
    sys.exit("nvidia-container-cli: device error: broken: unknown device")
if not root.startswith("/") or not os.path.isdir(root + "/usr"):
    sys.exit("nvidia-container-cli: container error: no rootfs")
if not user and os.getuid() != 0:
    sys.exit("nvidia-container-cli: initialization error")
if os.path.realpath("/proc/%d/ns/mnt" % os.getppid()) == "":
    sys.exit("nvidia-container-cli: container error: no namespace")
with open(root + "/etc/told", "w") as file:
    print(*options, file=file)
    print(*sorted(os.environ), os.getcwd(), file=file)
smi = root + "/etc/smi"
open(smi, "w").close()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"{source}", smi.encode(), None, 4096, None):
    sys.exit("nvidia-container-cli: mount error: " + os.strerror(ctypes.get_errno()))
"""


@pytest.fixture
def with_tool(soliton: Program) -> Program:
    """A program that takes what NVIDIA's takes, binds a file into the root, and notes what it was told."""
    folder = soliton.cwd / "bin"
    folder.mkdir()
    source = soliton.cwd / "driver"
    source.write_text("of the driver\n")
    tool = folder / "nvidia-container-cli"
    tool.write_text(CONTAINER_CLI.format(python=sys.executable, source=source))
    tool.chmod(0o755)
    return soliton.having(PATH=f"{folder}:{Path(soliton.name).parent}:{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.mark.parametrize("option", ["--ipc", "--pid", "--fakeroot", "--contain", "--no-privs"])
def test_nvidia_s_own_tool_sets_a_container_up(with_tool: Program, busybox_sif: Path, option: str) -> None:
    asked = with_tool.having(
        NVIDIA_VISIBLE_DEVICES="0,1",
        NVIDIA_DRIVER_CAPABILITIES="compute,video",
        NVIDIA_REQUIRE_CUDA="cuda>=9.0",
        LD_PRELOAD="",
    )
    result = asked("exec", "--nvccli", option, busybox_sif, "cat", "/etc/smi", "/etc/told").ok()
    assert result.err == "INFO:    Setting --writable-tmpfs (required by nvidia-container-cli)\n"
    content, options, variables = result.out.splitlines()
    assert content == "of the driver"
    first = "--no-cgroups --device=0,1 --compute --video --require=cuda>=9.0 --ldconfig=@/"
    assert options.startswith(first)
    # Python adds the first; nothing else is the caller's or the image's.
    assert variables.removeprefix("LC_CTYPE ") == "PATH /"


def test_the_payload_has_none_of_the_tool_s_rights(with_tool: Program, busybox_sif: Path) -> None:
    line = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status"
    result = with_tool("exec", "--nvccli", busybox_sif, "sh", "-c", line).ok()
    assert [row.split()[1] for row in result.out.splitlines()] == ["0" * 16] * 4


def test_the_tool_s_end_is_seen_where_children_are_not_waited_for(
    with_tool: Program, busybox_sif: Path
) -> None:
    careless = dataclasses.replace(with_tool, wrapper=("sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"))
    assert "of the driver" in careless("exec", "--nvccli", busybox_sif, "cat", "/etc/smi").ok().out


def test_what_nvidia_s_tool_will_do_is_explained(with_tool: Program, busybox_sif: Path) -> None:
    asked = ("exec", "--explain", "--nvccli", busybox_sif, "true")
    text = with_tool(*asked).ok().out
    assert "Helpers" in text and "nvidia-container-cli --user configure --no-cgroups --device=all" in text
    assert "adds the GPU's driver to the root, --nvccli" in text
    assert "of memory and are forgotten (nvidia-container-cli writes there, --nvccli" in text
    found = json.loads(with_tool(*asked[:2], "--json", *asked[2:]).ok().out)
    ((words, why),) = found["helpers"]
    assert words.endswith("ROOT") and why.endswith("--nvccli")
    with_tool("config", "set", "--user", "use-nvidia-container-cli", "true").ok()
    text = with_tool("exec", "--explain", "--nv", busybox_sif, "true").ok().out
    assert "adds the GPU's driver to the root, use-nvidia-container-cli (" in text


def test_a_site_may_use_nvidia_s_tool_for_everybody(with_tool: Program, busybox_sif: Path) -> None:
    with_tool("config", "set", "--user", "use-nvidia-container-cli", "true").ok()
    result = with_tool("exec", "--nv", busybox_sif, "cat", "/etc/told").ok()
    assert "--device=all --compute --utility" in result.out
    assert with_tool("exec", busybox_sif, "test", "-e", "/etc/told").status == 1


def test_what_goes_wrong_with_nvidia_s_tool(with_tool: Program, soliton: Program, busybox_sif: Path) -> None:
    result = soliton("exec", "--nvccli", busybox_sif, "true")
    assert result.status == 255 and "which is not on this machine" in result.err
    for variable, value, what in (
        ("NVIDIA_VISIBLE_DEVICES", "broken", "device error: broken: unknown device"),
        ("NVIDIA_DRIVER_CAPABILITIES", "flying", "`flying` in NVIDIA_DRIVER_CAPABILITIES is not known"),
    ):
        result = with_tool.having(**{variable: value})("exec", "--nvccli", busybox_sif, "echo", "started")
        assert (result.status, result.out) == (255, "") and what in result.err
        assert result.err.count("\n") <= 4
    contained = with_tool("exec", "-c", "--nvccli", busybox_sif, "cat", "/etc/told").ok()
    assert "--device" not in contained.out and "shows no GPU unless NVIDIA_VISIBLE_DEVICES" in contained.err
