"""The installed program as a user meets it: run it, read what it printed and its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

#: Seconds after which something hangs, however slow and busy the machine is; no measure of anything.
AMPLE = 300.0


def eventually(
    condition: Callable[[], object], say: Callable[[], str] = lambda: "it never came about"
) -> None:
    """Returns as soon as the condition holds; the test fails with what `say` tells if it never does."""
    end = time.monotonic() + AMPLE
    while not condition():
        assert time.monotonic() < end, say()
        time.sleep(0.02)


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    def ok(self) -> Result:
        """This result, if the command succeeded; the test fails with both outputs if it did not."""
        assert self.status == 0, f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        return self


def find_program() -> str:
    """`soliton` beside the interpreter that runs the tests: what `pip install` put there."""
    program = Path(sys.executable).parent / "soliton"
    assert program.exists(), f"{program} is missing: install the package first (`make`)"
    return str(program)


@dataclass(frozen=True)
class Program:
    """`soliton` with a home, a cache and a working directory of its own.

    Call it with arguments: `soliton("exec", image, "true").ok()`. `wrapper` is put before the command line. `again`: a start may be
    repeated to see that one from a stored plan ends alike.
    """

    home: Path
    cwd: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    name: str = field(default_factory=find_program)
    again: bool = True

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(self.name).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.home / "tmp"),
            "SOLITON_CACHEDIR": str(self.home / "cache"),
            **{key: os.environ[key] for key in ("SOLITON_SHORTCUT",) if key in os.environ},
            **self.variables,
        }

    def having(self, **variables: str) -> Program:
        return replace(self, variables={**self.variables, **variables})

    def within(self, cwd: Path) -> Program:
        return replace(self, cwd=cwd)

    def once(self) -> Program:
        """For starts that leave something behind, or end by chance."""
        return replace(self, again=False)

    def __call__(self, *arguments: object, stdin: str | None = None, timeout: float = 3 * AMPLE) -> Result:
        first = self._run(arguments, stdin, timeout)
        starts = arguments[0] in ("exec", "run", "test", "shell") and self.again and not self.wrapper
        if not starts or not os.environ.get("SOLITON_TEST_WARM"):
            return first
        # Again, with the plan that the first call stored: nobody may see a difference in how it ends.
        second = self._run(arguments, stdin, timeout)
        assert (second.status, second.err) == (first.status, first.err)
        return second

    def _run(self, arguments: Sequence[object], stdin: str | None, timeout: float) -> Result:
        done = subprocess.run(
            [*self.wrapper, self.name, *map(str, arguments)],
            cwd=self.cwd,
            env=self.environment(),
            input=stdin.encode() if stdin is not None else None,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Result(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """The program in the background, in a process group of its own, as a shell starts a job."""
        return subprocess.Popen(
            [*self.wrapper, self.name, *map(str, arguments)],
            cwd=self.cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )


def interrupt(process: subprocess.Popen[bytes]) -> Result:
    """Ctrl-C: the terminal sends SIGINT to the whole foreground group."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=AMPLE)
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
