"""Storing a plan, so that the next call of the same command line needs no Python. See `core/src/shortcut.rs`, which finds
it, checks what it depends on and fills in what differs from call to call.

Only a plan that is known through and through is stored: made from the options in `OPTIONS`, of the records in `RECORDS`.
A new option or field is none of them until somebody has thought about what it depends on and written it down here; until
then such calls go through Python each time, and are right. A failure to store is never told: nothing is lost but time.
"""

from __future__ import annotations

import os
import sys

from soliton import messages
from soliton.core import encode, to_json
from soliton.images.detect import absolute
from soliton.launch import guard, mounts
from soliton.launch.plan import Bind, ImageRoot
from soliton.record import names_of, record, replace
from soliton.site import config as configuration
from soliton.site.witness import as_status, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from soliton.images.detect import Image
    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest
    from soliton.site.host import Host
    from soliton.site.witness import Witness

#: Set by the core: the directory of the plans, and the names of this call's, see `Names::variables`.
STORE_VARIABLE, NAMES_VARIABLE = "_SOLITON_STORE", "_SOLITON_NAMES"

#: Variables that are part of a plan's name, beside all of soliton's own.
NAMED = frozenset({"HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"})

#: The options whose whole effect is in the plan and depends on nothing but the command line, soliton's own variables, the working
#: directory and the user: what is not here is not stored.
OPTIONS = frozenset(
    [
        "app",
        "bind",
        "cleanenv",
        "compat",
        "contain",
        "containall",
        "cwd",
        "dns",
        "env",
        "fakeroot",
        "home",
        "hostname",
        "ignore-subuid",
        "ipc",
        "mount",
        "no-env",
        "no-eval",
        "no-guard",
        "no-home",
        "no-init",
        "no-mount",
        "no-pid",
        "no-privs",
        "no-umask",
        "pid",
        "scratch",
        "shell",
        "umask",
        "underlay",
        "userns",
        "uts",
        "writable",
        "writable-tmpfs",
    ]
)

#: Fields of the plan's records that the core checks anew, or that need no check; any other field must have its default.
RECORDS = {
    "Plan": "identity root surface mounts process namespaces hostname name sharing reporter level version",
    "Sharing": "idle",
    # The helpers and the tables of subordinate ids are among the files that were looked at.
    "Identity": "uid gid uid_map gid_map newuidmap newgidmap",
    "IdRange": "inside outside count",
    "ImageRoot": "path offset size ids seen kind",
    "DirectoryRoot": "path seen kind",
    "ReadOnlySurface": "layer kind",
    "DirectSurface": "kind",
    "TmpfsSurface": "size kind",
    # Whether a source exists is the core's to find out at each launch.
    "Bind": "source target read_only nosuid nodev noexec optional apart origin kind",
    "Tmpfs": "target size mode origin kind",
    "Proc": "target origin kind",
    "Sys": "target origin kind",
    "Dev": "minimal target origin kind",
    "SynthesizedFile": "target content mode optional origin kind",
    "PasswdFile": "uid gid name gecos home shell target origin kind",
    "GroupFile": "groups member target origin kind",
    "Process": "action argv environment cwd cwd_required app shells umask no_new_privs capabilities locale init",
    "LocaleFallback": "name told_by",
    "Environment": "host injected fixed path prepend_path append_path evaluate scripts",
}
#: Namespaces that need nothing of the host's.
_NAMESPACES = frozenset({"pid", "ipc", "uts"})

#: A directory nobody has, to see what of a plan comes from the working directory, and a umask likewise.
_ELSEWHERE = "/soliton-nowhere/at all"
_OTHER_UMASK = 0o1234
#: More plans than this are not kept.
_MOST = 1000


@record
class Call:
    """The call that a plan was made for. positionals, given: of the command line. spoken: something was said meanwhile, which a stored plan would not say."""

    positionals: int
    given: frozenset[str]
    spoken: bool
    witness: Witness


def store(
    call: Call,
    request: ActionRequest,
    image: Image,
    plan: Plan,
    host: Host,
    compiled: Callable[[Host], Plan],
    told: str | None = None,
) -> None:
    """Stores the plan of this call where it can be. compiled: the plan again, for other facts of the machine.

    told: the guard's line, which the core says again each time.
    """
    witness = call.witness
    witness.end()
    try:
        if call.spoken or witness.reason or not call.given <= OPTIONS or unknown_in(plan):
            return
        # In colour, or with more detail, it is said by Python.
        if told and (messages.coloured() or messages.shows(messages.VERBOSE)):
            return
        stored = template(request, image, plan, host, compiled, witness)
        if stored and told and messages.shows(messages.INFO):
            stored["says"] = {"text": messages.plain(messages.INFO, told), "first_by": guard.RANKS}
        name = name_of(call, os.environ, anywhere=bool(stored and stored["directory"]))
        if stored and name:
            write(os.environ[STORE_VARIABLE], name, to_json(encode(stored)).encode("ascii"))
    except OSError:
        pass


def name_of(call: Call, environment: Mapping[str, str], *, anywhere: bool) -> str | None:
    """The name of the plan whose prefix ends at the image."""
    count, _, names = environment.get(NAMES_VARIABLE, "").partition(":")
    listed = names.split(",")
    words = int(count or 0) - call.positionals + 1
    at = 2 * (words - 1) + (0 if anywhere else 1)
    return listed[at] if words > 0 and at < len(listed) else None


def unknown_in(plan: Plan) -> str | None:
    """The first thing in a plan that is not known to be safe to store."""
    for part in _records(plan):
        kind = type(part)
        known = RECORDS.get(kind.__name__)
        if known is None:
            return kind.__name__
        for field in names_of(part) or ():
            value = getattr(part, field)
            if field not in known.split() and value != kind.__dict__.get(field, _Never):
                return f"{kind.__name__}.{field}"
    # Root by a map of ids has all of them, over what is mapped. Real root has no shortcut.
    usual = "none" if plan.identity.uid else "all"
    if plan.process.capabilities not in ("none", usual) or not plan.identity.uid_map:
        return "capabilities"
    foreign = set(plan.namespaces) - _NAMESPACES
    return f"namespace {foreign.pop()}" if foreign else None


class _Never:
    """Equal to nothing: a field without a default."""


def _records(value: object) -> Iterable[object]:
    fields = names_of(value)
    if fields is not None:
        yield value
        for field in fields:
            yield from _records(getattr(value, field))
    elif isinstance(value, tuple):
        for part in value:
            yield from _records(part)


def template(
    request: ActionRequest,
    image: Image,
    plan: Plan,
    host: Host,
    compiled: Callable[[Host], Plan],
    witness: Witness,
) -> dict[str, Any] | None:
    """What is stored: the plan without what the core fills in, and what it depends on."""
    config = configuration.current().config
    passing = guard.passing(request.settled(), config, host.environment, plan.mounts)
    if passing.apply(host.environment) != dict(plan.process.environment.host):
        return None
    asked = set(getattr(host.environment, "asked", ())) - NAMED
    files = dict(witness.files)
    # The status was taken before the image was read.
    if (
        ".." in request.image.split("/")
        or absolute(request.image) != image.path
        or files.get(request.image, status := as_status(image.status)) != status
    ):
        return None
    is_file = isinstance(plan.root, ImageRoot)
    if is_file:
        # Looked at when it is open, and not by its path.
        files.pop(request.image, None)
    else:
        files[request.image] = status
    files.update(_modules())
    bare = _without_directory(plan, host.cwd)
    nowhere = compiled(replace(host, cwd=_ELSEWHERE))
    anywhere = (
        request.image.startswith("/")
        and all(path.startswith("/") for path in files)
        and host.cwd is not None
        # What of a search path is inside depends on the directory that is bound.
        and not guard.changes(host.environment, plan.mounts)
        and _same(bare, _without_directory(nowhere, _ELSEWHERE))
    )
    if anywhere:
        plan = bare
    of_caller = compiled(replace(host, umask=_OTHER_UMASK)).process.umask == _OTHER_UMASK
    environment = replace(plan.process.environment, host={})
    process = replace(
        plan.process, argv=(), environment=environment, umask=None if of_caller else plan.process.umask
    )
    return {
        "says": None,
        "least": 1 if request.action == "exec" else 0,
        "image": status if is_file else None,
        "files": [{"path": path, "status": status} for path, status in files.items()],
        "existence": [{"path": "/etc/resolv.conf", "exists": host.resolv_conf}],
        "variables": {key: host.environment.get(key) for key in sorted(asked)},
        "passing": passing,
        "directory": _directory(nowhere, plan) if anywhere else None,
        "plan": replace(plan, process=process),
    }


def _modules() -> dict[str, Any]:
    """Where the package is run from its sources, these are what a plan depends on too; elsewhere an upgrade replaces the program."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if own.startswith((f"{sys.prefix}/", f"{sys.base_prefix}/")):
        return {}
    found: dict[str, Any] = {}
    for name, module in tuple(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and (name == "soliton" or name.startswith("soliton.")):
            found[path] = status_of(path)
    return found


def _without_directory(plan: Plan, cwd: str | None) -> Plan:
    """The plan without what stands in it for the working directory."""
    kept = tuple(m for m in plan.mounts if not (isinstance(m, Bind) and m.origin == mounts.CURRENT_DIRECTORY))
    start = plan.process.cwd
    if start and start[0] == cwd:
        start = start[1:]
    return replace(plan, mounts=kept, process=replace(plan.process, cwd=start))


def _same(one: Plan, other: Plan) -> bool:
    return to_json(encode(one)) == to_json(encode(other))


def _directory(nowhere: Plan, bare: Plan) -> dict[str, Any]:
    return {
        "start": nowhere.process.cwd[:1] == (_ELSEWHERE,),
        "bind": any(isinstance(mount, Bind) and mount.source == _ELSEWHERE for mount in nowhere.mounts),
        "not_at": sorted(mounts.NOT_CWD),
        "not_below": mounts.NEVER_BELOW,
        "covered": mounts.in_place(bare.mounts),
    }


def write(directory: str, name: str, text: bytes) -> None:
    """Puts a plan into the store under its final name, whole. Raises OSError where the store is not fit to be used."""
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o700)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"{directory} is not private")
        make_room(folder)
        partial = f"{name}.{os.getpid()}"
        whole = False
        file = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        try:
            whole = os.write(file, text) == len(text)
            if whole:
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(file)
            if not whole:
                os.unlink(partial, dir_fd=folder)
    finally:
        os.close(folder)


def make_room(folder: int) -> None:
    """Keeps the store from growing for ever: when it is full, the older half of the plans goes."""
    plans = [name for name in os.listdir(folder) if len(name.partition(".")[0]) == 32]
    if len(plans) < _MOST:
        return
    aged: list[tuple[int, str]] = []
    for name in plans:
        try:
            aged.append((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns, name))
        except OSError:
            continue
    for _, name in sorted(aged)[: len(aged) // 2]:
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            continue
