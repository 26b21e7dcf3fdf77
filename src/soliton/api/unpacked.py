"""`--unsquash`: the image in a private temporary directory, for machines without /dev/fuse. It goes with the container."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
from typing import TYPE_CHECKING, NoReturn

from soliton import core
from soliton.api.action import prepare
from soliton.errors import LaunchError
from soliton.launch.plan import DirectoryRoot, ImageRoot
from soliton.site import config as configuration
from soliton.site import paths
from soliton.undisturbed import undisturbed

if TYPE_CHECKING:
    from types import FrameType

    from soliton.images.detect import Image
    from soliton.launch.request import ActionRequest

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)


def run_unpacked(request: ActionRequest, image: Image, root: ImageRoot) -> int:
    """Unpacks, runs and cleans up; the container's status, 128 + n for a signal."""
    parent = paths.temporary(os.environ, request.tmpdir, configured=configuration.current().config.tmp_dir)
    folder = None
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)
        with undisturbed():
            folder = _folder(parent)
        target = os.path.join(folder, "root")
        _unpack(root, target, parent)
        child = core.start(
            "launch", prepare(request, image, DirectoryRoot(target)), pass_fds=_of_process_manager()
        )
        for number in _FORWARDED:
            # The terminal's own signals reach the container by themselves; being told twice does no harm here.
            passed = signal.SIG_IGN if number in (signal.SIGINT, signal.SIGQUIT) else None
            signal.signal(number, passed or (lambda got, _: child.send_signal(got)))
        status = child.wait()
        return 128 - status if status < 0 else status
    finally:
        if folder is not None:
            with undisturbed():
                core.converse("remove", {"path": folder, "identity": None})


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Whoever ends a job while the image is being unpacked ends it with all that is there by then."""
    sys.exit(128 + number)


def _of_process_manager() -> list[int]:
    """The caller's socket that PMI_FD names; whether it goes inside is the core's matter."""
    number = os.environ.get("PMI_FD", "")
    if not (number.isascii() and number.isdigit() and 2 < int(number[:9]) == int(number)):
        return []
    try:
        theirs = os.get_inheritable(int(number)) and stat.S_ISSOCK(os.fstat(int(number)).st_mode)
    except OSError:
        return []
    return [int(number)] if theirs else []


def _folder(parent: str) -> str:
    """A private directory in which programs can be executed. Raises LaunchError."""
    remedy = "name a directory on a local disk with `--tmpdir` or TMPDIR"
    try:
        if os.statvfs(parent).f_flag & os.ST_NOEXEC:
            raise LaunchError(
                f"the image cannot be unpacked in `{parent}`",
                why="programs there cannot be executed (noexec)",
                remedy=f"{remedy}; `soliton doctor noexec` tells more",
            )
        return tempfile.mkdtemp(prefix="soliton-unsquash-", dir=parent)
    except OSError as error:
        raise LaunchError(
            f"no temporary directory can be made in `{parent}`", why=error.strerror, remedy=remedy
        ) from None


def _unpack(root: ImageRoot, target: str, parent: str) -> None:
    try:
        core.converse(
            "unsquash",
            {
                "image": {"path": root.path, "offset": root.offset, "size": root.size, "seen": root.seen},
                "target": target,
            },
        )
    except core.CoreError as error:
        if error.code not in ("no-space", "quota"):
            raise
        raise LaunchError(
            f"the image cannot be unpacked in `{parent}`",
            why="no space is left there" if error.code == "no-space" else "your quota there is used up",
            remedy="name another directory with `--tmpdir` or TMPDIR; `soliton doctor scratch` tells more",
        ) from None
