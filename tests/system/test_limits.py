"""Limits of resources, as far as this machine delegates control groups to its users; else the refusal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.program import AMPLE, Program, eventually
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
    # Who served the container's files ends after it.
    eventually(lambda: not (group / "cgroup.procs").read_text())
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


#: A systemd of the user's own, in a mount namespace where the machine looks as if it had been booted by one.
WITH_SYSTEMD = """
mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system
/lib/systemd/systemd --user > "$XDG_RUNTIME_DIR/log" 2>&1 &
manager=$!
for i in $(seq 1000); do busctl --user status org.freedesktop.systemd1 > /dev/null 2>&1 && break; sleep 0.1; done
"$@"
status=$?
kill $manager
wait $manager
exit $status
"""
SCOPE = """
from soliton.site import cgroups
print(cgroups.look().path)
print(cgroups._scope("probe"))
print(cgroups.look().path)
"""


def test_the_user_s_systemd_gives_a_scope() -> None:
    """A real one: it answers before it has moved the process, and moves it all the same."""
    group = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    if not group.strip("/"):
        pytest.skip("this process is in the uppermost control group, of which nobody is given a part")
    # The address of a socket has 108 bytes.
    runtime = Path(tempfile.mkdtemp(prefix="soliton-", dir="/tmp"))
    done = subprocess.run(
        [
            *("unshare", "--user", "--mount", "--map-current-user", "--keep-caps"),
            *("sh", "-c", WITH_SYSTEMD, "sh", sys.executable, "-c", SCOPE),
        ],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AMPLE,
        check=False,
    )
    log = (runtime / "log").read_text() if (runtime / "log").exists() else ""
    # Nobody may enter some of what systemd puts there.
    subprocess.run(["chmod", "-R", "u+rwX", runtime], check=True)
    shutil.rmtree(runtime)
    assert done.returncode == 0, done.stderr + log
    before, moved, after = done.stdout.split()
    assert moved == "True", log
    assert after.endswith(".scope") and "/soliton-" in after and after != before
