"""Devices by their CDI names (`vendor/class=name`, Container Device Interface): specifications → edits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soliton.errors import SolitonError
from soliton.launch.plan import Bind

#: Options of a mount that a container has anyway, or that change nothing here.
_IGNORED = frozenset(
    {"rw", "bind", "rbind", "private", "rprivate", "slave", "rslave", "nosuid", "nodev", "noexec", "exec"}
)


@dataclass(frozen=True)
class Edits:
    """What devices change in a container. hooks: how many programs would have to run on the host, which none does."""

    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Bind, ...] = ()
    hooks: int = 0


def edits(devices: tuple[str, ...], specifications: list[tuple[int, str, Any]]) -> Edits:
    """specifications: (priority of the directory, file, content). Raises SolitonError for unknown or ambiguous names."""
    known: dict[str, tuple[int, str, Any, Any]] = {}
    ambiguous: dict[str, str] = {}
    for priority, file, content in specifications:
        for name, device in _devices(content, file).items():
            before = known.get(name)
            if before and before[0] == priority:
                ambiguous[name] = f"`{before[1]}` and `{file}`"
            if before is None or before[0] <= priority:
                known[name] = (priority, file, content, device)
                if before and before[0] < priority:
                    ambiguous.pop(name, None)
    environment: list[tuple[str, str]] = []
    mounts: list[Bind] = []
    hooks = 0
    general: set[str] = set()
    for wanted in devices:
        if wanted not in known:
            _check_name(wanted)
            listed = ", ".join(sorted(known)[:8]) + (", …" if len(known) > 8 else "")
            raise SolitonError(
                f"there is no CDI device `{wanted}`",
                why=f"known are {listed}" if known else "no specification was found",
                remedy=None if known else "they are in /etc/cdi and /var/run/cdi, or where `--cdi-dirs` says",
            )
        if wanted in ambiguous:
            raise SolitonError(f"the CDI device `{wanted}` is described twice", why=f"in {ambiguous[wanted]}")
        _, file, content, device = known[wanted]
        parts = [device] if file in general else [content, device]
        general.add(file)
        for part in parts:
            change = _object(part.get("containerEdits"), file)
            environment += _environment(change, file)
            mounts += _mounts(change, file)
            hooks += len(_objects(change.get("hooks"), file))
    return Edits(tuple(environment), tuple(mounts), hooks)


def _check_name(name: str) -> None:
    kind, equals, device = name.partition("=")
    vendor, slash, class_ = kind.partition("/")
    if not (equals and slash and vendor and class_ and device):
        raise SolitonError(f"`{name}` is not a CDI device", why="one is named VENDOR/CLASS=NAME")


def _broken(file: str, why: str) -> SolitonError:
    return SolitonError(f"the CDI specification `{file}` cannot be used", why=why)


def _object(value: Any, file: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _broken(file, "an object was expected")
    return value


def _objects(value: Any, file: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _broken(file, "a list was expected")
    return [_object(item, file) for item in value]


def _text(holder: dict[str, Any], key: str, file: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise _broken(file, f"`{key}` is missing or no text")
    return value


def _devices(content: Any, file: str) -> dict[str, Any]:
    top = _object(content, file)
    kind = _text(top, "kind", file)
    _text(top, "cdiVersion", file)
    found: dict[str, Any] = {}
    for device in _objects(top.get("devices"), file):
        name = f"{kind}={_text(device, 'name', file)}"
        if name in found:
            raise _broken(file, f"it describes `{name}` twice")
        found[name] = device
    return found


def _environment(change: dict[str, Any], file: str) -> list[tuple[str, str]]:
    found = []
    for item in change.get("env") or []:
        name, equals, value = item.partition("=") if isinstance(item, str) else ("", "", "")
        if not equals or not name or "\0" in item:
            raise _broken(file, "`env` is not a list of NAME=VALUE")
        found.append((name, value))
    return found


def _path(path: str, file: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise _broken(file, f"`{path}` is not an absolute path")
    return path


def _mounts(change: dict[str, Any], file: str) -> list[Bind]:
    binds = []
    for node in _objects(change.get("deviceNodes"), file):
        target = _path(_text(node, "path", file), file)
        source = _path((node.get("hostPath") and _text(node, "hostPath", file)) or target, file)
        binds.append(Bind(source, target, nodev=False, origin="--device"))
    for mount in _objects(change.get("mounts"), file):
        source, target = (
            _path(_text(mount, "hostPath", file), file),
            _path(_text(mount, "containerPath", file), file),
        )
        options = mount.get("options") or []
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise _broken(file, "`options` of a mount is not a list of words")
        unknown = set(options) - _IGNORED - {"ro"}
        if unknown:
            raise _broken(file, f"the mount option `{min(unknown)}` is not known")
        binds.append(
            Bind(source, target, read_only="ro" in options, noexec="noexec" in options, origin="--device")
        )
    return binds
