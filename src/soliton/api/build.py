"""`build`: a definition file, or any image, into an image.

    build("tools.sif", "tools.def", BuildOptions(force=True))

Here the user's wishes are settled against the machine: who builds, where, from what; `soliton.build` does the rest.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypedDict

from soliton import messages
from soliton.build import (
    bootstrap,
    builder,
    compression,
    digests,
    emulation,
    lockfile,
    secrets,
    templates,
    workspace,
)
from soliton.build.bootstrap import Fetched, Sources
from soliton.build.definition import Definition
from soliton.build.header import Header
from soliton.build.job import Settings
from soliton.build.lockfile import Lock
from soliton.build.origin import FETCHED, Origin, dockerfile_in, settle
from soliton.build.provenance import Arguments
from soliton.build.session import Request
from soliton.build.step_cache import StepCache, size_limit
from soliton.build.steps import Choice, read_sections
from soliton.errors import BuildError, NotSupported, TargetError, UsageError
from soliton.images import architecture
from soliton.images import target as targets
from soliton.images.cache import of_user
from soliton.launch.binds import ImageBind
from soliton.launch.environment import INJECTING
from soliton.launch.identity import as_root
from soliton.launch.plan import Bind, DataBind, Identity, Plan
from soliton.site import host as hosts

if TYPE_CHECKING:
    from soliton.api.pull import PullOptions

#: Sections that run programs of the image.
_RUN = ("post", "appinstall", "test")
#: Agents whose programs of another architecture run by an emulator.
_EMULATED = ("debootstrap", "busybox")


@dataclass(frozen=True)
class BuildOptions:
    """force: an existing target is replaced, and labels and help of a base image too. replace: only the target.

    sandbox: a directory. update: the definition runs over an existing sandbox. sections: as `--section`. build_args:
    for `{{ }}`. warn_unused: of build arguments nothing uses, instead of refusing. nv, rocm, intel_hpu: devices that the steps
    see. packing: in the words of mksquashfs. tmpdir:
    where the build's temporary files are. keep: they stay. keep_logs: so do logs and caches of package managers, in the
    image. lock: write `SOURCE.lock`, or hold the build to the one that is there. held_to: hold it to this one, but for packages;
    held_by: whose it is; kept_lock: text of the lock that the image is to keep. told: what its provenance tells of
    arguments, instead of these. on_host: whether sections may run commands outside the container.
    as_json: the definition is JSON. anew: no result of a step is taken from the cache. refresh: ask registries whether a
    base image has changed. explain: say why a step runs. debug_shell: open a shell in a step that
    fails. secrets, ssh, stage, context: of a Dockerfile, as `--secret`, `--ssh`, `--target`, `--context`. fetching: how base images are had.
    """

    force: bool = False
    replace: bool = False
    sandbox: bool = False
    update: bool = False
    fix_perms: bool = False
    test: bool = True
    writable_test: bool = False
    sections: Sequence[str] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    warn_unused: bool = False
    binds: tuple[Bind | ImageBind, ...] = ()
    nv: bool = False
    rocm: bool = False
    intel_hpu: bool = False
    packing: str = ""
    tmpdir: str | None = None
    keep: bool = False
    keep_logs: bool = False
    lock: Literal["", "write", "check"] = ""
    held_to: Lock | None = None
    held_by: str = ""
    kept_lock: str = ""
    told: Arguments | None = None
    on_host: bool = True
    ignore_subordinate_ids: bool = False
    as_json: bool = False
    anew: bool = False
    refresh: bool = False
    explain: bool = False
    debug_shell: bool = False
    secrets: Sequence[str] = ()
    ssh: Sequence[str] = ()
    stage: str = ""
    context: str = ""
    fetching: PullOptions | None = None


def build(target: str, source: str, options: BuildOptions | None = None) -> None:
    """Builds `target`; when this returns, it is there, and if this raises, nothing is. An interruption finds nothing, or all of it.

    source: a definition file, an image or sandbox, or a URI (docker://, oci:, oci-archive:, docker-archive:).
    Raises BuildError, DefinitionError, TargetError, ImageError, RegistryError, LaunchError, NotSupported.
    """
    options = options or BuildOptions()
    environment = dict(os.environ)
    check_target(target, options)
    origin = settle(source, dict(options.build_args), as_json=options.as_json)
    if origin.kind == "dockerfile":
        _of_dockerfile(target, origin.reference, options, environment)
        return
    for given, name in (
        (options.secrets, "--secret"),
        (options.stage, "--target"),
        (options.context, "--context"),
        (options.ssh, "--ssh"),
    ):
        if given:
            raise UsageError(f"`{name}` is for Dockerfiles", why=f"`{source}` is none")
    for warning in origin.definition.warnings:
        messages.warning(warning)
    try:
        templates.check_used(options.build_args, origin.definition.used)
    except BuildError as error:
        if not options.warn_unused:
            raise
        messages.warning(error.what)
    _check_architecture(origin, options)
    if origin.kind == "definition":
        # Before anything is run or built, whatever stage it is about. An update has its base.
        for stage in origin.definition.stages[: -1 if options.update else None]:
            bootstrap.require(stage.header, origin.definition.name)
    if not options.on_host:
        _check_inside(origin)
    if options.lock and (origin.kind != "definition" or options.update):
        raise UsageError(
            "`--lock` and `--locked` take a definition file or a Dockerfile",
            why="an existing sandbox is changed" if options.update else f"`{source}` is none",
        )
    if options.update and origin.kind != "definition":
        raise UsageError("`--update` takes a definition file", why=f"`{source}` is none")
    if origin.kind == "reference" and not (options.sandbox or options.packing or options.fix_perms):
        _fetch_to(target, origin, options)
        return
    builder.build(_request(target, origin.definition, source, options, environment))


def _request(
    target: str, definition: Definition, source: str, options: BuildOptions, environment: Mapping[str, str]
) -> Request:
    """The wishes settled against the machine: who builds, where, from what, held to what."""
    held_to = lockfile.read(source) if options.lock == "check" else options.held_to
    settings = Settings(
        choice=Choice(read_sections(options.sections), options.test, options.update),
        epoch=_epoch(environment) if held_to is None else _epoch_of(held_to, environment),
        arguments=options.told or _arguments(options, environment),
        lock=bool(options.lock),
        kept_lock=options.kept_lock,
        held_to=held_to,
        held_by=options.held_by or lockfile.path_of(source),
        held_packages=options.lock == "check",
        keep_logs=options.keep_logs,
        environment=environment,
        cwd=os.getcwd(),
        architecture=(options.fetching and options.fetching.architecture) or "",
        force=options.force,
        packing=replace(compression.parse(options.packing), fix_perms=options.fix_perms),
        binds=_binds(options),
        **_devices(options, environment),
        injected=injected(environment),
        writable_test=options.writable_test,
        debug_shell=options.debug_shell,
    )
    return Request(
        definition=definition,
        target=os.path.abspath(target),
        settings=settings,
        identity=_identity(options),
        sources=_sources(options),
        tmpdir=workspace.parent(options.tmpdir, environment),
        sandbox=options.sandbox,
        replace=options.force or options.replace,
        fix_perms=options.fix_perms,
        keep=options.keep,
        cache=_step_cache(options, environment),
        explain=options.explain,
    )


def _of_dockerfile(target: str, path: str, options: BuildOptions, environment: Mapping[str, str]) -> None:
    from soliton.api import dockerfile
    from soliton.build.dockerfile import build as builder_of_dockerfiles

    definition, wishes = dockerfile.settle(path, options)
    request = _request(target, definition, path, options, environment)
    builder_of_dockerfiles.build(request, wishes)


def _fetch_to(target: str, origin: Origin, options: BuildOptions) -> None:
    """An image from elsewhere, nothing done to it: what `pull` makes."""
    from soliton.api import pull

    pull.pull(origin.reference, target, options.fetching, force=options.force or options.replace)


def check_target(target: str, options: BuildOptions) -> None:
    """Raises TargetError for a target that the build cannot end in; asked before any work."""
    replace = options.force or options.replace
    if options.update:
        if not os.path.isdir(target):
            raise TargetError(
                f"`{target}` is not a sandbox", why="`--update` runs a definition over an existing one"
            )
    elif options.sandbox:
        if not os.path.basename(os.path.abspath(target)):
            raise TargetError(f"`{target}` cannot be a sandbox")
        if os.path.lexists(target) and not replace:
            raise targets.exists(target)
        folder = os.path.dirname(os.path.abspath(target))
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            raise TargetError(
                f"`{target}` cannot be made", why=f"`{folder}` is no directory you can write to"
            )
    else:
        targets.check(target, force=replace)


def _check_architecture(origin: Origin, options: BuildOptions) -> None:
    """`--arch`: images of any architecture can be fetched and put together, but steps are programs that have to run here."""
    wanted = options.fetching.architecture if options.fetching else None
    if not wanted or wanted == architecture.host_architecture() or origin.kind == "reference":
        return
    for number, stage in enumerate(origin.definition.stages, 1):
        agent = stage.header.agent
        if agent not in (*FETCHED, "localimage", "scratch", *_EMULATED):
            raise NotSupported(
                f"`--arch {wanted}` with `Bootstrap: {agent}` ({origin.definition.name}:{stage.header.line})",
                why="its packages are installed by programs of this machine",
                remedy="start from an image of that architecture",
            )
        scripts = [f"%{part.name}" for part in stage.sections if part.name in _RUN and part.body.strip()]
        if agent in _EMULATED:
            scripts.insert(0, f"Bootstrap: {agent}")
        if scripts and not emulation.possible(wanted, os.environ):
            raise BuildError(
                f"`{scripts[0]}` in stage {number} would have to run programs for {wanted}",
                why=f"this machine is {architecture.host_architecture()} and has no emulator for {wanted}",
                remedy=emulation.remedy(),
            )


def _epoch(environment: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH (reproducible-builds.org): Unix seconds that stand for now."""
    text = environment.get("SOURCE_DATE_EPOCH", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise UsageError(f"SOURCE_DATE_EPOCH is `{text}`, which is no time", remedy="give seconds since 1970")
    return int(text)


def _check_inside(origin: Origin) -> None:
    """Raises BuildError for a recipe that would run commands outside the container."""
    for stage in origin.definition.stages:
        for name in ("pre", "setup"):
            section = stage.section(name)
            if section is not None and section.body.strip():
                raise BuildError(
                    f"the recipe has a `%{name}` (line {section.line}), which would run on this machine",
                    why="an image from elsewhere is not trusted so far",
                    remedy="read it (`soliton inspect --deffile IMAGE`), then allow it with `--run-setup`",
                )


def _epoch_of(lock: Lock, environment: Mapping[str, str]) -> int:
    """A lock's time, which the variable must not contradict."""
    wanted = _epoch(environment)
    if wanted not in (None, lock.epoch):
        raise BuildError(
            f"SOURCE_DATE_EPOCH is {wanted}, but the lock says {lock.epoch}",
            remedy="unset the variable, or write the lock again with `--lock`",
        )
    return lock.epoch


def _arguments(options: BuildOptions, environment: Mapping[str, str]) -> Arguments:
    """What the provenance tells of the command line: what the image depends on, and no secrets."""
    told, hidden = secrets.split(options.build_args)
    sections = read_sections(options.sections)
    packing = replace(compression.parse(options.packing), threads=0)
    chosen = {
        "keep-logs": options.keep_logs,
        "nv": options.nv,
        "rocm": options.rocm,
        "intel-hpu": options.intel_hpu,
        "section": None if sections is None else sorted(sections) or ["none"],
        "compressor": packing.compressor,
        "level": packing.level,
        "block-size": packing.block_size,
        "all-root": packing.all_root,
        "fix-perms": options.fix_perms,
        "target": options.stage or None,
        # Names only.
        "secret-files": sorted(dict(secrets.of_option(text))["id"] for text in options.secrets) or None,
    }
    return Arguments(
        build_args=told,
        secrets=hidden,
        options={key: value for key, value in chosen.items() if value not in (None, False)},
        injected=sorted(injected(environment)),
        binds=[bind.target for bind in options.binds],
    )


def _binds(options: BuildOptions) -> tuple[Bind | DataBind, ...]:
    """The binds with the images opened that something is bound out of."""
    found: list[Bind | DataBind] = []
    for bind in options.binds:
        if isinstance(bind, Bind):
            found.append(bind)
            continue
        from soliton.api.layers import data_image

        root = data_image(bind.source, bind.id, writable=not bind.read_only)
        found.append(DataBind(root, bind.inside, bind.target, bind.read_only, bind.origin))
    return tuple(found)


class _Devices(TypedDict, total=False):
    furnish: Callable[[Plan], Plan]
    shown: str


def _devices(options: BuildOptions, environment: Mapping[str, str]) -> _Devices:
    """What shows a step the host's devices, and by what the step cache tells them apart."""
    if not (options.nv or options.rocm or options.intel_hpu):
        return {}
    from soliton.api import devices
    from soliton.launch.request import ActionRequest
    from soliton.site.config import DEFAULTS

    # A step's /dev is minimal, as with `--contain`.
    request = ActionRequest(
        "exec", "", contain=True, nv=options.nv, rocm=options.rocm, intel_hpu=options.intel_hpu
    )

    def furnish(plan: Plan) -> Plan:
        return devices.for_step(devices.furnished(plan, request, DEFAULTS, environment))

    return {"furnish": furnish, "shown": devices.version_of(request)}


def _step_cache(options: BuildOptions, environment: Mapping[str, str]) -> StepCache | None:
    """Where results of steps are kept; None with `--disable-cache`, or where the cache cannot be written."""
    limit = size_limit(environment)
    if options.fetching is not None and not options.fetching.cache:
        return None
    cache = StepCache(of_user().steps, limit, options.anew)
    try:
        cache.prepare()
    except OSError as error:
        messages.warning(
            f"the cache `{cache.root}` cannot be used ({error.strerror or 'not writable'}); results of steps are not kept"
        )
        return None
    return cache


def _sources(options: BuildOptions) -> Sources:
    """Images from elsewhere: from the cache, or with `--disable-cache` into the workspace."""

    def fetch(reference: str, place: str, pinned: str) -> Fetched:
        from soliton.api import pull

        wishes = (options.fetching or pull.PullOptions())._replace(pinned=pinned or None)
        if wishes.cache:
            if not pinned and not options.refresh:
                # What the tag meant when it was fetched: a build that has not changed asks nobody.
                wishes = wishes._replace(pinned=pull.known_digest(reference, wishes))
            path, digest = pull.to_cache_known(reference, wishes._replace(offline_is_fine=True))
        else:
            path, digest = pull.pull_known(reference, place, wishes)
        return Fetched(path, digest=digest)

    def known(reference: str, pinned: str) -> str | None:
        from soliton.api import pull

        if options.refresh and not pinned:
            return None
        return pinned or pull.known_digest(reference, options.fetching or pull.PullOptions())

    def on(platform: str, library: str) -> Sources:
        from soliton.api import pull

        wishes = options.fetching or pull.PullOptions()
        if platform:
            name, _, variant = platform.partition("/")
            wishes = wishes._replace(architecture=name, variant=variant or None)
        wishes = wishes._replace(library=library or wishes.library)
        return _sources(replace(options, fetching=wishes))

    def of_dockerfile(header: Header, place: str) -> str:
        context = header.get("from") or "."
        inner = BuildOptions(
            build_args=templates.read_build_args(shlex.split(header.get("buildargs"))),
            packing=options.packing,
            tmpdir=options.tmpdir,
            keep_logs=options.keep_logs,
            ignore_subordinate_ids=options.ignore_subordinate_ids,
            anew=options.anew,
            refresh=options.refresh,
            explain=options.explain,
            stage=header.get("target"),
            context=context,
            fetching=options.fetching,
        )
        named = header.get("filename")
        path = os.path.join(context, named or "Dockerfile")
        if not named:
            path = dockerfile_in(context) or path
        _of_dockerfile(place, path, inner, os.environ)
        return digests.of_file(place)

    return Sources(fetch, known, on, of_dockerfile)


def injected(environment: Mapping[str, str]) -> dict[str, str]:
    """`APPTAINERENV_X` and its kin set X in the steps."""
    found: dict[str, str] = {}
    for prefix in reversed(INJECTING):
        for key, value in environment.items():
            if key.startswith(prefix) and len(key) > len(prefix):
                found[key.removeprefix(prefix)] = value
    return found


def _identity(options: BuildOptions) -> Identity:
    """Who builds: root itself; root over the user's subordinate ids; or a root of one id."""
    host = hosts.look()
    ignored = options.ignore_subordinate_ids
    return as_root(host, None if ignored else hosts.subordinate_ids(host.uid, host.name))
