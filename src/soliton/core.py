"""The one door to the native core.

The core is the program `soliton` itself, called under the name `soliton-core` with a verb and the number of a
file descriptor from which it reads one JSON request. Verbs and their requests are listed in
`docs/architecture.md`. Nothing else in the package starts the core. On the start path of `exec`: what only conversations
with the core need is imported there.
"""

from __future__ import annotations

import os
import sys

from soliton.errors import SolitonError
from soliton.record import names_of, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Any, NoReturn

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
    for directory in (os.path.dirname(sys.executable), *os.get_exec_path()):
        candidate = os.path.join(directory, "soliton")
        if os.access(candidate, os.X_OK):
            return candidate
    raise SolitonError(
        "the native program `soliton` was not found",
        why=f"it is neither beside {sys.executable} nor on PATH",
        remedy="install the soliton package again",
    )


def program_identity() -> str:
    """A word that is another one when the program is."""
    status = os.stat(program())
    return f"{status.st_size}-{status.st_mtime_ns}"


def encode(value: Any) -> Any:
    """Plain data for JSON: records and dataclasses become objects, tuples lists, paths strings. Text keeps undecodable
    bytes of file names as lone surrogates, which the wire form escapes and the core understands."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    names = names_of(value)
    if names is not None:
        return {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "items"):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def to_json(value: Any) -> str:
    """Plain data as ASCII. The package `json` would bring regular expressions, which take as long to import as everything here."""
    from _json import encode_basestring_ascii as quoted

    def written(part: Any) -> str:
        if isinstance(part, str):
            return quoted(part)
        if part is None:
            return "null"
        if isinstance(part, bool):
            return "true" if part else "false"
        if isinstance(part, int):
            return str(int(part))
        if isinstance(part, dict):
            return "{" + ",".join(f"{quoted(key)}:{written(item)}" for key, item in part.items()) + "}"
        if isinstance(part, list):
            return "[" + ",".join(map(written, part)) + "]"
        from json import dumps

        return dumps(part, allow_nan=False)

    return written(value)


def _request(value: Any) -> int:
    """A descriptor of an anonymous file that holds the request, positioned at its start. Not inherited yet."""
    rest = memoryview(to_json(encode(value)).encode("ascii"))
    fd = os.memfd_create("soliton-request")
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as error:
        os.close(fd)
        raise SolitonError(
            "the native program cannot be told what to do",
            why=f"{error.strerror}: memory is used up, or files may have but few bytes",
            remedy="raise the limits that `ulimit -f` and `ulimit -v` show",
        ) from None
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def become(verb: str, request: Any) -> NoReturn:
    """Replaces this process by the core: used to start a container."""
    core = program()
    fd = _request(request)
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
    title: str = "",
) -> subprocess.Popen[bytes]:
    """Starts the core as a child process. title: what `ps` is to show, by verbs that see to it."""
    import subprocess

    fd = _request(request)
    try:
        return subprocess.Popen(
            ["soliton-core", verb, str(fd), *([title] if title else [])],
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
    finally:
        os.close(fd)


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
    import json
    import subprocess

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


@record
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
    from base64 import b64decode

    answer = converse("read", {"root": encode(root), "paths": list(paths), "limit": limit})
    found: dict[str, FileInImage] = {}
    for entry in answer["files"]:
        found[entry["path"]] = FileInImage(
            path=entry["path"],
            kind=entry["kind"],
            mode=entry.get("mode", 0),
            size=entry.get("size", 0),
            data=b64decode(entry.get("data", "")),
            truncated=entry.get("truncated", False),
        )
    return found


def lacking_locales(root: Any, names: Sequence[str]) -> frozenset[str]:
    """Which of these locales an image or directory lacks. root: as for `read_files`."""
    answer = converse("read", {"root": encode(root), "paths": [], "limit": 0, "locales": list(names)})
    return frozenset(answer["lacking"])
