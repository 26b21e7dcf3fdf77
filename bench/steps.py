"""Builds of which little has changed: the image again, one line over a large base, the last of ten steps of a Dockerfile.

The peers build the same from the same userland where they are on the machine and work for this user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import once
from bench.peers import answers, left_out, settle
from bench.table import Row

#: Who writes into the cache of builds that Charliecloud keeps in git.
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "bench"), ("EMAIL", "bench@localhost"))
}

_TEN = "".join(f"RUN echo {number} > /opt/step-{number}\n" for number in range(1, 10))


def unchanged(directory: Path, program: Path, runs: int) -> list[Row]:
    """A definition over the large image, built again with nothing changed; and with the image gone."""
    work, environment = _place(directory)
    (work / "r.def").write_text(
        f"Bootstrap: localimage\nFrom: {directory / 'scipy.sif'}\n%post\n    echo built > /opt/x\n"
    )
    words = [str(program), "build", "--force", str(work / "out.sif"), str(work / "r.def")]
    first = _once(words, environment)
    same = min(_once(words, environment) for _ in range(runs))

    def anew() -> float:
        (work / "out.sif").unlink()
        return _once(words, environment)

    gone = min(anew() for _ in range(runs))
    shutil.rmtree(work)
    title = "build: large base and one line"
    return [
        Row(f"{title}, first", "soliton", first, limit="<= 3 s", holds=first <= 3),
        Row(f"{title}, unchanged", "soliton", same, limit="<= 0.3 s", holds=same <= 0.3),
        Row(f"{title}, unchanged, image deleted", "soliton", gone),
    ]


def ten(directory: Path, program: Path, runs: int) -> list[Row]:
    """A Dockerfile of ten steps over the large userland, its last step edited every time."""
    work, environment = _place(directory)
    own = [str(program), "build", "--force", str(work / "out.sif"), str(work)]
    rows = [_ten("soliton, a SIF", runs, work, f"{directory}/scipy.sif", own, environment)]
    for name, base, words in _peers(directory, work):
        try:
            rows.append(_ten(name, min(runs, 2), work, base, words, {**os.environ, **_AUTHOR}))
        except RuntimeError as error:
            left_out(name, str(error))
    _remove(work)
    return rows


def _ten(
    name: str, runs: int, work: Path, base: str, words: Sequence[str], environment: dict[str, str]
) -> Row:
    _edited(work, base, "first")
    _once(words, environment)
    took = []
    for number in range(runs):
        _edited(work, base, f"edit-{number}-{os.getpid()}")
        took.append(_once(words, environment))
    return Row("build: Dockerfile, last of ten steps edited", name, min(took))


def _edited(work: Path, base: str, text: str) -> None:
    (work / "Dockerfile").write_text(f"FROM {base}\n{_TEN}RUN echo {text} > /opt/last\n")


def _peers(directory: Path, work: Path) -> list[tuple[str, str, list[str]]]:
    """(name, base, command) of those that can be given the userland here."""
    found: list[tuple[str, str, list[str]]] = []
    if shutil.which("podman"):
        common = ["podman", "--storage-driver", "overlay", "--root", str(work / "podman")]
        # Of the tar, since what is pulled without a history cannot be built upon step by step.
        if _works([*common, "import", "--quiet", str(directory / "scipy.tar"), "localhost/base"]):
            build = ["build", "--runtime", "crun", "--isolation", "chroot", "--layers", "--quiet"]
            found.append(("podman build", "localhost/base", [*common, *build, "-t", "out", str(work)]))
    if shutil.which("ch-image"):
        common = ["ch-image", "--storage", str(work / "charliecloud")]
        if _works([*common, "import", str(directory / "plain"), "base"]):
            found.append(("ch-image build", "base", [*common, "build", "-t", "out", str(work)]))
    return found


def _works(words: Sequence[str]) -> bool:
    return answers(words[0], words, {**os.environ, **_AUTHOR}, seconds=600)


def _once(words: Sequence[str], environment: dict[str, str]) -> float:
    return once(list(words), env=environment)[0]


def _remove(work: Path) -> None:
    """Files of peers belong to subordinate ids, and may be mounted still in the namespaces that podman keeps."""
    if work.exists():
        settle()
        inside = ["podman", "unshare"] if shutil.which("podman") else []
        subprocess.run([*inside, "rm", "-rf", str(work)], capture_output=True, check=False)


def _place(directory: Path) -> tuple[Path, dict[str, str]]:
    work = directory / "steps"
    _remove(work)
    work.mkdir()
    return work, {**os.environ, "SOLITON_CACHEDIR": str(work / "cache"), "TMPDIR": str(directory / "tmp")}


ALL: dict[str, Callable[[Path, Path, int], list[Row]]] = {"unchanged": unchanged, "ten-steps": ten}
