"""The private directory in which one build happens, and its end.

    soliton-build-XXXXXXXX/      0700
        stage-N/base             what an agent makes where there is no image to start from
        stage-N/upper, work      what the stage writes, as an overlay
        stage-N/root             where the stage's root is mounted for `%setup`
        stage-N/…                scripts, records of failures

It holds only what is new: a base image stays where it is. Files in it may belong to mapped ids, so that only the core can
remove it. The directory must lie on a file system that can be the upper of an overlay; `/tmp` often is memory, so
the default is `/var/tmp`.

A build holds a lock on its workspace. One that was killed could not clean up: the next build in the same place removes what
nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from soliton import core
from soliton.errors import BuildError, TargetError
from soliton.launch.plan import Identity
from soliton.site import config as configuration
from soliton.site import paths
from soliton.site.paths import PREFIXES
from soliton.undisturbed import undisturbed

NAME = "soliton-build-"
#: One that is to stay.
KEPT_NAME = "soliton-kept-"
#: What is younger may not have been locked yet, in seconds.
YOUNG = 60.0
#: Searched where nobody says otherwise: disk first.
DEFAULTS = ("/var/tmp", "/tmp")
#: Variables that name the place, strongest first.
VARIABLES = (*(f"{prefix}TMPDIR" for prefix in PREFIXES), "TMPDIR")


@dataclass(frozen=True)
class Workspace:
    """path: absolute."""

    path: str

    def place(self, *parts: str) -> str:
        """A path inside. Its directories are made, the last part is not."""
        whole = os.path.join(self.path, *parts)
        os.makedirs(os.path.dirname(whole), mode=0o700, exist_ok=True)
        return whole

    def folder(self, *parts: str, mode: int = 0o700) -> str:
        """A new directory inside."""
        whole = self.place(*parts)
        os.mkdir(whole)
        os.chmod(whole, mode)
        return whole


def parent(option: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
    """Where workspaces are made, and who says so: `--tmpdir`, a variable, or the default."""
    if option:
        return os.path.abspath(option), "--tmpdir"
    for name in VARIABLES:
        if environment.get(name):
            return os.path.abspath(environment[name]), name
    configured = configuration.current().config.tmp_dir
    if configured:
        home = paths.home_of_caller(environment)
        return paths.filled("tmp-dir", configured, environment, home), "tmp-dir in the configuration"
    for default in DEFAULTS:
        if os.path.isdir(default) and os.access(default, os.W_OK | os.X_OK):
            return default, "the default"
    return tempfile.gettempdir(), "the default"


@contextlib.contextmanager
def workspace(
    parent: str, origin: str, identity: Identity | None, *, keep: bool = False
) -> Iterator[Workspace]:
    """A new workspace in `parent`; when the block ends, however it ends, nothing of it is left.

    origin: what names `parent`, for messages. identity: whose ids the files may belong to. keep: leave it there.
    """
    sweep(parent, NAME, identity)
    path = held = None
    try:
        with undisturbed():
            path = _made(parent, origin, KEPT_NAME if keep else NAME)
            held = hold(path)
        yield Workspace(path)
    finally:
        if path is not None and not keep:
            with undisturbed():
                remove(path, identity)
        if held is not None:
            os.close(held)


def _made(parent: str, origin: str, prefix: str) -> str:
    try:
        return tempfile.mkdtemp(prefix=prefix, dir=parent)
    except OSError as error:
        raise TargetError(
            f"no temporary directory can be made in `{parent}`",
            why=f"{error.strerror} ({origin})",
            remedy="name a directory on a local disk with `--tmpdir` or SOLITON_TMPDIR",
        ) from None


def hold(path: str) -> int | None:
    """A lock on a directory, as a descriptor; None if somebody else has it, or none can be had here."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def sweep(parent: str, prefix: str, identity: Identity | None) -> None:
    """Removes the caller's directories of such names that nobody holds: whoever made them was killed."""
    now = time.time()
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith(prefix):
                continue
            with contextlib.suppress(OSError, BuildError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid != os.getuid() or now - status.st_ctime < YOUNG:
                    continue
                held = hold(entry.path)
                if held is not None:
                    try:
                        remove(entry.path, identity)
                    finally:
                        os.close(held)


def remove(path: str, identity: Identity | None) -> None:
    """Removes a tree whose files may belong to mapped ids, or have modes that lock their owner out."""
    with contextlib.suppress(OSError):
        _open_up(path)
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    try:
        core.converse("remove", {"path": path, "identity": core.encode(identity)})
    except core.CoreError as error:
        raise BuildError(
            f"the temporary directory `{path}` could not be removed",
            why=str(error),
            remedy="remove it by hand",
        ) from None


def _open_up(path: str) -> None:
    """Directories that lock their owner out (the overlay's work directory has mode 0) are opened, as far as they are ours."""
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)
            mode = os.lstat(inner).st_mode
            if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)
