"""exec, run, shell and test: from a request to a running container."""

from __future__ import annotations

import os
import sys

from soliton import core, messages
from soliton.errors import SolitonError
from soliton.images.architecture import require_runnable
from soliton.images.detect import open_image, replaced
from soliton.launch import guard
from soliton.launch.compile import compile as compile_plan
from soliton.launch.plan import Bind, DirectoryRoot, ImageRoot
from soliton.record import replace
from soliton.site import config as configuration
from soliton.site import host as hosts
from soliton.site import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from soliton.api.pull import PullOptions
    from soliton.images.detect import Image
    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest
    from soliton.launch.shortcut import Call
    from soliton.site.config import Config
    from soliton.site.network import Network

#: What may stand before `:` for an image that is not a file.
_SCHEMES = frozenset(
    [
        "docker",
        "docker-archive",
        "docker-daemon",
        "oci",
        "oci-archive",
        "oras",
        "library",
        "shub",
        "http",
        "https",
        "ipfs",
        "hello",
        "instance",
    ]
)


def is_uri(image: str) -> bool:
    """Whether an image is named by a scheme instead of a path."""
    scheme, colon, rest = image.partition(":")
    return bool(colon) and (rest.startswith("//") or scheme in _SCHEMES)


def find_image(request: ActionRequest, fetching: Callable[[], PullOptions] | None = None) -> Image:
    """The image of a request, fetched into the cache if it is elsewhere; fetching: how, asked only then."""
    if not is_uri(request.image):
        image = open_image(request.image)
        if image.kind not in ("oci-layout", "oci-archive", "docker-archive"):
            return image
        return _cached(f"{image.kind.removesuffix('-layout')}:{image.path}", fetching)
    return _cached(request.image, fetching)


def _cached(uri: str, fetching: Callable[[], PullOptions] | None) -> Image:
    if uri.startswith("hello:"):
        from soliton.images import hello

        return open_image(hello.make(_writable_cache()))
    from soliton.api.pull import to_cache

    return open_image(to_cache(uri, fetching() if fetching else None))


def _writable_cache() -> str:
    """The cache, or a private temporary directory of the user's where the home cannot be written."""
    environment, config = os.environ, configuration.current().config
    folder = paths.cache(environment, paths.home_of_caller(environment), configured=config.cache_dir)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        folder = os.path.join(
            paths.temporary(environment, configured=config.tmp_dir), f"soliton-{os.getuid()}"
        )
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(folder).st_uid != os.getuid() or os.path.islink(folder):
            raise SolitonError(
                f"`{folder}` belongs to somebody else",
                remedy="set SOLITON_CACHEDIR to a directory that you can write",
            ) from None
    return folder


def reporter() -> tuple[str, ...]:
    """What the core executes to have a failure explained."""
    return (sys.executable, "-I", "-m", "soliton", "--report-failure")


def furnish(plan: Plan, workdir: str) -> None:
    """Makes what is missing in the directory of `--workdir`, which itself has to exist: `tmp`, `var_tmp`, `home` and `scratch`."""
    if not os.path.isdir(workdir):
        raise SolitonError(
            f"`{workdir}` of `--workdir` is not a directory",
            remedy="make it first, or leave `--workdir` out: then memory is used",
        )
    made = [m for m in plan.mounts if isinstance(m, Bind) and m.origin in ("--workdir", "--scratch")]
    folders = [mount.source for mount in made]
    # A home in /tmp needs its place there.
    folders += [
        place.source + mount.target.removeprefix(place.target)
        for mount in made
        for place in made
        if mount.target.startswith(f"{place.target}/")
    ]
    for folder in folders:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise SolitonError(f"`{folder}` cannot be made for `--workdir`", why=error.strerror) from None


def require_allowed(image: Image, config: Config) -> None:
    """Raises ImageError if the site's rules forbid this image."""
    from soliton.launch.policy import require_image

    status = image.status
    path = os.path.realpath(image.path)
    if not os.path.samestat(os.stat(path), status):
        raise replaced(image.path)
    require_image(
        image,
        config,
        path=path,
        owner=(hosts.user_name(status.st_uid), status.st_uid),
        group=(hosts.group_name(status.st_gid), status.st_gid),
    )


def is_wanted(request: ActionRequest, image: Image) -> bool:
    """Whether there are overlays, or images to bind from: most containers have nothing of the kind."""
    return bool(
        request.overlay
        or request.data
        or image.layers
        or image.writable
        or image.ext
        or any("image-src=" in text or "id=" in text for text in (*request.bind, *request.mount))
    )


def look() -> hosts.Host:
    """The facts of the machine that the configuration asks for."""
    return hosts.look(mount_points=configuration.current().config.mount_hostfs)


def _network(request: ActionRequest, host: hosts.Host) -> Network | None:
    """What can connect the container's network, if it asks for that, and the ports of the host that it asks for."""
    from soliton.launch import network

    request = request.settled()
    if not network.asked_for(request):
        return None
    from soliton.site.network import look, port_in_use

    for port in network.forwarded_ports(request):
        reason = port_in_use(port.protocol, port.address, port.outside)
        if reason:
            raise SolitonError(
                f"the port {port.outside}/{port.protocol} of this machine cannot be mapped into the container",
                why=reason,
                remedy="choose another one: `--network-args portmap=HOST:CONTAINER/tcp`",
            )
    return look(host.privileged)


def asks_for_devices(request: ActionRequest, config: Config) -> bool:
    return bool(
        ((request.nv or request.nvccli or config.always_use_nv) and not request.no_nv)
        or ((request.rocm or config.always_use_rocm) and not request.no_rocm)
        or request.intel_hpu
        or request.device
        or request.cdi_dirs
        or request.containlibs
    )


def _secured(plan: Plan, request: ActionRequest, host: hosts.Host) -> Plan:
    """The plan with what `--security` and `--allow-setuid` ask for."""
    from soliton.launch import security

    wish = security.parse(request.security)
    mapped = wish.changes_identity and not host.privileged and not request.ignore_subordinate_ids
    subordinate = hosts.subordinate_ids(host.uid, host.name) if mapped else None
    if wish.label is not None:
        _require_labels(wish.label.kind)
    profile = None
    if wish.profile is not None:
        machine = os.uname()
        profile = security.Profile(_profile(wish.profile), machine.machine, machine.release)
    return security.secured(plan, request, host, subordinate, profile)


def _require_labels(kind: str) -> None:
    """Raises unless this kernel has the security module that a label is for."""
    named = {"selinux": "SELinux", "apparmor": "AppArmor"}[kind]
    try:
        with open(
            "/sys/module/apparmor/parameters/enabled" if kind == "apparmor" else "/sys/fs/selinux/enforce"
        ) as file:
            active = kind == "selinux" or file.read(1) == "Y"
    except OSError:
        active = False
    if not active:
        raise SolitonError(
            f"`--security {kind}:` cannot be applied: {named} is not active on this machine",
            remedy="leave it out, or ask the administrator",
        )


def _profile(name: str) -> str:
    from soliton.launch.seccomp import LARGEST_FILE

    try:
        with open(name, encoding="utf-8", errors="replace") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise SolitonError(f"the seccomp profile `{name}` cannot be read", why=error.strerror) from None
    if len(text) > LARGEST_FILE:
        raise SolitonError(
            f"the seccomp profile `{name}` cannot be used", why="it is larger than any profile"
        )
    return text


def lenient(request: ActionRequest, config: Config, host: hosts.Host) -> ActionRequest:
    """The request without what the peers warn of and pass over, where the program was called by one of their names."""
    doubtful = request.no_mount or request.writable or not config.user_bind_control
    if request.program == "soliton" or not doubtful:
        return request
    from soliton.launch import leniency

    request, said = leniency.lenient(request, config, host)
    for line in said:
        messages.warning(line)
    return request


def compiler(
    asked: ActionRequest, image: Image, root: ImageRoot | DirectoryRoot | None = None
) -> Callable[[hosts.Host], Plan]:
    """What makes the plan for a request out of the facts of the machine. asked: the request. root: stands for the image's own, unpacked before."""
    require_runnable(image.architecture, asked.image)
    config, own = configuration.current().config, root or image.runnable()

    def compiled(host: hosts.Host) -> Plan:
        request = lenient(asked, config, host)
        if config is not configuration.DEFAULTS and not host.privileged:
            require_allowed(image, config)
        mapped = request.fakeroot and not request.ignore_subordinate_ids
        subordinate = hosts.subordinate_ids(host.uid, host.name) if mapped else None
        over = None
        if is_wanted(request, image):
            from soliton.api.layers import look

            bound = config is not configuration.DEFAULTS and not host.privileged
            over = look(
                request, image, host, (lambda other: require_allowed(other, config)) if bound else None
            )
        network = _network(request, host) if request.net or request.network or request.network_args else None
        plan = compile_plan(
            request,
            own,
            image.path,
            config,
            host,
            over=over,
            subordinate=subordinate,
            network=network,
            reporter=reporter(),
        )
        if asks_for_devices(request, config):
            from soliton.api.devices import furnished

            plan = furnished(plan, request, config, host.environment)
        plan = _secured(plan, request, host) if request.security or request.allow_setuid else plan
        return replace(plan, level=messages.level())

    return compiled


def require_free(request: ActionRequest, image: Image, plan: Plan) -> None:
    """Raises LaunchError if somebody uses what the plan locks, unless that may be the container which this one shares."""
    if is_wanted(request, image) and not request.sharens:
        from soliton.api import layers

        layers.require_free(plan)


def prepare(
    request: ActionRequest,
    image: Image,
    root: ImageRoot | DirectoryRoot | None = None,
    host: hosts.Host | None = None,
) -> Plan:
    """The plan for a request, and what it needs on the host."""
    plan = compiler(request, image, root)(host or look())
    require_free(request, image, plan)
    if request.workdir:
        furnish(plan, request.workdir)
    return plan


def tell_of_guard(request: ActionRequest, plan: Plan, host: hosts.Host) -> str | None:
    """Says in one line what of the caller's environment stays out, once for all ranks of a job. The line, if there is one."""
    if not guard.is_on(request.settled(), configuration.current().config):
        return None
    changed = guard.changes(host.environment, plan.mounts)
    if not changed:
        return None
    line = guard.told(changed)
    # Not asked of the host's record: that a plan was made by one rank does not make it that rank's.
    first = all(os.environ.get(name, "0") == "0" for name in guard.RANKS)
    (messages.info if first else messages.verbose)(line)
    return line


def trace(image: Image, plan: Plan) -> None:
    """What is about to be started, for who asked for all messages."""
    if not messages.shows(messages.DEBUG):
        return
    messages.debug(
        f"the image is `{image.path}`: {image.kind}, {image.architecture or 'of any architecture'}"
    )
    who = plan.identity
    namespaces = ("mount", *(("user",) if who.uid_map else ()), *plan.namespaces)
    messages.debug(f"uid {who.uid}, gid {who.gid}; namespaces: {', '.join(namespaces)}")
    for mount in plan.mounts:
        source = getattr(mount, "source", "")
        messages.debug(
            f"{mount.kind} at `{mount.target}`" + (f" of `{source}`" if source else "") + f" ({mount.origin})"
        )
    messages.debug(f"starts in {', else '.join(plan.process.cwd)}; `--explain` tells more")


def enter_limits(request: ActionRequest) -> None:
    """Moves this process, and with it the container, into a control group with the limits that were asked for."""
    if request.limits is not None:
        from soliton.api.limits import enter

        enter(request.limits, "container")


def start(
    request: ActionRequest,
    fetching: Callable[[], PullOptions] | None = None,
    call: Call | None = None,
) -> NoReturn:
    """Starts the container; this process becomes it. fetching: see `find_image`. call: if the plan may be stored."""
    if request.image.startswith("instance://"):
        from soliton.api.instance import join

        join(request)
    image = find_image(request, fetching)
    root = image.runnable()
    if request.unsquash and isinstance(root, ImageRoot):
        if request.sharens:
            raise SolitonError(
                "`--unsquash` and `--sharens` exclude each other",
                why="what is unpacked goes with the process that unpacked it",
                remedy="unpack the image once: `build --sandbox DIRECTORY IMAGE`",
            )
        from soliton.api.unpacked import run_unpacked

        enter_limits(request)
        sys.exit(run_unpacked(request, image, root))
    host = look()
    plan = prepare(request, image, host=host)
    trace(image, plan)
    # A stored plan would not say again what was said so far.
    if messages.spoken():
        call = None
    told = tell_of_guard(request, plan, host)
    # What a driver brings changes with the driver, and a control group is made for one start: such plans are made each time.
    if asks_for_devices(request, configuration.current().config) or request.limits is not None:
        call = None
    if call is not None:
        for path in configuration.current().looked_at:
            call.witness.note(path)
        from soliton.launch.shortcut import store

        store(call, request, image, plan, host, compiler(request, image), told)
    if request.sharens:
        from soliton.api.sharens import share

        share(request, plan, image.path)
    enter_limits(request)
    core.become("launch", plan)
