"""The other programs that start containers, where they are on the machine and work for this user."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """name: as tables show it. prefix: what stands before the command."""

    name: str
    prefix: tuple[str, ...]

    def words(self, *command: str) -> list[str]:
        return [*self.prefix, *command]


def works(peer: Peer) -> bool:
    """Whether it can start anything at all here; says why not where it is on the machine."""
    return shutil.which(peer.prefix[0]) is not None and answers(peer.name, peer.words("/bin/true"))


def answers(
    name: str,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    seconds: float = 120,
) -> bool:
    """Whether a command of a peer's goes well; says why not."""
    try:
        done = subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        left_out(name, "it does not end")
        return False
    except OSError as error:
        left_out(name, str(error))
        return False
    if done.returncode != 0:
        left_out(name, done.stderr)
    return done.returncode == 0


def left_out(name: str, why: str) -> None:
    last = (why.strip().splitlines() or ["it says nothing"])[-1]
    print(f"bench: {name} is left out: {last[-200:]}", flush=True)


def settle() -> None:
    """Ends the process in which podman keeps its namespaces: it is of the mounts that were there when it was started."""
    if shutil.which("podman"):
        subprocess.run(["podman", "system", "migrate"], capture_output=True, check=False)


def bwrap(root: Path) -> Peer:
    return Peer("bwrap, directory", ("bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"))


def found(directory: Path) -> list[Peer]:
    """Those that work, the floor last. directory: of the fixtures."""
    plain, squashfs, sif = directory / "plain", directory / "scipy.squashfs", directory / "scipy.sif"
    # Without a control group of its own, as all others here.
    podman = ("podman", "--runtime", "crun", "run", "--rm", "--cgroups=disabled", "--network=none")
    peers = [
        bwrap(plain),
        Peer("ch-run, directory", ("ch-run", str(plain), "--")),
        Peer("ch-run, squashfs", ("ch-run", str(squashfs), "--")),
        Peer("podman with crun, directory", (*podman, "--rootfs", f"{plain}:O")),
        *(Peer(f"{name}, SIF", (name, "exec", str(sif))) for name in ("apptainer", "singularity")),
        Peer("floor: unshare, chroot", ("unshare", "-Urm", "chroot", str(plain))),
    ]
    return [peer for peer in peers if works(peer)]


@contextmanager
def readers(directory: Path, kernel: Path | None, squashfuse: Path | None) -> Iterator[list[Peer]]:
    """The same files by other file systems: a directory, the kernel's mount of the image, squashfuse's."""
    peers = [Peer("plain directory", bwrap(directory / "plain").prefix)]
    for name, root in (("kernel squashfs", kernel), ("squashfuse_ll", squashfuse)):
        if root is not None:
            prefix = ("bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev")
            peers.append(Peer(name, prefix))
    yield [peer for peer in peers if works(peer)]
