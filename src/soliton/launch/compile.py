"""`compile`: a request, an image, the site's rules and the facts of the machine give a plan.

A pure function: it neither looks at the machine nor changes it, so its results can be printed, stored and tested as
a table.
"""

from __future__ import annotations

from soliton.errors import ImageError, LaunchError, SolitonError, UsageError
from soliton.launch import guard
from soliton.launch import identity as identities
from soliton.launch.environment import compile_environment
from soliton.launch.mounts import compile_mounts, destinations, home_of, user_binds
from soliton.launch.plan import (
    DirectoryRoot,
    DirectSurface,
    ExtRoot,
    ImageRoot,
    LocaleFallback,
    Plan,
    Process,
    ReadOnlySurface,
    Sharing,
    TmpfsSurface,
)
from soliton.record import replace
from soliton.site.config import DEFAULTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from soliton.launch.network import Connection
    from soliton.launch.plan import Namespace, Root, Surface
    from soliton.launch.request import ActionRequest
    from soliton.launch.stack import Over
    from soliton.site.config import Config
    from soliton.site.host import Host, SubordinateIds
    from soliton.site.network import Network

#: A week: longer than jobs last.
_LONGEST_IDLE = 604_800
_LONGEST_HOSTNAME = 64
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")


def compile(
    request: ActionRequest,
    root: ImageRoot | DirectoryRoot | ExtRoot,
    path: str,
    config: Config,
    host: Host,
    *,
    over: Over | None = None,
    subordinate: SubordinateIds | None = None,
    network: Network | None = None,
    reporter: tuple[str, ...] = (),
) -> Plan:
    """root, path: of the image, which is absolute. over: what lies over it. subordinate: the caller's ranges, looked up for
    `--fakeroot`. network: what can connect a network of the container's own, looked up where one is asked for.

    Raises SolitonError for values that make no sense.
    """
    asked_tmpfs = request.writable_tmpfs
    request = request.settled()
    if request.boot and request.app is not None:
        raise SolitonError(
            "`--boot` and `--app` exclude each other",
            why="one starts the image's init, the other a program of an app",
        )
    umask = asked_umask(request)
    as_root = request.fakeroot and not host.privileged
    identity = identities.as_root(host, subordinate) if request.fakeroot else identities.as_caller(host)
    if request.no_setgroups and request.fakeroot and identity.uid_map:
        identity = replace(identity, keep_groups=True)
    namespaces = _namespaces(request)
    if config is not DEFAULTS:
        from soliton.launch.policy import require_request

        require_request(request, config, host, identity, namespaces)
    stored = not identity.uid_map or not identities.is_single(identity)
    if not isinstance(root, DirectoryRoot):
        root = replace(root, ids="stored" if stored else "caller")
    if isinstance(root, ExtRoot):
        root = replace(root, writable=request.writable)
    whole: Root = root
    if over is not None:
        from soliton.launch.stack import over_owned, stacked

        over = over_owned(over, stored=stored)
        whole = stacked(root, over.layers)
    binds = user_binds(request, host, over.images if over else None)
    home = home_of(request, host)[1]
    connection, netns = _network(request, network)
    mounts = compile_mounts(
        request,
        config,
        host,
        binds,
        as_root=as_root,
        writable=bool(over and over.upper),
        resolv_conf=connection.resolv_conf if connection else None,
    )
    _check_names(request)
    return Plan(
        identity=identity,
        root=whole,
        surface=_surface(request, root, path, config, over, asked_tmpfs=asked_tmpfs),
        mounts=mounts,
        process=Process(
            action="boot" if request.boot else request.action,
            argv=request.argv,
            environment=compile_environment(
                request,
                host.environment,
                home=home,
                container=path,
                destinations=destinations(request, binds),
                passing=guard.passing(request, config, host.environment, mounts),
            ),
            cwd=_working_directories(request, host, home),
            cwd_required=request.cwd is not None,
            app=request.app,
            shells=(request.shell,) if request.shell else _SHELLS,
            umask=umask[1] if umask else host.umask,
            no_new_privs=True,
            capabilities=_capabilities(request, config, host),
            init=not request.no_init,
            patience=_seconds(request.runscript_timeout),
            locale=LocaleFallback("C.UTF-8", guard.RANKS) if guard.is_on(request, config) else None,
        ),
        namespaces=namespaces,
        hostname=request.hostname,
        helper=connection.helper if connection else None,
        netns=netns,
        name=path.rstrip("/").rpartition("/")[2],
        # What is booted is in a control group of its own, in which nobody else would look for a server.
        sharing=None if request.boot else _sharing(host),
        reporter=reporter,
    )


def _surface(
    request: ActionRequest,
    root: ImageRoot | DirectoryRoot | ExtRoot,
    path: str,
    config: Config,
    over: Over | None,
    *,
    asked_tmpfs: bool,
) -> Surface:
    """asked_tmpfs: whether a writable tmpfs was asked for by its own name."""
    upper = over.upper if over is not None else None
    if request.writable:
        if request.writable_tmpfs:
            raise SolitonError(
                "`--writable` and `--writable-tmpfs` exclude each other",
                why="one writes into the image, the other into memory",
            )
        if upper is not None:
            return upper
        if isinstance(root, ImageRoot):
            raise ImageError(
                f"`{path}` cannot be written: it is a read-only image file",
                why="it holds no ext3 overlay, to which writes could go",
                remedy=f"add one with `overlay create {path}`, use `--writable-tmpfs`, or unpack it with `build --sandbox`",
            )
        return DirectSurface()
    if over is not None and (over.layers or upper) and config.enable_overlay == "no":
        raise LaunchError(
            f"an overlay over `{path}` is not possible here",
            why="the configuration has `enable-overlay = false`",
        )
    if upper is not None:
        if asked_tmpfs:
            raise SolitonError(
                "`--writable-tmpfs` and a writable overlay exclude each other",
                why="one keeps what is written, the other forgets it",
                remedy="use the overlay read-only, with `:ro`, or leave one of them out",
            )
        return upper
    if request.writable_tmpfs:
        if config.enable_overlay == "no":
            raise LaunchError(
                "`--writable-tmpfs` is not possible here",
                why="it is an overlay, and the configuration has `enable-overlay = false`",
            )
        return TmpfsSurface(config.sessiondir_max_size)
    return ReadOnlySurface(_layer(request, config))


def _layer(request: ActionRequest, config: Config) -> Literal["auto", "overlay", "underlay"]:
    """How missing mount points are made."""
    if request.underlay or config.enable_underlay == "preferred" or config.enable_overlay == "no":
        return "underlay"
    return "overlay" if config.enable_underlay == "no" else "auto"


def _sharing(host: Host) -> Sharing | None:
    """`SOLITON_IMAGE_SERVER` is `off`, or how many seconds an idle server of an image waits for the next launch."""
    wish = host.environment.get("SOLITON_IMAGE_SERVER", "").strip()
    if wish == "off":
        return None
    if not wish:
        return Sharing()
    if not wish.isascii() or not wish.isdigit() or int(wish[:10]) > _LONGEST_IDLE:
        raise SolitonError(
            f"`{wish}` in SOLITON_IMAGE_SERVER makes no sense",
            why=f"it is `off` or a number of seconds up to {_LONGEST_IDLE}",
        )
    return Sharing(int(wish))


def _namespaces(request: ActionRequest) -> tuple[Namespace, ...]:
    wanted: tuple[tuple[Namespace, bool], ...] = (
        ("pid", request.pid),
        ("ipc", request.ipc),
        ("uts", request.uts),
        ("net", request.net and not request.netns_path),
        ("cgroup", request.boot),
    )
    return tuple(name for name, asked in wanted if asked)


def _network(request: ActionRequest, facts: Network | None) -> tuple[Connection | None, str | None]:
    """The connection of a network namespace of the container's own, and the path of one that is joined."""
    if not request.net and not request.netns_path:
        return None, None
    from soliton.launch import network as networks

    netns = networks.check_netns(request)
    return None if netns else networks.connection(request, facts), netns


def _seconds(duration: float | None) -> int | None:
    """Whole seconds of `--runscript-timeout`, at least one; None and 0 stand for the usual limit."""
    if not duration:
        return None
    if not 0 < duration < 1 << 31:
        raise SolitonError("`--runscript-timeout` is no time that can be waited for")
    return max(1, int(duration))


def _check_names(request: ActionRequest) -> None:
    """The host name and the name servers as the kernel and resolvers take them."""
    name = request.hostname
    if name and (len(name.encode()) > _LONGEST_HOSTNAME or not all(c.isalnum() or c in "-._" for c in name)):
        raise SolitonError(
            f"`{name}` is not a host name",
            why=f"one has letters, digits, `-` and `.`, {_LONGEST_HOSTNAME} of them at most",
        )
    for address in request.dns:
        address = address.strip()
        four = address.split(".")
        is_four = len(four) == 4 and all(
            part.isdigit() and len(part) < 4 and int(part) < 256 for part in four
        )
        is_six = ":" in address and all(c in "0123456789abcdefABCDEF:." for c in address.partition("%")[0])
        if not (address.isascii() and (is_four or is_six)):
            raise SolitonError(f"`{address}` of `--dns` is not the address of a name server")


def asked_umask(request: ActionRequest) -> tuple[str, int] | None:
    """The option that gives a umask other than the caller's, and that umask; a flag counts over a variable. request: settled."""
    asked: dict[str, int] = {}
    if request.umask is not None:
        asked["umask"] = request.umask
    if request.no_umask:
        asked["no-umask"] = 0o022
    if len(asked) == 2:
        by_variable = [name for name in asked if not request.origins.get(name, ("-",))[0].startswith("-")]
        if len(by_variable) != 1:
            raise UsageError(
                "`--umask` and `--no-umask` exclude each other",
                why="the second one stands for `--umask 0022`",
            )
        del asked[by_variable[0]]
    return asked.popitem() if asked else None


def _working_directories(request: ActionRequest, host: Host, home: str) -> tuple[str, ...]:
    if request.cwd is not None:
        if not request.cwd.startswith("/"):
            raise LaunchError(f"the working directory `{request.cwd}` is not an absolute path")
        return (request.cwd,)
    if request.contain or host.cwd is None:
        return (home, "/")
    return (host.cwd, home, "/")


def _capabilities(
    request: ActionRequest, config: Config, host: Host
) -> Literal["none", "all"] | tuple[str, ...]:
    root = request.fakeroot or host.privileged
    if host.privileged and config.root_default_capabilities == "no":
        root = request.keep_privs
    if request.keep_privs and not (request.fakeroot or host.privileged or request.boot):
        raise SolitonError(
            "`--keep-privs` needs root",
            why="an ordinary user has no privileges that a container could keep",
            remedy="`--fakeroot` makes you root inside, with all that root has there",
        )
    none = request.no_privs or not root
    dropped = request.drop_caps
    if request.boot and not request.keep_privs:
        # To the machine's ports; systemd goes by it whether there is hardware to look after.
        dropped = (*dropped, "CAP_SYS_RAWIO")
        if host.privileged:
            # Beyond a container of root's, to another kernel.
            dropped = (*dropped, "CAP_SYS_BOOT")
    if not request.add_caps and not dropped:
        return "none" if none else "all"
    from soliton.launch.capabilities import NAMES, kept

    # Names are looked at even where there is nothing to drop.
    own = [name for number, name in enumerate(NAMES) if host.capabilities >> number & 1]
    names = kept(() if none else own, added=request.add_caps, dropped=dropped)
    return names if request.add_caps or not none else "none"
