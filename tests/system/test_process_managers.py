"""Process managers that start the ranks of a job: what they hand each rank arrives in its container."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.system.program import AMPLE, Program

#: Talks PMI-1 with the process manager, and says which descriptors there are.
TALK = """\
eval "exec 7<&$PMI_FD" 2>/dev/null || { echo "no descriptor"; exit 1; }
printf 'cmd=init pmi_version=1 pmi_subversion=1\\n' >&7
read -r answer <&7
printf 'cmd=finalize\\n' >&7
read -r end <&7
echo "$PMI_RANK: $answer, $end"
"""


@pytest.mark.parametrize("words", [(), ("--pid",), ("--sharens",), ("--unsquash",)], ids=" ".join)
def test_ranks_talk_with_mpich(soliton: Program, busybox_sif: Path, words: tuple[str, ...]) -> None:
    hydra = shutil.which("mpiexec.hydra")
    assert hydra is not None
    # The second time by the stored plan: another rank's number is not in it.
    for _ in range(2):
        command = [soliton.name, "exec", *words, str(busybox_sif), "sh", "-c", TALK]
        result = subprocess.run(
            [hydra, "-n", "2", *command],
            cwd=soliton.cwd,
            env=soliton.environment(),
            capture_output=True,
            text=True,
            timeout=AMPLE,
        )
        answer = "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0, cmd=finalize_ack"
        assert sorted(result.stdout.splitlines()) == [f"{rank}: {answer}" for rank in range(2)], result


def test_nothing_but_a_socket_of_the_callers_is_handed_on(soliton: Program, busybox_sif: Path) -> None:
    here, there = socket.socketpair()
    with here, there, open("/etc/passwd") as file:
        script = "n=3; while [ $n -lt 300 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n + 1)); done; :"

        def kept(number: str, *words: str) -> str:
            result = subprocess.run(
                [soliton.name, "exec", *words, str(busybox_sif), "sh", "-c", script],
                cwd=soliton.cwd,
                env={**soliton.environment(), "PMI_FD": number},
                pass_fds=(there.fileno(), file.fileno()),
                capture_output=True,
                text=True,
                timeout=AMPLE,
            )
            assert result.returncode == 0, result
            return result.stdout.strip()

        ours = str(there.fileno())
        for _ in range(2):
            assert kept(ours) == ours
            for number in (str(file.fileno()), "-1", "2", "250", "x", f"{ours}x", "99999999999999999999", ""):
                assert kept(number) == "", number
        # Who does not see the variable is not given the socket.
        assert kept(ours, "--cleanenv") == ""
