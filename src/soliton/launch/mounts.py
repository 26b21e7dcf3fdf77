"""What is mounted where, in the peers' order, each with the reason it is there. Pure."""

from __future__ import annotations

import posixpath

from soliton.errors import SolitonError
from soliton.launch.binds import ImageBind, parse_binds, parse_data, parse_home, parse_mounts, unnested
from soliton.launch.plan import (
    Bind,
    Cgroups,
    DataBind,
    Dev,
    GroupFile,
    PasswdFile,
    Proc,
    SynthesizedFile,
    Sys,
    Tmpfs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from soliton.launch.plan import Mount
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config
    from soliton.site.host import Host

#: Names that `--no-mount` takes, besides absolute paths.
NO_MOUNT = ("proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths")
#: The working directory is not mounted when it is one of these, or below one of the second group.
NOT_CWD = frozenset({"/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64"})
#: Of the host's file systems, what never becomes a mount of `mount hostfs`.
_NOT_HOSTFS = ("/sys", "/proc", "/dev", "/run", "/boot", "/lib/modules")
NEVER_BELOW = ("/sys", "/proc", "/dev")
#: What the mount of the working directory says of itself.
CURRENT_DIRECTORY = "current directory"


def asked_binds(request: ActionRequest, host: Host) -> list[Bind | ImageBind]:
    """`--bind`, `--mount` and `--data` as they were given."""
    cwd = host.cwd or "/"
    binds = [
        b
        for text, origin in zip(request.bind, _origins(request, "bind"), strict=True)
        for b in parse_binds(text, cwd=cwd, home=host.home, origin=origin)
    ]
    binds += [
        b
        for text, origin in zip(request.mount, _origins(request, "mount"), strict=True)
        for b in parse_mounts(text, cwd=cwd, origin=origin)
    ]
    binds += [parse_data(text, cwd=cwd, origin="--data") for text in request.data]
    return binds


def user_binds(
    request: ActionRequest, host: Host, images: Mapping[Any, Any] | None = None
) -> list[Bind | DataBind]:
    """The same sorted by destination: an outer one is there before what lies in it. images: by path and number, the
    roots of those that are bound from.
    """
    binds: list[Bind | DataBind] = []
    for bind in asked_binds(request, host):
        if isinstance(bind, Bind):
            binds.append(bind)
            continue
        root = (images or {})[bind.image]
        read_only = bind.read_only or not getattr(root, "writable", False)
        binds.append(DataBind(root, bind.inside, bind.target, read_only, bind.origin))
    return sorted(binds, key=lambda bind: bind.target.split("/"))


def destinations(request: ActionRequest, binds: Iterable[Bind | DataBind]) -> tuple[str, ...]:
    """Where the binds are, as containers inside are told of them."""
    hidden = {target for text in request.mount for target in unnested(text)}
    return tuple(bind.target for bind in binds if bind.target not in hidden)


def _origins(request: ActionRequest, option: str) -> list[str]:
    """Of each value of a list option: the variable it comes from, else the flag by its long name."""
    count = len(getattr(request, option))
    found = request.origins.get(option, ())
    named = [f"--{option}" if origin.startswith("-") else origin for origin in found]
    return named if len(named) == count else [f"--{option}"] * count


def home_of(request: ActionRequest, host: Host) -> tuple[str, str]:
    """The home directory: (on the host, inside)."""
    if request.home:
        return parse_home(request.home, cwd=host.cwd or "/")
    return host.home, "/root" if request.fakeroot and not host.privileged else host.home


def compile_mounts(
    request: ActionRequest,
    config: Config,
    host: Host,
    binds: list[Bind | DataBind],
    *,
    as_root: bool,
    writable: bool = False,
    resolv_conf: str | None = None,
) -> tuple[Mount, ...]:
    """All mounts of a container. as_root: the payload is root inside without being root outside. writable: there is a
    writable overlay. resolv_conf: content of the file where the host's would lead nowhere.
    """
    skipped = set(request.no_mount)
    for name in skipped:
        if name not in NO_MOUNT and not name.startswith("/"):
            raise SolitonError(
                f"`{name}` is not a mount that can be left out",
                why=f"the names are {', '.join(NO_MOUNT)}, or the absolute path of a configured bind",
            )
    contain, size = request.contain, config.sessiondir_max_size
    mounts: list[Mount] = []
    if "dev" not in skipped and config.mount_dev != "no":
        minimal = contain or config.mount_dev == "minimal"
        pts = config.mount_devpts and "devpts" not in skipped
        mounts.append(Dev(minimal=minimal, pts=pts, origin="--contain" if contain else "mount dev"))
    if config.mount_hostfs and not contain and "hostfs" not in skipped:
        mounts += _hostfs(host)
    if "bind-paths" not in skipped:
        for path in config.bind_path:
            source, target, options = (*path.split(":"), "", "")[:3]
            if (target or source) not in skipped and (
                not contain or source in ("/etc/hosts", "/etc/localtime")
            ):
                read_only = options == "ro"
                mounts.append(Bind(source, target or source, read_only, optional=True, origin="bind path"))
    if config.mount_proc and "proc" not in skipped:
        mounts.append(Proc(origin="mount proc"))
    if config.mount_sys and "sys" not in skipped:
        mounts.append(Sys(origin="mount sys"))
    home, tmp = _home(request, config, host, skipped, size), _tmp(request, config, host, skipped, size)
    # A home in /tmp would vanish under it.
    hidden = any(_is_below(mount.target, place.target) for mount in home for place in tmp)
    mounts += [*tmp, *home] if hidden else [*home, *tmp]
    for path in request.scratch:
        if not path.startswith("/"):
            raise SolitonError(f"the scratch directory `{path}` is not an absolute path")
        path = posixpath.normpath(path)
        if request.workdir:
            name = posixpath.join(_workdir(request, host), "scratch", path.strip("/"))
            mounts.append(Bind(name, path, origin="--scratch"))
        else:
            mounts.append(Tmpfs(path, size, 0o1777, origin="--scratch"))
    mounts += _identity_files(
        request, config, host, as_root=as_root, writable=writable, resolv_conf=resolv_conf
    )
    if request.boot:
        mounts += [
            Tmpfs("/run", size, 0o755, origin="--boot"),
            Tmpfs("/run/lock", size, 0o1777, origin="--boot"),
        ]
        if any(isinstance(mount, Sys) for mount in mounts):
            mounts.append(Cgroups(origin="--boot"))
    mounts += binds
    if request.fusemount:
        from soliton.launch.fusemount import fuse_mounts

        mounts += fuse_mounts(request, config, host)
    mounts += _cwd(request, config, host, skipped, mounts)
    return tuple(mounts)


def _workdir(request: ActionRequest, host: Host) -> str:
    assert request.workdir
    return posixpath.normpath(posixpath.join(host.cwd or "/", request.workdir))


def _hostfs(host: Host) -> list[Mount]:
    """The host's file systems, but for those that a container has of its own. Each brings what is mounted below it."""
    found: list[str] = []
    for path in host.mount_points:
        covered = any(_is_below(path, top) for top in (*_NOT_HOSTFS, *found))
        if path != "/" and not covered:
            found.append(path)
    return [Bind(path, path, optional=True, origin="mount hostfs") for path in found]


def _home(request: ActionRequest, config: Config, host: Host, skipped: set[str], size: int) -> list[Mount]:
    source, target = home_of(request, host)
    if request.no_home or "home" in skipped or not config.mount_home or target == "/":
        return []
    if request.contain and not request.home:
        if request.workdir:
            return [Bind(posixpath.join(_workdir(request, host), "home"), target, origin="--workdir")]
        return [Tmpfs(target, size, 0o700, origin="--contain")]
    return [
        Bind(source, target, optional=not request.home, origin="--home" if request.home else "mount home")
    ]


def _tmp(request: ActionRequest, config: Config, host: Host, skipped: set[str], size: int) -> list[Mount]:
    if not config.mount_tmp or "tmp" in skipped:
        return []
    # Some images have a link at one of the two that leads to the other, which is then the one that there is.
    pairs = (("/tmp", "tmp"), ("/var/tmp", "var_tmp"))
    if not request.contain:
        return [
            Bind(path, path, optional=True, apart=path != "/tmp", origin="mount tmp") for path, _ in pairs
        ]
    if request.workdir:
        base = _workdir(request, host)
        return [
            Bind(posixpath.join(base, name), path, apart=path != "/tmp", origin="--workdir")
            for path, name in pairs
        ]
    return [Tmpfs(path, size, 0o1777, origin="--contain") for path, _ in pairs]


def _identity_files(
    request: ActionRequest,
    config: Config,
    host: Host,
    *,
    as_root: bool,
    writable: bool,
    resolv_conf: str | None,
) -> list[Mount]:
    mounts: list[Mount] = []
    uid = 0 if as_root else host.uid
    writable_root = uid == 0 and (writable or request.writable or request.writable_tmpfs)
    home = home_of(request, host)[1]
    if config.config_passwd and not writable_root:
        name = "root" if uid == 0 else host.name
        gid = 0 if as_root else host.gid
        mounts.append(PasswdFile(uid, gid, name, host.gecos, home, host.shell, origin="config passwd"))
    if config.config_group and not writable_root:
        groups = (("root", 0),) if as_root else host.groups
        mounts.append(GroupFile(groups, "root" if uid == 0 else host.name, origin="config group"))
    resolver = config.config_resolv_conf and "/etc/resolv.conf" not in request.no_mount
    if request.dns:
        text = "".join(f"nameserver {address.strip()}\n" for address in request.dns)
        mounts.append(SynthesizedFile("/etc/resolv.conf", text, optional=True, origin="--dns"))
    elif resolver and resolv_conf:
        mounts.append(SynthesizedFile("/etc/resolv.conf", resolv_conf, optional=True, origin="--network"))
    elif resolver and host.resolv_conf:
        mounts.append(
            Bind("/etc/resolv.conf", "/etc/resolv.conf", optional=True, origin="config resolv_conf")
        )
    if request.hostname:
        mounts.append(
            SynthesizedFile("/etc/hostname", f"{request.hostname}\n", optional=True, origin="--hostname")
        )
    return mounts


def _cwd(
    request: ActionRequest, config: Config, host: Host, skipped: set[str], before: list[Mount]
) -> list[Mount]:
    cwd = host.cwd
    if request.contain or "cwd" in skipped or cwd is None or cwd in NOT_CWD:
        return []
    if not config.user_bind_control and not host.privileged:
        return []
    if any(cwd == top or cwd.startswith(f"{top}/") for top in NEVER_BELOW):
        return []
    if any(_is_below(cwd, place) for place in in_place(before)):
        return []
    return [Bind(cwd, cwd, optional=True, origin=CURRENT_DIRECTORY)]


def in_place(mounts: Iterable[Mount]) -> tuple[str, ...]:
    """Directories of the host that are inside at their own path."""
    return tuple(m.target for m in mounts if isinstance(m, Bind) and m.source == m.target)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")
