"""The one door to the native core.

The core is the program `soliton` itself, called under the name `soliton-core` with a verb and the number of a
file descriptor from which it reads one JSON request. Verbs and their requests are listed in
`docs/architecture.md`. Nothing else in the package starts the core.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from soliton.errors import SolitonError

#: Set by the core when it hands over to Python, so that Python finds the very same program again.
CORE_VARIABLE = "_SOLITON_CORE"


class CoreError(SolitonError):
    """A failure reported by the core: `code` is a stable word, `detail` the core's own record."""

    def __init__(self, code: str, message: str, detail: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


def program() -> str:
    """Absolute path of the core: as handed over, else beside the interpreter, else on PATH."""
    handed = os.environ.get(CORE_VARIABLE)
    if handed and os.access(handed, os.X_OK):
        return handed
    beside = Path(sys.executable).parent / "soliton"
    if os.access(beside, os.X_OK):
        return str(beside)
    for directory in os.get_exec_path():
        candidate = Path(directory) / "soliton"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise SolitonError(
        "the native program `soliton` was not found",
        why=f"it is neither beside {sys.executable} nor on PATH",
        remedy="install the soliton package again",
    )


def encode(value: Any) -> Any:
    """Plain data for JSON: dataclasses become objects, tuples lists, paths strings. Text keeps undecodable
    bytes of file names as lone surrogates, which the wire form escapes and the core understands."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


@contextlib.contextmanager
def _request(value: Any) -> Iterator[int]:
    """The request in an anonymous file that a child inherits, positioned at its start."""
    fd = os.memfd_create("soliton-request", 0)
    try:
        with os.fdopen(os.dup(fd), "wb") as out:
            out.write(json.dumps(encode(value), ensure_ascii=True).encode("ascii"))
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def become(verb: str, request: Any) -> NoReturn:
    """Replaces this process by the core: used to start a container."""
    core = program()
    with _request(request) as fd:
        os.set_inheritable(fd, True)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(core, ["soliton-core", verb, str(fd)])


def start(
    verb: str,
    request: Any,
    *,
    pass_fds: Sequence[int] = (),
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    process_group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts the core as a child process."""
    with _request(request) as fd:
        return subprocess.Popen(
            ["soliton-core", verb, str(fd)],
            executable=program(),
            pass_fds=(fd, *pass_fds),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            process_group=process_group,
            # A file that meets the limit on file sizes is an error of write(2) and not the core's death.
            restore_signals=False,
        )


def converse(
    verb: str,
    request: Mapping[str, Any],
    on_event: Callable[[dict[str, Any]], None] | None = None,
    *,
    pass_fds: Sequence[int] = (),
    close_fds: Sequence[int] = (),
) -> dict[str, Any]:
    """Runs a verb that reports by JSON lines and returns its last record, `{"event": "done", …}`.

    close_fds: of those passed, the ones that are closed here once the core has them (reading ends of pipes).

    Every earlier record goes to `on_event`. Raises CoreError for `{"event": "error", …}` and when the core ends
    without a last word. An exception here (Ctrl-C too) ends the core before it is passed on.
    """
    read_end, write_end = os.pipe()
    try:
        child = start(
            verb, {**request, "events": write_end}, pass_fds=(write_end, *pass_fds), stdin=subprocess.DEVNULL
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
        for fd in close_fds:
            os.close(fd)
    done: dict[str, Any] | None = None
    try:
        with os.fdopen(read_end, "rb") as stream:
            for line in stream:
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "error":
                    raise CoreError(event["code"], event["message"], event)
                if event["event"] == "done":
                    done = event
                elif on_event is not None:
                    on_event(event)
    except BaseException:
        child.terminate()
        raise
    finally:
        status = child.wait()
    if done is None:
        raise CoreError("died", f"the native core ended unexpectedly during `{verb}` (status {status})", {})
    return done


@dataclass(frozen=True)
class FileInImage:
    """One answer of `read_files`: `kind` is file, directory, symlink, other or missing; `data` for files."""

    path: str
    kind: str
    mode: int = 0
    size: int = 0
    data: bytes = b""
    truncated: bool = False


def read_files(root: Any, paths: Sequence[str], *, limit: int = 1 << 20) -> dict[str, FileInImage]:
    """Reads small files out of an image or directory without mounting or running it.

    root: an ImageRoot or DirectoryRoot. paths: absolute inside the root, links resolved inside it; a trailing
    `/*` lists a directory's files and reads each. At most `limit` bytes of each file.
    """
    answer = converse("read", {"root": encode(root), "paths": list(paths), "limit": limit})
    found: dict[str, FileInImage] = {}
    for record in answer["files"]:
        found[record["path"]] = FileInImage(
            path=record["path"],
            kind=record["kind"],
            mode=record.get("mode", 0),
            size=record.get("size", 0),
            data=base64.b64decode(record.get("data", "")),
            truncated=record.get("truncated", False),
        )
    return found
