"""The commands mounts list and mounts stop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from soliton.errors import SolitonError

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation


def list_(invocation: Invocation) -> int:
    from soliton.api.mounts import mounted

    found = mounted()
    if invocation.flag("json"):
        import json
        from dataclasses import asdict

        print(json.dumps({"mounts": [asdict(mount) for mount in found]}, indent="\t"))  # noqa: T201
        return 0
    print(f"{'PID':<10} {'PROCESSES':<10} IMAGE")  # noqa: T201
    for mount in found:
        print(f"{mount.pid:<10} {mount.processes:<10} {mount.title}")  # noqa: T201
    return 0


def stop(invocation: Invocation) -> int:
    from soliton import messages
    from soliton.api.mounts import mounted
    from soliton.api.mounts import stop as stop_one

    found = mounted()
    wanted = invocation.positionals
    for name in wanted:
        if not any(_same(name, mount.image) for mount in found):
            raise SolitonError(f"`{name}` is not mounted here", remedy="`mounts list` shows what is")
    for mount in found:
        if not wanted or any(_same(name, mount.image) for name in wanted):
            stop_one(mount)
            messages.info(f"{mount.title} is let go of" if mount.image else "the user namespace is let go of")
    return 0


def _same(name: str, image: str | None) -> bool:
    if image is None:
        return False
    try:
        return os.path.abspath(name) == image or os.path.samefile(name, image)
    except OSError:
        return False
