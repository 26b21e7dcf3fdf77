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


def identity(wish: Security, host: Host, subordinate: SubordinateIds | None) -> Identity:
    """Who the payload becomes. Another user than the caller is one of the caller's subordinate ones."""
    uid = host.uid if wish.uid is None and host.privileged else wish.uid
    if host.privileged:
        assert uid is not None
        gids = wish.gids or (host.gid,)
        return Identity(uid, gids[0], groups=gids)
    own = (host.uid if wish.uid is None else wish.uid, wish.gids or (host.gid,))
    if own == (host.uid, (host.gid,)):
        return Identity(
            host.uid, host.gid, (IdRange(host.uid, host.uid, 1),), (IdRange(host.gid, host.gid, 1),)
        )
    if subordinate is None:
        raise SolitonError(
            "`--security uid:` and `gid:` need subordinate ids, which you do not have",
            why="another user can only be one that the administrator gave to you",
            remedy="ask for an entry in /etc/subuid and /etc/subgid; `--fakeroot` gives you user 0 without",
        )
    uid = 0 if wish.uid is None else wish.uid
    gids = wish.gids or (uid,)
    for number, (_, count) in ((uid, subordinate.users), *((gid, subordinate.groups) for gid in gids)):
        if number > count:
            raise SolitonError(
                f"the id {number} of `--security` is beyond your subordinate ids",
                why=f"you have {count} of them, so ids up to {count} exist inside",
            )
    return Identity(
        uid,
        gids[0],
        (IdRange(0, host.uid, 1), IdRange(1, *subordinate.users)),
        (IdRange(0, host.gid, 1), IdRange(1, *subordinate.groups)),
        subordinate.newuidmap,
        subordinate.newgidmap,
        groups=gids,
    )


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
        who = identity(wish, host, subordinate)
        if (who.uid, who.gid) != (plan.identity.uid, plan.identity.gid):
            # The caller's lines would tell of somebody else.
            mounts = tuple(mount for mount in plan.mounts if not isinstance(mount, (PasswdFile, GroupFile)))
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
