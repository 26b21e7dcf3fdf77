"""`--unsquash`: the image in a private temporary directory, for machines without /dev/fuse. It goes with the container."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import TYPE_CHECKING

from soliton import core
from soliton.api.action import prepare
from soliton.launch.plan import DirectoryRoot, ImageRoot
from soliton.site import config as configuration
from soliton.site import paths

if TYPE_CHECKING:
    from soliton.images.detect import Image
    from soliton.launch.request import ActionRequest

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)


def run_unpacked(request: ActionRequest, image: Image, root: ImageRoot) -> int:
    """Unpacks, runs and cleans up; the container's status, 128 + n for a signal."""
    parent = paths.temporary(os.environ, request.tmpdir, configured=configuration.current().config.tmp_dir)
    folder = tempfile.mkdtemp(prefix="soliton-unsquash-", dir=parent)
    target = os.path.join(folder, "root")
    try:
        core.converse(
            "unsquash",
            {"image": {"path": root.path, "offset": root.offset, "size": root.size}, "target": target},
        )
        child = core.start("launch", prepare(request, image, DirectoryRoot(target)))
        for number in _FORWARDED:
            # The terminal's own signals reach the container by themselves; being told twice does no harm here.
            passed = signal.SIG_IGN if number in (signal.SIGINT, signal.SIGQUIT) else None
            signal.signal(number, passed or (lambda got, _: child.send_signal(got)))
        status = child.wait()
        return 128 - status if status < 0 else status
    finally:
        core.converse("remove", {"path": folder, "identity": None})
