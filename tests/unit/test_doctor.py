"""What facts of a machine mean, and that a failed launch tells the same."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from soliton.record import replace
from soliton.site import causes, doctor, reasons
from soliton.site.doctor import Facts, Folder
from soliton.site.host import SubordinateIds

GOOD = {"ok": True, "errno": 0, "call": "", "detail": ""}
TRIED = ("userns", "mountns", "fuse", "overlay", "procfs_in_pidns", "seccomp")
WELL = Facts(
    probe=dict.fromkeys(TRIED, GOOD),
    settings={},
    root=False,
    subordinate=SubordinateIds((100000, 65536), (100000, 65536), "/usr/bin/newuidmap", "/usr/bin/newgidmap"),
    tables=(True, True),
    programs={"pasta": "/usr/bin/pasta"},
    controllers=("cpu", "memory", "pids"),
    devices=frozenset(),
    nvidia=None,
    temporary=Folder("/tmp", True, 1 << 40, False),
    cache=Folder("/home/ada/.cache/soliton", True, 1 << 40, False),
    runtime=None,
    slurm_job=None,
    configuration=None,
)


def bad(name: str, number: int, **settings: str) -> Facts:
    probe = {**WELL.probe, name: {"ok": False, "errno": number, "call": "x", "detail": ""}}
    return replace(WELL, probe=probe, settings={getattr(causes, key): text for key, text in settings.items()})


def test_on_a_good_machine_all_is_well() -> None:
    assert {finding.status for finding in doctor.findings(WELL)} == {"ok"}


@pytest.mark.parametrize(
    ("facts", "name", "status", "words"),
    [
        (bad("userns", errno.ENOSPC, MAX_USER="0"), "userns", "problem", "sysctl user.max_user_namespaces="),
        (bad("userns", errno.ENOSPC, MAX_USER="5"), "userns", "problem", "the limit is reached: user.max_user_namespaces = 5"),
        (bad("userns", errno.EPERM, CLONE="0"), "userns", "problem", "sysctl kernel.unprivileged_userns_clone=1"),
        (bad("userns", errno.EACCES, APPARMOR="1"), "userns", "problem", "soliton doctor --apparmor-profile"),
        (bad("userns", errno.EPERM), "userns", "problem", "seccomp=unconfined"),
        (bad("userns", errno.EINVAL), "userns", "problem", "CONFIG_USER_NS"),
        (bad("mountns", errno.ENOSPC), "mountns", "problem", "sysctl user.max_mnt_namespaces="),
        (bad("mountns", errno.EPERM, APPARMOR="1"), "mountns", "problem", "AppArmor"),
        (bad("mountns", errno.EACCES, APPARMOR="1"), "mountns", "problem", "AppArmor"),
        (bad("fuse", errno.ENOENT), "fuse", "problem", "modprobe fuse"),
        (bad("fuse", errno.EACCES), "fuse", "problem", "chmod 666 /dev/fuse"),
        (bad("overlay", errno.EPERM), "overlay", "note", "5.11"),
        (bad("procfs_in_pidns", errno.EPERM), "pidns", "note", "systempaths=unconfined"),
        (bad("seccomp", errno.EINVAL), "seccomp", "note", "CONFIG_SECCOMP_FILTER"),
        (replace(WELL, subordinate=None, tables=(True, False)), "subids", "note", "an entry in /etc/subgid"),
        (replace(WELL, controllers=None), "cgroups", "note", "enable-linger"),
        (replace(WELL, controllers=("pids",)), "cgroups", "note", "lacks cpu, memory"),
        (replace(WELL, programs={}), "network", "note", "passt"),
        (replace(WELL, nvidia="NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  x"), "gpu", "note", "nvidia-modprobe"),
        (replace(WELL, temporary=Folder("/t", False, 0, False)), "scratch", "problem", "set TMPDIR"),
        (replace(WELL, temporary=Folder("/t", True, 1 << 20, False)), "scratch", "note", "1 MiB left"),
        (replace(WELL, temporary=Folder("/t", True, 1 << 40, True)), "noexec", "note", "noexec"),
        (replace(WELL, cache=Folder("/c", False, 0, False)), "cache", "problem", "set SOLITON_CACHEDIR"),
        (replace(WELL, configuration="`x` is wrong\nbecause"), "configuration", "problem", "`x` is wrong"),
    ],
)  # fmt: skip
def test_each_hindrance_is_found_with_its_remedy(facts: Facts, name: str, status: str, words: str) -> None:
    found = doctor.findings(facts)
    (finding,) = (finding for finding in found if finding.name == name)
    assert finding.status == status
    assert words in " ".join(filter(None, (finding.what, finding.user, finding.admin)))
    # The one that matters most is the first that is read.
    assert found[0] == finding


@pytest.mark.parametrize(
    ("code", "number", "name"), [("userns", errno.EPERM, "userns"), ("fuse-missing", errno.ENOENT, "fuse"), ("fuse-denied", errno.EACCES, "fuse")]
)  # fmt: skip
def test_a_failed_launch_points_to_the_finding_that_explains_it(code: str, number: int, name: str) -> None:
    failure = reasons.explain({"code": code, "errno": number, "call": "x"})
    settings = {path: causes.read(path) for path in (causes.MAX_USER, causes.CLONE, causes.APPARMOR)}
    facts = replace(bad(name, number), settings=settings)
    (finding,) = (finding for finding in doctor.findings(facts) if finding.name == name)
    assert failure.why is not None and failure.why in finding.what
    assert failure.remedy is not None and f"`soliton doctor {name}`" in failure.remedy


@pytest.mark.parametrize("code", ["image", "mount", "overlay", "bind-target"])
def test_an_image_whose_server_has_ended_is_told_so(code: str) -> None:
    for number in (errno.ENOTCONN, errno.ECONNABORTED):
        failure = reasons.explain({"code": code, "errno": number, "call": "x"})
        assert failure.why == "the process that serves its files has ended"
    # That of a bind is another one's.
    of_bind = reasons.explain({"code": "bind-source", "errno": errno.ENOTCONN, "path": "/mnt", "call": "x"})
    assert "/mnt" in of_bind.what


@pytest.mark.parametrize(
    ("code", "number", "settings", "name", "words"),
    [
        # Debian 10 and those like it; RHEL 7; a limit that is reached; Ubuntu 24.04, by the call and by what follows it.
        ("userns", errno.EPERM, {"CLONE": "0"}, "userns", "sysctl kernel.unprivileged_userns_clone=1"),
        ("userns", errno.ENOSPC, {"MAX_USER": "0"}, "userns", "sysctl user.max_user_namespaces="),
        ("userns", errno.ENOSPC, {"MAX_USER": "9", "MAX_MOUNT": "0"}, "mountns", "user.max_mnt_namespaces"),
        ("userns", errno.ENOSPC, {"MAX_USER": "9", "MAX_MOUNT": "9"}, "userns", "end containers"),
        ("userns", errno.EPERM, {"APPARMOR": "1"}, "userns", "soliton doctor --apparmor-profile"),
        ("mount", errno.EACCES, {"APPARMOR": "1"}, "mountns", "soliton doctor --apparmor-profile"),
        ("mount", errno.EPERM, {"APPARMOR": "1"}, "mountns", "soliton doctor --apparmor-profile"),
    ],
)
def test_each_system_s_way_to_forbid_namespaces_is_told_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, code: str, number: int, settings: dict[str, str], name: str, words: str
) -> None:
    texts = {getattr(causes, key): text for key, text in settings.items()}
    # The functions' own default is the reader that looks at this machine.
    for function in (causes.userns, causes.mountns, causes.refused_namespaces):
        monkeypatch.setattr(function, "__defaults__", (texts.get,))
    monkeypatch.setattr(causes, "read", texts.get)
    failure = reasons.explain({"code": code, "errno": number, "call": "x"})
    assert failure.remedy is not None
    assert words in f"{failure.why} {failure.remedy}"
    assert failure.remedy.endswith(f"`soliton doctor {name}` tells more")


def test_the_profile_names_the_program_and_nothing_can_be_slipped_in() -> None:
    text = doctor.apparmor_profile("/opt/with blank/bin/soliton")
    assert 'profile soliton "/opt/with blank/bin/soliton" flags=(unconfined) {\n  userns,\n' in text
    for hostile in ('/x" {} y', "/x\n", "/x/**"):
        with pytest.raises(ValueError, match="/x"):
            doctor.apparmor_profile(hostile)


def test_every_finding_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    worst: Any = replace(
        WELL, subordinate=None, tables=(False, False), controllers=None, programs={}, temporary=Folder("/t", False, 0, True)
    )  # fmt: skip
    for finding in doctor.findings(worst):
        assert finding.status == "ok" or finding.user or finding.admin
