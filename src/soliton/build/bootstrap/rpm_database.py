"""Where rpm keeps what it knows: one place while packages are installed, then the one where the new system looks for it.

The host's rpm may have its database anywhere, Debian's even in the caller's home. Distributions have moved theirs; the new system's
own rpm says where to.
"""

from __future__ import annotations

import os
import re

from soliton.build.bootstrap import packages
from soliton.build.bootstrap.base import Request
from soliton.errors import BuildError

#: Where rpm has its database unless the distribution says otherwise.
PLACE = "/var/lib/rpm"
_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+")


def home(request: Request) -> str:
    """A home for the package manager, whose rpm then has its database at `PLACE`."""
    folder = packages.private_home(request.workspace, request.folder)
    with open(f"{folder}/.rpmmacros", "w", encoding="utf-8") as file:
        file.write(f"%_dbpath {PLACE}\n")
    return folder


def settle(request: Request, root: str) -> None:
    """Moves the database of a finished root to where its own rpm looks for it."""
    if not any(os.path.lexists(f"{root}/{folder}/rpm") for folder in ("usr/bin", "bin")):
        return
    said = packages.inside(request, root, ("rpm", "--eval", "%{_dbpath}"))
    place = os.path.normpath(said.strip() or PLACE)
    if place == PLACE:
        return
    if not _PATH.fullmatch(place):
        raise BuildError(f"the new system's rpm says that its database is at `{place[:80]}`")
    # Inside the new root: links of the packages must not lead elsewhere.
    script = (
        f'test "$(readlink -f {PLACE})" = "$(readlink -f {place})" || {{ mkdir -p {os.path.dirname(place)} && '
        f"rm -rf {place} && mv {PLACE} {place}; }}"
    )
    packages.inside(request, root, ("/bin/sh", "-c", script))
