"""What has been fetched and kept: listing and cleaning. Removes only what the cache's own rules put there."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from soliton.images.cache import CacheEntry, of_user

#: Kinds of entries that are images.
CONTAINERS = frozenset({"image", "library", "shub", "oras", "net"})
#: Kinds of the command line → kinds of the cache. One of the peers that soliton never fills selects nothing.
KINDS: dict[str, frozenset[str]] = {
    "all": frozenset({"blob", "partial", "step", "mount"}) | CONTAINERS,
    "blob": frozenset({"blob", "partial"}),
    "oci-tmp": frozenset({"image"}),
    "steps": frozenset({"step", "mount"}),
    **{name: frozenset({name}) for name in ("library", "shub", "oras", "net")},
    "ipfs": frozenset(),
}


def entries(kinds: Iterable[str] = ("all",)) -> list[CacheEntry]:
    wanted = frozenset[str]().union(*(KINDS[kind] for kind in kinds))
    return [entry for entry in of_user().entries() if entry.kind in wanted]


def select(kinds: Iterable[str] = ("all",), *, days: int = 0) -> list[CacheEntry]:
    """What a cleaning would delete: of these kinds, not used for so many days."""
    before = time.time() - days * 86400
    return [entry for entry in entries(kinds) if not days or entry.changed < before]


def delete(found: Iterable[CacheEntry]) -> int:
    """Deletes entries; bytes gained. What somebody else has deleted meanwhile is passed over."""
    gained = 0
    for entry in found:
        if entry.kind == "mount" and os.path.isdir(entry.path):
            _remove_directory(entry.path)
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.path)
            gained += entry.size
    return gained


def _remove_directory(path: str) -> None:
    """What a step keeps from build to build; its files may belong to mapped ids."""
    from soliton.build.workspace import remove
    from soliton.launch.identity import as_root
    from soliton.site import host as hosts

    host = hosts.look()
    identity = as_root(host, hosts.subordinate_ids(host.uid, host.name))
    remove(path, identity if identity.uid_map else None)
