"""`build`: a definition file, or any image, into an image.

    build("tools.sif", "tools.def", BuildOptions(force=True))

Here the user's wishes are settled against the machine: who builds, where, from what; `soliton.build` does the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soliton import messages
from soliton.build import builder, compression, templates, workspace
from soliton.build.bootstrap import Fetched, Sources
from soliton.build.job import Settings
from soliton.build.origin import Origin, settle
from soliton.build.steps import Choice, read_sections
from soliton.errors import BuildError, NotSupported, TargetError, UsageError
from soliton.images import target as targets
from soliton.launch.plan import Bind, Identity, IdRange


@dataclass(frozen=True)
class BuildOptions:
    """force: an existing target is replaced, and labels and help of a base image too. replace: only the target.

    sandbox: a directory. update: the definition runs over an existing sandbox. sections: as `--section`. build_args:
    for `{{ }}`. warn_unused: of build arguments nothing uses, instead of refusing. packing: in the words of mksquashfs. tmpdir:
    where the build's temporary files are. keep: they stay.
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
    architecture: str | None = None
    tmpdir: str | None = None
    keep: bool = False
    ignore_subordinate_ids: bool = False


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
    if options.architecture and not _may_be_foreign(origin):
        raise NotSupported(
            "`--arch` for a build with steps",
            why="programs of another architecture would have to run",
            remedy="build on a machine of that architecture",
        )
    if options.update and origin.kind != "definition":
        raise UsageError("`--update` takes a definition file", why=f"`{source}` is none")
    epoch = _epoch(environment)
    settings = Settings(
        choice=Choice(read_sections(options.sections), options.test, options.update),
        time=int(time.time()) if epoch is None else epoch,
        clamp=epoch is not None,
        environment=environment,
        cwd=os.getcwd(),
        force=options.force,
        packing=compression.parse(options.packing),
        binds=options.binds,
        writable_test=options.writable_test,
    )
    builder.build(
        builder.Request(
            definition=origin.definition,
            target=os.path.abspath(target),
            settings=settings,
            identity=_identity(options),
            sources=Sources(_fetch),
            tmpdir=workspace.parent(options.tmpdir, environment),
            sandbox=options.sandbox,
            replace=options.force or options.replace,
            fix_perms=options.fix_perms,
            keep=options.keep,
        )
    )


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


def _fetch(reference: str) -> Fetched:
    raise NotSupported(f"fetching `{reference}`")


def _identity(options: BuildOptions) -> Identity:
    """Who builds: root itself; root over the user's subordinate ids; or a root of one id."""
    import pwd
    import shutil

    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        return Identity(0, 0)
    own = (IdRange(0, uid, 1),), (IdRange(0, gid, 1),)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    helpers = shutil.which("newuidmap"), shutil.which("newgidmap")
    ranges = _range("/etc/subuid", name, uid), _range("/etc/subgid", name, uid)
    if options.ignore_subordinate_ids or None in ranges or None in helpers:
        return Identity(0, 0, *own)
    assert ranges[0] and ranges[1]
    return Identity(0, 0, (*own[0], ranges[0]), (*own[1], ranges[1]), *helpers)


def _range(table: str, name: str, uid: int) -> IdRange | None:
    try:
        with open(table, encoding="utf-8", errors="replace") as file:
            for line in file:
                user, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if user in (name, str(uid)) and first.isdigit() and count.isdigit() and int(count) > 0:
                    return IdRange(1, int(first), int(count))
    except OSError:
        pass
    return None
