"""Emulators that containers have of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soliton.build import emulation
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot, DirectSurface, Emulator, Environment, Identity, Plan, Process

HERE = architecture.host_architecture()
FOREIGN = "riscv64" if HERE == "s390x" else "s390x"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the administrator of this machine has registered."""
    monkeypatch.setattr(architecture, "runnable", lambda name: name == HERE)


def plan() -> Plan:
    process = Process("exec", ("x",), Environment(), cwd=("/",))
    return Plan(Identity(0, 0), DirectoryRoot("/r"), DirectSurface(), (), process)


@pytest.fixture
def new_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:2], "6.7.0-x", *uname[3:])))


def qemu(folder: Path, name: str, *, interpreter: bool = False) -> Path:
    """A program of one header, which asks for a loader or not."""
    head = architecture.elf_head(architecture.host_architecture())
    assert head is not None
    rest = (
        bytes(12)
        + (64).to_bytes(8, "little")
        + bytes(14)
        + (56).to_bytes(2, "little")
        + (1).to_bytes(2, "little")
    )
    path = folder / name
    path.write_bytes(
        (head + rest).ljust(64, b"\0") + (3 if interpreter else 1).to_bytes(4, "little") + bytes(52)
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("release", "has"),
    [("6.7.0", True), ("6.18.44-x", True), ("10.0", True), ("6.6.99", False), ("5.15", False), ("", False)],
)
def test_since_when_a_container_has_a_table(release: str, has: bool) -> None:
    assert emulation.has_tables(release) is has


def test_a_rule_takes_programs_of_that_architecture_alone() -> None:
    end, name, kind, offset, magic, mask, program, flags = emulation.rule("arm64", "/usr/bin/qemu x").split(
        ":"
    )
    assert (end, name, kind, offset, program, flags) == (
        "",
        "soliton-arm64",
        "M",
        "",
        "/usr/bin/qemu x",
        "PF",
    )
    assert magic.count("\\x") == mask.count("\\x") == 20
    assert magic.endswith("\\x02\\x00\\xb7\\x00") and mask.endswith("\\xfe\\xff\\xff\\xff")
    assert emulation.rule("s390x", "/q").split(":")[5].endswith("\\xff\\xfe\\xff\\xff")
    assert emulation.rule("arm64", "/a:b").split("|")[6] == "/a:b"


@pytest.mark.usefixtures("new_kernel")
def test_a_static_emulator_is_shown_to_the_step(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    with pytest.raises(BuildError, match="cannot run on this machine") as caught:
        emulation.furnished(plan(), FOREIGN, "x.sif", environment)
    assert "qemu-user-static" in str(caught.value.remedy)
    qemu(tmp_path, f"qemu-{FOREIGN}", interpreter=True)
    assert emulation.find(FOREIGN, environment) is None
    static = qemu(tmp_path, f"qemu-{FOREIGN}-static")
    (mount,) = emulation.furnished(plan(), FOREIGN, "x.sif", environment).mounts
    assert isinstance(mount, Emulator) and mount.content == emulation.rule(FOREIGN, str(static))
    for native in ("", HERE):
        assert emulation.furnished(plan(), native, "x.sif", environment) == plan()


def test_an_old_kernel_needs_the_administrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:2], "6.1.0", *uname[3:])))
    qemu(tmp_path, f"qemu-{FOREIGN}-static")
    assert emulation.find(FOREIGN, {"PATH": str(tmp_path)}) is None
    assert "flag F" in emulation.remedy()
