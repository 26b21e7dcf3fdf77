"""What may be stored as a shortcut: nothing that is not known through and through."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from soliton.cli import commands
from soliton.launch import plan as plans
from soliton.launch import shortcut
from soliton.launch.plan import Bind, Identity
from soliton.record import names_of, record, replace
from soliton.site import host
from soliton.site.witness import Witness
from tests.unit.compiled import RANGES, plan_for


def test_every_option_that_may_be_stored_is_one() -> None:
    command = commands.find("exec")
    shell = commands.find("shell")
    assert command and shell
    assert {option.name for option in (*command.options, *shell.options)} >= shortcut.OPTIONS


def test_every_field_that_may_be_stored_is_one() -> None:
    for name, fields in shortcut.RECORDS.items():
        assert set(names_of_class(getattr(plans, name))) >= set(fields.split()), name


def names_of_class(kind: type) -> tuple[str, ...]:
    names: tuple[str, ...] = kind.__dict__["_record"]
    return names


def test_an_ordinary_plan_is_known() -> None:
    assert shortcut.unknown_in(plan_for()) is None


def test_a_plan_with_something_new_in_it_is_not_stored() -> None:
    @record
    class Novelty:
        target: str = "/new"
        kind: str = "novelty"

    plan = plan_for()
    with_mount = replace(plan, mounts=(*plan.mounts, Novelty()))
    assert shortcut.unknown_in(with_mount) == "Novelty"
    assert shortcut.unknown_in(replace(plan, mount_at="/srv")) == "Plan.mount_at"
    assert (
        shortcut.unknown_in(replace(plan, process=replace(plan.process, emulate_root=True)))
        == "Process.emulate_root"
    )
    assert shortcut.unknown_in(replace(plan, namespaces=("net",))) == "namespace net"
    assert (
        shortcut.unknown_in(replace(plan, process=replace(plan.process, capabilities="all")))
        == "capabilities"
    )


def test_the_rule_for_the_working_directory_knows_what_is_inside_already() -> None:
    plan = plan_for()
    bare = shortcut._without_directory(plan, plan.process.cwd[0])
    assert not any(isinstance(m, Bind) and m.origin == "current directory" for m in bare.mounts)
    assert names_of(bare) == names_of(plan)


def test_a_witness_notes_what_is_opened_before_it_is_read(tmp_path: Path) -> None:
    configuration, missing = tmp_path / "soliton.toml", tmp_path / "missing.toml"
    configuration.write_text("a = 1\n")
    before = os.stat(configuration)
    witness = Witness()
    try:
        configuration.read_text()
        with pytest.raises(FileNotFoundError):
            missing.read_text()
        os.listdir(tmp_path)
        configuration.write_text("a = 2\nb = 3\n")
    finally:
        witness.end()
    noted = witness.files[str(configuration)]
    assert noted is not None
    assert noted[3:5] == (before.st_size, before.st_mtime_ns)
    assert witness.files[str(missing)] is None
    assert str(tmp_path) in witness.files
    assert witness.reason == ""


def test_a_witness_notes_where_a_program_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "newuidmap").write_text("")
    (there / "newuidmap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{there}:/nowhere")
    witness = Witness()
    try:
        assert host.program("newuidmap") == str(there / "newuidmap")
    finally:
        witness.end()
    assert witness.files[str(tmp_path / "newuidmap")] is None
    assert witness.files[str(there / "newuidmap")] is not None
    assert "/nowhere/newuidmap" not in witness.files


def test_root_by_a_map_of_ids_is_known_and_no_other_root() -> None:
    plan = plan_for("exec --fakeroot IMAGE true", subordinate=RANGES)
    assert plan.identity.newuidmap and plan.process.capabilities == "all"
    assert shortcut.unknown_in(plan) is None
    real = replace(plan, identity=Identity(0, 0))
    assert shortcut.unknown_in(real) == "capabilities"
    some = replace(plan, process=replace(plan.process, capabilities=("CAP_SYS_ADMIN",)))
    assert shortcut.unknown_in(some) == "capabilities"


@pytest.mark.parametrize("path", ["/proc/self/cgroup", "/sys/kernel/uevent_seqnum"])
def test_a_plan_made_from_what_changes_by_itself_is_not_stored(path: str) -> None:
    witness = Witness()
    try:
        if os.path.exists(path):
            Path(path).read_bytes()
        else:
            pytest.skip(f"{path} is not here")
    finally:
        witness.end()
    assert witness.reason == f"{path} was read"


def test_a_store_without_room_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "store"
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        shortcut.write(str(folder), "a" * 32, b"{}")
    assert list(folder.iterdir()) == []
