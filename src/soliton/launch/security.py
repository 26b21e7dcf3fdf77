"""`--security` as data: who the payload is, its label, its seccomp profile. Imported only where the option is given. Pure."""

from __future__ import annotations

from soliton.errors import SolitonError
from soliton.launch.plan import GroupFile, Identity, IdRange, ImageRoot, Label, PasswdFile
from soliton.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest
    from soliton.site.host import Host, SubordinateIds

_LARGEST_ID = 2**32 - 2


@record
class Security:
    """profile: file of a seccomp profile. gids: the group and the further groups."""

    uid: int | None = None
    gids: tuple[int, ...] = ()
    label: Label | None = None
    profile: str | None = None

    @property
    def changes_identity(self) -> bool:
        return self.uid is not None or bool(self.gids)


def parse(settings: tuple[str, ...]) -> Security:
    """Raises SolitonError for a setting that makes no sense or is given twice."""
    found: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.strip().partition(":")
        if key not in ("uid", "gid", "selinux", "apparmor", "seccomp") or not value:
            raise SolitonError(
                f"`{setting}` of `--security` is not known",
                why="the settings are uid:N, gid:N[:N…], selinux:LABEL, apparmor:PROFILE and seccomp:FILE",
            )
        if found.get(key, value) != value:
            raise SolitonError(f"`--security {key}:` is given twice", why=f"`{found[key]}` and `{value}`")
        found[key] = value
    if "selinux" in found and "apparmor" in found:
        raise SolitonError(
            "`--security selinux:` and `apparmor:` exclude each other", why="a kernel has one of them"
        )
    label = None
    for kind in ("selinux", "apparmor"):
        if kind in found:
            text = found[kind]
            if len(text) > 4096 or any(
                character.isspace() or not character.isprintable() for character in text
            ):
                raise SolitonError(f"`{text[:100]}` of `--security` is not a label of {kind}")
            label = Label("selinux" if kind == "selinux" else "apparmor", text)
    uids = _numbers("uid", found["uid"]) if "uid" in found else ()
    if len(uids) > 1:
        raise SolitonError(f"`uid:{found['uid']}` of `--security` is more than one user")
    gids = _numbers("gid", found["gid"]) if "gid" in found else ()
    return Security(uids[0] if uids else None, gids, label, found.get("seccomp"))


def _numbers(key: str, text: str) -> tuple[int, ...]:
    words = text.split(":")
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= _LARGEST_ID):
            raise SolitonError(
                f"`{key}:{text}` of `--security` is not a number", why="ids are given by number"
            )
    return tuple(map(int, words))


def identity(
    wish: Security, host: Host, subordinate: SubordinateIds | None, *, as_root: bool = False
) -> Identity:
    """Who the payload becomes. Another user than the caller is one of the caller's subordinate ones. as_root: who nothing is
    said about is root (`--fakeroot`), and not the caller.
    """
    if host.privileged:
        gids = wish.gids or (host.gid,)
        return Identity(host.uid if wish.uid is None else wish.uid, gids[0], groups=gids)
    # Whoever stays the caller has the number they have outside; for somebody else the caller is root.
    stays = wish.uid == host.uid or (wish.uid is None and not as_root)
    own, own_group = (host.uid, host.gid) if stays else (0, 0)
    uid = own if wish.uid is None else wish.uid
    gids = wish.gids or ((host.gid,) if stays else (uid,))
    if stays and gids == (host.gid,):
        return Identity(
            host.uid, host.gid, (IdRange(host.uid, host.uid, 1),), (IdRange(host.gid, host.gid, 1),)
        )
    if subordinate is None:
        raise SolitonError(
            "`--security uid:` and `gid:` need subordinate ids, which you do not have",
            why="another user can only be one that the administrator gave to you",
            remedy="ask for an entry in /etc/subuid and /etc/subgid; `--fakeroot` gives you user 0 without",
        )
    users, groups = (
        _around(own, host.uid, *subordinate.users),
        _around(own_group, host.gid, *subordinate.groups),
    )
    for number, ranges, count in (
        (uid, users, subordinate.users[1]),
        *((gid, groups, subordinate.groups[1]) for gid in gids),
    ):
        if not any(part.inside <= number < part.inside + part.count for part in ranges):
            raise SolitonError(
                f"the id {number} of `--security` is beyond your subordinate ids",
                why=f"you have {count} of them, so ids up to {count} exist inside",
            )
    return Identity(
        uid,
        gids[0],
        users,
        groups,
        subordinate.newuidmap,
        subordinate.newgidmap,
        groups=gids,
    )


def _around(inside: int, caller: int, first: int, count: int) -> tuple[IdRange, ...]:
    """A map in which `inside` is the caller, and all other ids in order are the subordinate ones."""
    below = min(inside, count)
    parts = (
        IdRange(0, first, below),
        IdRange(inside, caller, 1),
        IdRange(inside + 1, first + below, count - below),
    )
    return tuple(part for part in parts if part.count)


@record
class Profile:
    """The file of a seccomp profile, read, and what the kernel is."""

    text: str
    machine: str
    release: str


def secured(
    plan: Plan,
    request: ActionRequest,
    host: Host,
    subordinate: SubordinateIds | None,
    profile: Profile | None,
) -> Plan:
    """The plan with what `--security` and `--allow-setuid` ask for. subordinate: the caller's ranges."""
    wish = parse(request.security)
    process = plan.process
    if wish.changes_identity:
        if plan.identity.keep_groups:
            raise SolitonError(
                "`--no-setgroups` and `--security uid:` or `gid:` exclude each other",
                why="one keeps the caller's groups, the other sets different ones",
            )
        who = identity(wish, host, subordinate, as_root=request.fakeroot)
        if (who.uid, who.gid) != (plan.identity.uid, plan.identity.gid):
            # The caller's lines would tell of somebody else.
            mounts = tuple(
                replace(mount, gid=who.gid) if isinstance(mount, PasswdFile) else mount
                for mount in plan.mounts
                if not isinstance(mount, GroupFile)
                and not (isinstance(mount, PasswdFile) and mount.uid != who.uid)
            )
            several = sum(entry.count for entry in who.uid_map) != 1
            root = plan.root
            if isinstance(root, ImageRoot):
                root = replace(root, ids="stored" if several else "caller")
            plan = replace(plan, mounts=mounts, root=root)
        plan = replace(plan, identity=who)
        if who.uid != 0 and not request.add_caps:
            process = replace(process, capabilities="none")
    if request.allow_setuid:
        if not host.privileged and len(plan.identity.uid_map) < 2:
            raise SolitonError(
                "`--allow-setuid` needs root, or `--fakeroot` with subordinate ids",
                why="there is no other user here whom a program could become",
            )
        process = replace(process, no_new_privs=False)
    if wish.profile is not None and profile is not None:
        from soliton.launch.capabilities import NAMES
        from soliton.launch.seccomp import compile_profile

        own = {"none": (), "all": NAMES}.get(str(process.capabilities), process.capabilities)
        program = compile_profile(
            profile.text,
            name=wish.profile,
            machine=profile.machine,
            release=profile.release,
            capabilities=own,
        )
        process = replace(process, filter=program)
    return replace(plan, process=replace(process, label=wish.label))
