"""CDI specifications, lists of a driver's files, and what a library tells of itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from soliton.api.action import asks_for_devices
from soliton.api.devices import furnished
from soliton.cli.action import request_of
from soliton.cli.parser import parse
from soliton.errors import SolitonError
from soliton.launch import nvidia
from soliton.launch.cdi import edits
from soliton.launch.plan import Bind
from soliton.site import drivers, elf
from soliton.site.config import Config
from tests.unit.compiled import bound, plan_for


def specification(kind: str = "v/c", **device: Any) -> Any:
    return {"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": "0", **device}]}


def test_a_later_directory_wins_and_two_in_one_are_ambiguous() -> None:
    first = specification(containerEdits={"env": ["A=first"]})
    second = specification(containerEdits={"env": ["A=second"]})
    assert edits(("v/c=0",), [(0, "a", first), (1, "b", second)]).environment == (("A", "second"),)
    with pytest.raises(SolitonError, match="is described twice"):
        edits(("v/c=0",), [(0, "a", first), (0, "b", second)])


@pytest.mark.parametrize(
    "edit",
    [
        {"env": ["A"]},
        {"env": [1]},
        {"mounts": [{"hostPath": "/a"}]},
        {"mounts": [{"hostPath": "a", "containerPath": "/a"}]},
        {"mounts": [{"hostPath": "/a", "containerPath": "/b/../../etc"}]},
        {"mounts": [{"hostPath": "/a", "containerPath": "/a", "options": ["shared"]}]},
        {"mounts": {}},
        {"deviceNodes": [{"path": "dev/null"}]},
        {"deviceNodes": ["x"]},
        [],
    ],
)
def test_hostile_specifications_are_refused(edit: Any) -> None:
    with pytest.raises(SolitonError, match="the CDI specification `f` cannot be used"):
        edits(("v/c=0",), [(0, "f", specification(containerEdits=edit or [1]))])


def test_a_device_node_may_be_used() -> None:
    (bind,) = edits(
        ("v/c=0",), [(0, "f", specification(containerEdits={"deviceNodes": [{"path": "/dev/x"}]}))]
    ).mounts
    assert (bind.source, bind.target, bind.nodev) == ("/dev/x", "/dev/x", False)


def test_a_list_finds_libraries_programs_and_files(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text(
        f"# a comment\nlibc.so\nsh\n{tmp_path}\n/missing\nlibmissing.so\nno-such-program\n"
    )
    found = drivers.find("own.conf", str(tmp_path))
    assert [name for name, _ in found.libraries] == ["libc.so.6"]
    assert [Path(path).name for path in found.programs] == ["sh"]
    assert found.files == (str(tmp_path),)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_tells_its_name_and_the_c_library_it_needs(tmp_path: Path) -> None:
    source, path = tmp_path / "x.c", tmp_path / "x"
    source.write_text('#include <stdio.h>\nint answer(void) { return puts("x"); }\n')
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libx.so.7", "-o", path, source], check=True)
    library = elf.read(str(path))
    assert library is not None
    assert (library.soname, (library.machine, library.bits)) == ("libx.so.7", elf.own_machine())
    assert library.glibc >= (2, 2)
    whole = path.read_bytes()
    for cut in (0, 10, 63, 64, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        elf.read(str(path))


def test_a_file_that_is_no_library_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x7fELF" + b"\xff" * 200)
    assert elf.read(str(tmp_path / "x")) is None
    assert elf.read(str(tmp_path / "missing")) is None
    assert elf.read(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, "--compute --utility"),
        ({"NVIDIA_DRIVER_CAPABILITIES": "video, graphics"}, "--video --graphics"),
        (
            {"NVIDIA_DRIVER_CAPABILITIES": "all"},
            "--compute --compat32 --graphics --utility --video --display",
        ),
        ({"NVIDIA_MIG_CONFIG_DEVICES": "all"}, "--mig-config=all --compute --utility"),
        ({"NVIDIA_MIG_MONITOR_DEVICES": "0"}, "--mig-monitor=0 --compute --utility"),
        ({"NVIDIA_REQUIRE_B": "b", "NVIDIA_REQUIRE_A": "a"}, "--compute --utility --require=a --require=b"),
        ({"NVIDIA_REQUIRE_A": "a", "NVIDIA_DISABLE_REQUIRE": "1"}, "--compute --utility"),
    ],
)
def test_variables_that_nvidia_s_tool_gets_as_options(variables: dict[str, str], options: str) -> None:
    assert nvidia.flags(variables, "0") == ("--no-cgroups", "--device=0", *options.split())
    assert nvidia.flags(variables, "") == ("--no-cgroups", *options.split())


@pytest.mark.parametrize(
    ("line", "always", "shown"),
    [
        ("--nv", False, True),
        ("", True, True),
        ("--no-nv", True, False),
        ("--nv --no-nv", True, False),
        ("", False, False),
    ],
)
def test_a_site_may_show_the_driver_to_everybody(
    monkeypatch: pytest.MonkeyPatch, line: str, always: bool, shown: bool
) -> None:
    monkeypatch.setattr(drivers, "find", lambda name: drivers.Driver(programs=("/usr/bin/nvidia-smi",)))
    config = Config(always_use_nv=always)
    invocation = parse("soliton", ["exec", *line.split(), "IMAGE", "x"], {})
    request = request_of("exec", invocation)
    assert asks_for_devices(request, config) == shown
    plan = furnished(plan_for("exec --bind /data IMAGE x"), request, config, {})
    assert bool(bound(plan, "--nv")) == shown
    # The user's own binds come last, and may cover anything.
    assert [mount.origin for mount in plan.mounts if isinstance(mount, Bind)][-2:][0] == "--bind"
