"""Who the payload is: the caller as themselves, root by subordinate ids, root of a single id, or real root."""

from __future__ import annotations

from soliton.launch.plan import Identity, IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.site.host import Host, SubordinateIds


def as_caller(host: Host) -> Identity:
    """The caller's own ids, inside as outside. Real root needs no user namespace."""
    if host.privileged:
        return Identity(host.uid, host.gid, groups=tuple(gid for _, gid in host.groups))
    return Identity(host.uid, host.gid, (IdRange(host.uid, host.uid, 1),), (IdRange(host.gid, host.gid, 1),))


def as_root(host: Host, subordinate: SubordinateIds | None) -> Identity:
    """Root inside: with the caller's subordinate ids where there are any, else alone."""
    if host.privileged:
        return Identity(0, 0)
    if subordinate is None:
        return Identity(0, 0, (IdRange(0, host.uid, 1),), (IdRange(0, host.gid, 1),))
    return Identity(
        0,
        0,
        (IdRange(0, host.uid, 1), IdRange(1, *subordinate.users)),
        (IdRange(0, host.gid, 1), IdRange(1, *subordinate.groups)),
        subordinate.newuidmap,
        subordinate.newgidmap,
    )


def renumbered(single: Identity, uid: int, gid: int) -> Identity:
    """A single id under another number inside, where it is nobody special."""
    users, groups = single.uid_map[0], single.gid_map[0]
    return Identity(uid, gid, (IdRange(uid, users.outside, 1),), (IdRange(gid, groups.outside, 1),))


def is_single(identity: Identity) -> bool:
    """Whether only one id is mapped, so that every file has to appear as that one's."""
    return sum(entry.count for entry in identity.uid_map) == 1
