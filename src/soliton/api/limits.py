"""Limits of resources: from what was asked for to a control group that this process is in."""

from __future__ import annotations

import os
import stat

from soliton.errors import SolitonError
from soliton.launch.limits import Asked, compile_limits
from soliton.site import cgroups
from soliton.site import config as configuration


def enter(asked: Asked, name: str) -> str | None:
    """Moves this process into a group with these limits, and returns its path; None if there is nothing to limit.

    Raises SolitonError for values that make no sense and for limits that cannot be had here.
    """
    settings = compile_limits(
        asked, processors=os.cpu_count() or 1, devices=_numbers(asked.blkio_weight_device)
    )
    by_systemd = configuration.current().config.systemd_cgroups
    return cgroups.enter(settings, name, by_systemd=by_systemd) if settings else None


def _numbers(words: tuple[str, ...]) -> dict[str, str]:
    """The numbers of the devices that are named."""
    found = {}
    for word in words:
        path = word.rpartition(":")[0]
        if not path:
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            raise SolitonError(
                f"the device `{path}` of `--blkio-weight-device` cannot be used", why=error.strerror
            ) from None
        if not stat.S_ISBLK(status.st_mode):
            raise SolitonError(f"`{path}` of `--blkio-weight-device` is not a block device")
        found[path] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return found
