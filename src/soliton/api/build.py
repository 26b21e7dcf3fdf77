"""`build`: a definition file, or any image, into an image.

    build("tools.sif", "tools.def", BuildOptions(force=True))

Here the user's wishes are settled against the machine: who builds, where, from what; `soliton.build` does the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soliton import messages
from soliton.build import builder, compression, templates, workspace
from soliton.build.bootstrap import Fetched, Sources
from soliton.build.job import Settings
from soliton.build.origin import Origin, settle
from soliton.build.steps import Choice, read_sections
from soliton.errors import BuildError, NotSupported, TargetError, UsageError
from soliton.images import target as targets
from soliton.launch.environment import INJECTING
from soliton.launch.identity import as_root
from soliton.launch.plan import Bind, Identity
from soliton.site import host as hosts

if TYPE_CHECKING:
    from soliton.api.pull import PullOptions


@dataclass(frozen=True)
class BuildOptions:
    """force: an existing target is replaced, and labels and help of a base image too. replace: only the target.

    sandbox: a directory. update: the definition runs over an existing sandbox. sections: as `--section`. build_args:
    for `{{ }}`. warn_unused: of build arguments nothing uses, instead of refusing. packing: in the words of mksquashfs. tmpdir:
    where the build's temporary files are. keep: they stay. keep_logs: so do logs and caches of package managers, in the
    image. fetching: how base images are had.
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
    binds: tuple[Bind, ...] = ()
    packing: str = ""
    tmpdir: str | None = None
    keep: bool = False
    keep_logs: bool = False
    ignore_subordinate_ids: bool = False
    fetching: PullOptions | None = None


def build(target: str, source: str, options: BuildOptions | None = None) -> None:
    """Builds `target`; when this returns, it is there, and if this raises, nothing is.

    source: a definition file, an image or sandbox, or a URI (docker://, oci:, oci-archive:, docker-archive:).
    Raises BuildError, DefinitionError, TargetError, ImageError, RegistryError, LaunchError, NotSupported.
    """
    options = options or BuildOptions()
    environment = dict(os.environ)
    check_target(target, options)
    origin = settle(source, dict(options.build_args))
    for warning in origin.definition.warnings:
        messages.warning(warning)
    try:
        templates.check_used(options.build_args, origin.definition.used)
    except BuildError as error:
        if not options.warn_unused:
            raise
        messages.warning(error.what)
    if options.fetching and options.fetching.architecture and not _may_be_foreign(origin):
        raise NotSupported(
            "`--arch` for a build with steps",
            why="programs of another architecture would have to run",
            remedy="build on a machine of that architecture",
        )
    if options.update and origin.kind != "definition":
        raise UsageError("`--update` takes a definition file", why=f"`{source}` is none")
    if origin.kind == "reference" and not options.sandbox:
        _fetch_to(target, origin, options)
        return
    settings = Settings(
        choice=Choice(read_sections(options.sections), options.test, options.update),
        epoch=_epoch(environment),
        keep_logs=options.keep_logs,
        environment=environment,
        cwd=os.getcwd(),
        force=options.force,
        packing=compression.parse(options.packing),
        binds=options.binds,
        injected=_injected(environment),
        writable_test=options.writable_test,
    )
    builder.build(
        builder.Request(
            definition=origin.definition,
            target=os.path.abspath(target),
            settings=settings,
            identity=_identity(options),
            sources=_sources(options),
            tmpdir=workspace.parent(options.tmpdir, environment),
            sandbox=options.sandbox,
            replace=options.force or options.replace,
            fix_perms=options.fix_perms,
            keep=options.keep,
        )
    )


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


def _may_be_foreign(origin: Origin) -> bool:
    return origin.kind == "reference"


def _epoch(environment: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH (reproducible-builds.org): Unix seconds that stand for now."""
    text = environment.get("SOURCE_DATE_EPOCH", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise UsageError(f"SOURCE_DATE_EPOCH is `{text}`, which is no time", remedy="give seconds since 1970")
    return int(text)


def _sources(options: BuildOptions) -> Sources:
    """Images from elsewhere: from the cache, or with `--disable-cache` into the workspace."""

    def fetch(reference: str, place: str) -> Fetched:
        from soliton.api import pull

        wishes = options.fetching or pull.PullOptions()
        if wishes.cache:
            return Fetched(pull.to_cache(reference, wishes._replace(offline_is_fine=True)))
        return Fetched(pull.pull(reference, place, wishes))

    return Sources(fetch)


def _injected(environment: Mapping[str, str]) -> dict[str, str]:
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
