"""Where rpm keeps what it knows: one place while packages are installed, then the one where the new system looks for it.

The host's rpm may have its database anywhere, Debian's even in the caller's home. Distributions have moved theirs; the new system's
own rpm says where to.
"""

from __future__ import annotations

import os
import re
import sys

from soliton.build.bootstrap import packages
from soliton.build.bootstrap.base import Request
from soliton.errors import BuildError

#: Where rpm has its database unless the distribution says otherwise.
PLACE = "/var/lib/rpm"
#: In every new system lately, and in the host's where that has moved on.
_PLACES = (PLACE, "/usr/lib/sysimage/rpm")
#: Writes a database anew without its journal: the same content then has the same bytes. Like everything that deals with what
#: packages brought it runs confined.
_COMPACT = """
import os, sqlite3, sys
path = sys.argv[1]
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
database.execute("VACUUM INTO ?", (path + ".new",))
database.close()
os.replace(path + ".new", path)
for end in "-wal", "-shm", "-journal":
    if os.path.lexists(path + end):
        os.unlink(path + end)
"""
_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+")


def home(request: Request) -> str:
    """A home for the package manager, whose rpm then has its database at `PLACE`."""
    folder = packages.private_home(request.workspace, request.folder)
    with open(f"{folder}/.rpmmacros", "w", encoding="utf-8") as file:
        file.write(f"%_dbpath {PLACE}\n")
    return folder


def settle(request: Request, root: str) -> None:
    """The database of a finished root: where its own rpm looks for it, and the same for the same packages."""
    place = _move(request, root)
    for candidate in dict.fromkeys((*_PLACES, place)):
        path = f"{root}{candidate}/rpmdb.sqlite"
        # Not by a link out of the root.
        if os.path.isfile(path) and os.path.realpath(path) == os.path.realpath(root) + path.removeprefix(
            root
        ):
            packages.run(request, (sys.executable, "-I", "-S", "-c", _COMPACT, path), root, {})


def _move(request: Request, root: str) -> str:
    """Where the database is in the end."""
    if not any(os.path.lexists(f"{root}/{folder}/rpm") for folder in ("usr/bin", "bin")):
        return PLACE
    said = packages.inside(request, root, ("rpm", "--eval", "%{_dbpath}"))
    place = os.path.normpath(said.strip() or PLACE)
    if place == PLACE:
        return place
    if not _PATH.fullmatch(place):
        raise BuildError(f"the new system's rpm says that its database is at `{place[:80]}`")
    # Inside the new root: links of the packages must not lead elsewhere.
    script = (
        f'test "$(readlink -f {PLACE})" = "$(readlink -f {place})" || {{ mkdir -p {os.path.dirname(place)} && '
        f"rm -rf {place} && mv {PLACE} {place}; }}"
    )
    packages.inside(request, root, ("/bin/sh", "-c", script))
    return place
