"""Confinement that a user asks for is there when the program starts, or the container does not start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.system.program import Program

FORBIDS = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
}
DOCKERS = Path("/usr/share/containers/seccomp.json")


def test_a_profile_holds_for_the_program_and_for_the_images_scripts(
    soliton: Program, busybox_sandbox: Path, tmp_path: Path
) -> None:
    profile = soliton.cwd / "profile with spaces.json"
    profile.write_text(json.dumps(FORBIDS))
    root = tmp_path / "root"
    soliton("build", "--sandbox", root, busybox_sandbox).ok()
    script = root / ".singularity.d/env/95-own.sh"
    script.write_text("FROM_SCRIPT=$(mkdir /tmp/from-script-$$ 2>&1 || true)\nexport FROM_SCRIPT\n")
    security = f"seccomp:{profile}"
    done = soliton(
        "exec",
        "--security",
        security,
        root,
        "sh",
        "-c",
        'mkdir x; echo "$FROM_SCRIPT"; cat /proc/self/status',
    )
    assert "No space left" in done.err
    assert "No space left" in done.ok().out
    assert "Seccomp:\t2" in done.out
    assert not (soliton.cwd / "x").exists()
    soliton("exec", "--pid", "--security", security, root, "sh", "-c", "! mkdir x").ok()


def test_a_profile_is_seen_to_hold_before_the_program_starts(soliton: Program, busybox_sif: Path) -> None:
    """Also one that would forbid the launcher to look itself."""
    looking = ["open", "openat", "read", "pread64", "close", "futex", "clone", "clone3", "wait4"]
    (soliton.cwd / "narrow.json").write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": looking, "action": "SCMP_ACT_KILL_PROCESS"}],
            }
        )
    )
    words = ("exec", "--no-eval", "--security", "seccomp:narrow.json")
    assert soliton(*words, busybox_sif, "/bin/true").status == 0
    assert soliton(*words, busybox_sif, "/bin/cat", "/etc/passwd").status == -signal.SIGSYS
    # Where there is no /proc inside.
    assert soliton(*words, "--no-mount", "proc", busybox_sif, "/bin/true").status == 0


def test_a_group_alone_leaves_the_user_who_they_are(
    soliton: Program, busybox_sif: Path, has_subordinate_ids: bool
) -> None:
    done = soliton("exec", "--security", "gid:7", busybox_sif, "sh", "-c", "id -u; id -g; touch made")
    if not has_subordinate_ids:
        assert (done.status, done.out) == (255, "")
        assert "subordinate ids" in done.err
        return
    assert done.ok().out.split() == [str(os.getuid()), "7"]
    # On the host it is theirs.
    assert (soliton.cwd / "made").stat().st_uid == os.getuid()


def test_without_setgroups_nobody_inside_gives_up_a_group(soliton: Program, busybox_sif: Path) -> None:
    def allowed(*words: str) -> str:
        return soliton("exec", *words, busybox_sif, "cat", "/proc/self/setgroups").ok().out.strip()

    assert allowed("--fakeroot", "--no-setgroups") == "deny"
    assert allowed("--no-setgroups") == "deny"


@pytest.mark.skipif(not DOCKERS.exists(), reason="the profile of Debian's containers is not installed")
def test_the_profile_that_docker_and_podman_use_is_taken(soliton: Program, busybox_sif: Path) -> None:
    security = f"seccomp:{DOCKERS}"
    done = soliton(
        "exec", "--pid", "--security", security, busybox_sif, "sh", "-c", "ls / && mount -t tmpfs x /tmp"
    )
    assert "bin" in done.out
    assert done.status != 0


def test_a_profile_that_cannot_be_used_starts_nothing(soliton: Program, busybox_sif: Path) -> None:
    (soliton.cwd / "bad.json").write_text("{")
    for name in ("bad.json", "missing.json", "."):
        result = soliton("exec", "--security", f"seccomp:{name}", busybox_sif, "echo", "started")
        assert (result.status, result.out) == (255, "")
        assert f"`{name}`" in result.err


def test_another_user_needs_subordinate_ids(
    soliton: Program, busybox_sif: Path, has_subordinate_ids: bool
) -> None:
    script = "id -u; id -g; grep CapEff /proc/self/status; id -G"
    result = soliton("exec", "--security", "uid:1001,gid:7:8", busybox_sif, "sh", "-c", script)
    if has_subordinate_ids:
        assert result.ok().out.splitlines() == ["1001", "7", "CapEff:\t0000000000000000", "7 8"]
    else:
        assert result.status == 255
        assert "need subordinate ids" in result.err


def test_a_label_that_the_kernel_does_not_know_is_an_error(soliton: Program, busybox_sif: Path) -> None:
    active = {
        "apparmor": Path("/sys/module/apparmor/parameters/enabled").exists(),
        "selinux": Path("/sys/fs/selinux/enforce").exists(),
    }
    for kind in active:
        result = soliton("exec", "--security", f"{kind}:no-such-label", busybox_sif, "echo", "started")
        assert (result.status, result.out) == (255, ""), kind
        assert active[kind] or "is not active on this machine" in result.err


def test_setuid_programs_work_where_that_is_asked_for(
    soliton: Program, busybox_sif: Path, has_subordinate_ids: bool
) -> None:
    status = ["grep", "NoNewPrivs", "/proc/self/status"]
    assert soliton("exec", busybox_sif, *status).ok().out.split()[-1] == "1"
    allowed = soliton("exec", "--fakeroot", "--allow-setuid", busybox_sif, *status)
    if has_subordinate_ids:
        assert allowed.ok().out.split()[-1] == "0"
    else:
        assert allowed.status == 255
        assert "`--allow-setuid` needs root" in allowed.err


def test_capabilities_are_those_that_were_asked_for(soliton: Program, busybox_sif: Path) -> None:
    def effective(*options: str) -> int:
        words = ["grep", "CapEff", "/proc/self/status"]
        return int(soliton("exec", *options, busybox_sif, *words).ok().out.split()[-1], 16)

    assert os.geteuid() != 0
    assert effective() == 0
    assert effective("--add-caps", "CAP_CHOWN,net_raw") == 1 << 0 | 1 << 13
    assert effective("--fakeroot", "--no-privs") == 0
    assert effective("--fakeroot", "--no-privs", "--add-caps", "chown") == 1
    assert not effective("--fakeroot", "--drop-caps", "CAP_CHOWN") & 1
    assert effective("--fakeroot", "--drop-caps", "all") == 0
