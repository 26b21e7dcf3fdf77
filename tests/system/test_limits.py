"""Limits of resources, as far as this machine delegates control groups to its users; else the refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.program import Program
from tests.system.test_errors import fatal

FILE = '[[hugepageLimits]]\npageSize = "2MB"\nlimit = 4194304\n'


def delegated() -> Path | None:
    """The group above this test's, if it is this user's and has a controller: prepared by scripts/test."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
            group = top / line.removeprefix("0::/")
            above = group.parent
            if line.startswith("0::/") and os.access(above / "cgroup.subtree_control", os.W_OK):
                return above
    return None


def test_a_limit_holds_or_is_refused(soliton: Program, busybox_sif: Path) -> None:
    # A server that images share outlives those whom it serves by a while.
    soliton = soliton.having(SOLITON_IMAGE_SERVER="off")
    (soliton.cwd / "limits.toml").write_text(FILE)
    result = soliton(
        "exec", "--apply-cgroups", "limits.toml", busybox_sif, "grep", "^0::", "/proc/self/cgroup"
    )
    above = delegated()
    if above is None or "hugetlb" not in (above / "cgroup.controllers").read_text():
        assert "hugetlb" in fatal(result)
        return
    group = above / result.ok().out.strip().rpartition("/")[2]
    assert group.name.startswith("soliton-")
    assert (group / "hugetlb.2MB.max").read_text() == "4194304\n"
    # An instance, and who joins it.
    soliton("instance", "start", "--apply-cgroups", "limits.toml", busybox_sif, "limited").ok()
    try:
        where = ("exec", "instance://limited", "grep", "^0::", "/proc/self/cgroup")
        inside = above / soliton(*where).ok().out.strip().rpartition("/")[2]
        assert "-limited-" in inside.name and (inside / "hugetlb.2MB.max").read_text() == "4194304\n"
        assert not group.exists()  # swept: its container has ended
        assert "limited" in soliton("instance", "stats", "--no-stream", "limited").ok().out
    finally:
        soliton("instance", "stop", "limited")


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        (["--memory", "1x"], "--memory"),
        (["--cpus", "100000"], "--cpus"),
        (["--apply-cgroups", "missing.toml"], "missing.toml"),
        (["--oom-kill-disable"], "--oom-kill-disable"),
        (["--blkio-weight-device", "/dev/null:100"], "/dev/null"),
    ],
)
def test_what_cannot_be_had_is_refused(
    soliton: Program, busybox_sif: Path, flag: list[str], word: str
) -> None:
    assert word in fatal(soliton("exec", *flag, busybox_sif, "true"))


def test_a_limit_that_nobody_delegates_is_refused_and_nothing_runs(
    soliton: Program, busybox_sif: Path
) -> None:
    """The unified key names a controller that no kernel has."""
    (soliton.cwd / "limits.toml").write_text('[unified]\n"imagined.max" = "1"\n')
    result = soliton("exec", "--apply-cgroups", "limits.toml", busybox_sif, "touch", "made")
    assert "imagined" in fatal(result)
    assert not (soliton.cwd / "made").exists()
