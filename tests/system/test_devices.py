"""Drivers and devices of the host, shown to a container: with libraries of the test's own making, as no GPU is at hand."""

from __future__ import annotations

import json
import subprocess
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
