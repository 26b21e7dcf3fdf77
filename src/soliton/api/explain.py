"""`--explain`: what a container would be and see, and because of which flag, variable, directive or default. Nothing is started."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soliton import core
from soliton.api.action import compiler, find_image, look, require_free
from soliton.launch import guard
from soliton.launch.compile import asked_umask
from soliton.launch.environment import INJECTING, parse_env_file
from soliton.launch.plan import (
    Bind,
    DataBind,
    Dev,
    DirectSurface,
    FuseMount,
    ReadOnlySurface,
    SynthesizedFile,
    Tmpfs,
    TmpfsSurface,
    UpperSurface,
)
from soliton.site import config as configuration
from soliton.site.directives import BY_NAME

if TYPE_CHECKING:
    from soliton.api.pull import PullOptions
    from soliton.images.detect import Image
    from soliton.launch.plan import Mount, Plan
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Settings
    from soliton.site.host import Host

#: Options that stand for others, see `ActionRequest.settled`.
_IMPLIED = {
    "contain": ("containall", "compat"),
    "cleanenv": ("containall", "compat"),
    "pid": ("containall", "compat"),
    "ipc": ("containall", "compat"),
    "uts": ("hostname", "compat"),
    "no-umask": ("compat",),
    "net": ("network", "network-args"),
    "writable-tmpfs": ("compat",),
}
#: An assignment at the beginning of a line of a script.
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.MULTILINE)
DEFAULT = "the default"


@dataclass(frozen=True)
class Shown:
    """Something mounted. what: a clause. because: flag, variable, directive with its file and line, or default. absent: passed over here."""

    target: str
    what: str
    because: str
    absent: bool = False


@dataclass(frozen=True)
class Variable:
    """because: who gives it this value. value: None where only the container's own scripts can tell."""

    name: str
    value: str | None
    because: str


@dataclass(frozen=True)
class Explanation:
    """namespaces: name and reason. helpers: command lines of the host's programs that take part, and why. left_out: variables of the caller that do not pass, and why. plan: as the core would get it."""

    image: str
    kind: str
    runs: str
    identity: str
    root: str
    starts_in: tuple[str, ...]
    umask: str
    namespaces: tuple[tuple[str, str], ...]
    helpers: tuple[tuple[str, str], ...]
    mounts: tuple[Shown, ...]
    environment: tuple[Variable, ...]
    left_out: tuple[tuple[str, str], ...]
    plan: dict[str, Any]


def explain(request: ActionRequest, fetching: Callable[[], PullOptions] | None = None) -> Explanation:
    """The explanation of what `start` would do. Raises what that would raise before anything starts."""
    image = find_image(request, fetching)
    host = look()
    plan = compiler(request, image)(host)
    require_free(request, image, plan)
    return explanation(
        request, image, plan, host, configuration.current(), scripts(image), lacking_locales(image, plan)
    )


def scripts(image: Image) -> dict[str, str]:
    """The image's environment scripts by name, in the order in which they count."""
    if image.root is None:
        return {}  # ext3, which is not looked into
    found = core.read_files(image.root, ["/.singularity.d/env/*"])
    return {
        os.path.basename(path): file.data.decode(errors="surrogateescape")
        for path, file in sorted(found.items())
        if file.kind == "file" and path.endswith(".sh")
    }


def lacking_locales(image: Image, plan: Plan) -> frozenset[str]:
    """The locales of the caller's that something else takes the place of."""
    if image.root is None or plan.process.locale is None:
        return frozenset()
    return core.lacking_locales(image.root, sorted(set(_locales(plan).values())))


def _locales(plan: Plan) -> dict[str, str]:
    """Variables that name locales, but for what is meant for the container (`core/src/launch/locale.rs` does likewise)."""
    environment = plan.process.environment
    return {
        name: value
        for name, value in environment.host.items()
        if (name == "LANG" or name.startswith("LC_")) and name not in environment.injected
    }


def explanation(
    request: ActionRequest,
    image: Image,
    plan: Plan,
    host: Host,
    settings: Settings,
    of_image: Mapping[str, str],
    lacking: frozenset[str] = frozenset(),
) -> Explanation:
    """of_image: see `scripts`. lacking: see `lacking_locales`."""
    because = _Because(request, settings)
    variables, left_out = _environment(request, plan, host, settings, of_image, lacking, because)
    names = {"pid": "pid", "ipc": "ipc", "uts": "uts", "net": "net"}
    namespaces = [("mount", "always")]
    if plan.identity.uid_map:
        namespaces.append(("user", "always, for who is not root"))
    namespaces += [(name, because.option(names.get(name, name))) for name in plan.namespaces]
    return Explanation(
        image=image.path,
        kind=image.kind,
        runs=" ".join((request.action, *request.argv)),
        identity=_identity(plan, because),
        root=_root(plan, because),
        starts_in=plan.process.cwd,
        umask=_umask(request, host, because),
        namespaces=tuple(namespaces),
        helpers=_helpers(plan, because),
        mounts=tuple(_shown(mount, because) for mount in plan.mounts),
        environment=variables,
        left_out=left_out,
        plan=core.encode(plan),
    )


class _Because:
    """Who asked for something."""

    def __init__(self, request: ActionRequest, settings: Settings) -> None:
        self.request, self.settings = request, settings

    def option(self, name: str) -> str:
        """How an option came to be: as it was given, or through one that stands for it."""
        for given in (name, *_IMPLIED.get(name, ())):
            origins = self.request.origins.get(given)
            if origins:
                spelled = f"--{given}" if origins[0].startswith("-") else origins[0]
                return spelled if given == name else f"--{name}, by {spelled}"
        return f"--{name}"

    def directive(self, name: str, index: int = 0) -> str:
        lines = self.settings.origins.get(name)
        line = lines[min(index, len(lines) - 1)] if lines else "default"
        return f"{name}, {DEFAULT}" if line == "default" else f"{name} ({line})"

    def origin(self, mount: Mount) -> str:
        """Of a mount, whose own word is a flag, a variable, or a directive in the words of the peers."""
        word = mount.origin
        if word.startswith("--"):
            return word if word in ("--bind", "--mount") else self.option(word[2:])
        name = word.replace(" ", "-").replace("_", "-")
        if name not in BY_NAME:
            return f"{word}, {DEFAULT}" if " " in word else word
        index = 0
        if name == "bind-path" and isinstance(mount, Bind):
            sources = [bind.partition(":")[0] for bind in self.settings.config.bind_path]
            index = sources.index(mount.source) if mount.source in sources else 0
        return self.directive(name, index)


def _identity(plan: Plan, because: _Because) -> str:
    who = plan.identity
    if not who.uid_map:
        return f"uid {who.uid}, gid {who.gid}: real root" if who.uid == 0 else f"uid {who.uid}, gid {who.gid}"
    if because.request.fakeroot:
        count = sum(entry.count for entry in who.uid_map)
        more = "alone" if count == 1 else f"with {count - 1} subordinate ids"
        return f"root inside, {more}, you outside ({because.option('fakeroot')})"
    return f"uid {who.uid}, gid {who.gid}: yourself"


def _root(plan: Plan, because: _Because) -> str:
    match plan.surface:
        case ReadOnlySurface():
            return f"read-only, {DEFAULT}"
        case TmpfsSurface(size=size):
            asked = because.option("writable-tmpfs")
            if plan.outfitter and not because.request.settled().writable_tmpfs:
                asked = f"nvidia-container-cli writes there, {_nvidia_tool(because)}"
            return f"writes go to {size >> 20} MiB of memory and are forgotten ({asked}; {because.directive('sessiondir-max-size')})"
        case UpperSurface(upper=upper, image=inside):
            asked = because.option("writable" if because.request.writable else "overlay")
            return f"writes go to {inside.path if inside else upper} ({asked})"
        case DirectSurface():
            return f"writable ({because.option('writable')})"
        case other:
            return type(other).__name__


def _nvidia_tool(because: _Because) -> str:
    if because.request.nvccli:
        return because.option("nvccli")
    return because.directive("use-nvidia-container-cli")


def _umask(request: ActionRequest, host: Host, because: _Because) -> str:
    asked = asked_umask(request.settled())
    return f"{asked[1]:04o} ({because.option(asked[0])})" if asked else f"{host.umask:04o}: your own"


def _helpers(plan: Plan, because: _Because) -> tuple[tuple[str, str], ...]:
    found = []
    if plan.helper is not None:
        found.append((" ".join(plan.helper.argv), f"connects the network, {because.option('net')}"))
    if plan.outfitter:
        found.append(
            (" ".join(plan.outfitter), f"adds the GPU's driver to the root, {_nvidia_tool(because)}")
        )
    return tuple(found)


def _shown(mount: Mount, because: _Because) -> Shown:
    absent = False
    match mount:
        case Bind():
            what = "the host's own" if mount.source == mount.target else mount.source
            what += ", read-only" if mount.read_only else ""
            absent = mount.optional and not os.path.exists(mount.source)
        case DataBind(source=source, root=root, read_only=read_only):
            what = f"{source} in {root.path}" + (", read-only" if read_only else "")
        case FuseMount(argv=argv, host=on_host):
            what = f"served by `{' '.join(argv)}` " + ("on the host" if on_host else "in the container")
        case Tmpfs(size=size):
            what = f"empty, in memory, at most {size >> 20} MiB"
        case Dev(minimal=True):
            what = "a few harmless devices"
        case Dev():
            what = "the host's own"
        case SynthesizedFile():
            what = "a file made for this container"
        case other:
            what = {
                "proc": "the processes that it can see",
                "sys": "the host's own",
                "passwd": "the image's, with a line for you",
                "group": "the image's, with lines for your groups",
            }.get(other.kind, other.kind)
    return Shown(mount.target, what, because.origin(mount), absent)


def _environment(
    request: ActionRequest,
    plan: Plan,
    host: Host,
    settings: Settings,
    of_image: Mapping[str, str],
    lacking: frozenset[str],
    because: _Because,
) -> tuple[tuple[Variable, ...], tuple[tuple[str, str], ...]]:
    request = request.settled()
    environment = plan.process.environment
    guarded = guard.is_on(request, settings.config)
    changed = guard.changes(host.environment, plan.mounts) if guarded else {}
    found: dict[str, Variable] = {}
    for name, value in environment.host.items():
        if host.environment.get(name) == value and name != "PATH":
            reason = "your environment"
        elif name in changed:
            reason = "your environment, what of it the container can see (guard)"
        elif name == "PATH":
            reason = "the standard one, where the image has none"
        elif request.cleanenv and name == "LANG":
            reason = because.option("cleanenv")
        else:
            reason = f"guard ({because.directive('guard')})"
        found[name] = Variable(name, value, reason)
    if plan.process.locale is not None:
        for name, value in _locales(plan).items():
            if value in lacking:
                reason = f"the image lacks the locale {value}; {because.directive('guard')}"
                found[name] = Variable(name, plan.process.locale.name, reason)
    if environment.scripts:
        for script, text in of_image.items():
            for name, value in _ASSIGNMENT.findall(text):
                found[name] = Variable(name, None, f"the image, {script}: {value}")
    files: dict[str, str] = {}
    for text in request.env_files:
        files.update(parse_env_file(text))
    special = {
        "PATH": environment.path,
        "PREPEND_PATH": environment.prepend_path,
        "APPEND_PATH": environment.append_path,
    }
    injected = {**environment.injected, **{k: v for k, v in special.items() if v is not None}}
    for name, value in injected.items():
        if name in request.env:
            reason = "--env"
        elif name in files:
            reason = because.option("env-file")
        else:
            reason = next((p + name for p in INJECTING if p + name in host.environment), "injected")
        if environment.evaluate and "$" in value:
            reason += ", evaluated inside"
        found[name] = Variable(name, value, reason)
    for name, value in environment.fixed.items():
        found[name] = Variable(name, value, "soliton")
    left_out = tuple(
        (name, _why_left_out(name, request, changed, because))
        for name in sorted(host.environment)
        if name not in found
    )
    return tuple(found[name] for name in sorted(found)), left_out


def _why_left_out(
    name: str, request: ActionRequest, changed: Mapping[str, str | None], because: _Because
) -> str:
    if name in request.no_env:
        return because.option("no-env")
    if name.startswith(("SOLITON_", "APPTAINER_", "SINGULARITY_", "_SOLITON_", *INJECTING)):
        return "it steers soliton"
    if request.cleanenv:
        return because.option("cleanenv")
    if name in changed:
        return "guard"
    return "it is the host's own"
