"""`doctor` on this machine, and where a restriction is really there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.program import Program

NO_NAMESPACES = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
ONE_NAMESPACE = 'echo 1 > /proc/sys/user/max_user_namespaces && exec unshare -U "$@"'
NO_MOUNTS = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
NO_FUSE = 'mount -t tmpfs none /dev && touch /dev/null && exec "$@"'


def within(soliton: Program, script: str) -> Program:
    """The program inside a user namespace of which a script has taken something away."""
    return replace(soliton, wrapper=("unshare", "-Urm", "sh", "-c", script, "sh"))


def test_this_machine_can_run_containers(soliton: Program, has_subordinate_ids: bool) -> None:
    found = json.loads(soliton("doctor", "--json").ok().out)["findings"]
    status = {finding["name"]: finding["status"] for finding in found}
    assert [name for name, word in status.items() if word == "problem"] == []
    assert status["userns"] == status["fuse"] == "ok"
    assert status["subids"] == ("ok" if has_subordinate_ids else "note")
    assert soliton("doctor", "userns").ok().out == "ok       userns    user namespaces can be made\n"


@pytest.mark.parametrize(
    ("script", "name", "remedy"),
    [
        (NO_NAMESPACES, "userns", "sysctl user.max_user_namespaces=15000"),
        (
            ONE_NAMESPACE,
            "userns",
            "the limit is reached: user.max_user_namespaces of a container around this one",
        ),
        (NO_MOUNTS, "mountns", "sysctl user.max_mnt_namespaces=15000"),
        (NO_FUSE, "fuse", "modprobe fuse"),
    ],
)
def test_a_restriction_is_found_and_the_failed_start_points_to_it(
    soliton: Program, busybox_sif: Path, script: str, name: str, remedy: str
) -> None:
    restricted = within(soliton, script)
    found = restricted("doctor")
    assert found.status == 1
    assert found.out.startswith(f"PROBLEM  {name} ")
    assert remedy in found.out
    failed = restricted("exec", busybox_sif, "true")
    assert failed.status == 255
    assert f"`soliton doctor {name}`" in failed.err


@pytest.mark.parametrize(
    ("options", "name", "why"),
    [
        ("noexec", "noexec", "programs there cannot be executed (noexec)"),
        ("size=64k", "scratch", "no space is left there"),
    ],
)
def test_a_temporary_directory_that_will_not_do_is_told_with_the_finding(
    soliton: Program, busybox_sif: Path, options: str, name: str, why: str
) -> None:
    place = soliton.cwd / "place"
    place.mkdir()
    script = f'mount -t tmpfs -o {options} none "{place}" && exec "$@"'
    restricted = within(soliton.having(TMPDIR=str(place)), script)
    failed = restricted("exec", "--unsquash", busybox_sif, "echo", "started")
    assert (failed.status, failed.out) == (255, "")
    assert why in failed.err and f"`soliton doctor {name}`" in failed.err
    assert len(failed.err.splitlines()) == 3
    assert restricted("doctor", name).out.startswith("note ")


def test_a_file_that_may_not_be_executed_is_not_called_missing(
    soliton: Program, busybox_sandbox: Path
) -> None:
    (soliton.cwd / "tool").write_text("x")
    for word in ("tool", "./tool"):
        result = soliton("exec", "--env", f"PREPEND_PATH={soliton.cwd}", busybox_sandbox, word)
        assert result.status == 255
        assert result.err == f'FATAL:   "{word}" cannot be executed\n         Permission denied\n'


def test_a_place_that_cannot_be_written_is_a_problem(soliton: Program) -> None:
    (soliton.cwd / "closed").mkdir(mode=0o555)
    closed = soliton.having(SOLITON_CACHEDIR=str(soliton.cwd / "closed"))
    found = closed("doctor", "cache")
    assert (found.status, "set SOLITON_CACHEDIR" in found.out) == (1, True)


def test_a_configuration_that_makes_no_sense_is_a_problem_and_not_the_end(soliton: Program) -> None:
    (soliton.cwd / "soliton.toml").write_text("mount-hom = true\n")
    found = soliton.having(SOLITON_CONFIGDIR=str(soliton.cwd))("doctor")
    assert found.status == 1
    assert "soliton.toml:1" in found.out and "did you mean `mount-home`?" in found.out


def test_a_finding_that_does_not_exist(soliton: Program) -> None:
    assert soliton("doctor", "weather").status == 1
