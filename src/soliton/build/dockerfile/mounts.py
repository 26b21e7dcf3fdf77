"""`RUN --mount=…`: what the option says, checked. Which files of the host that becomes is `steps`' work. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from soliton.build.lines import DefinitionError, closest

_KEYS = {
    "bind": ("type", "target", "source", "from", "ro", "rw"),
    "cache": ("type", "target", "source", "from", "id", "ro", "rw", "sharing", "mode", "uid", "gid"),
    "tmpfs": ("type", "target", "size"),
    "secret": ("type", "target", "source", "id", "required", "mode", "uid", "gid", "env"),
    "ssh": ("type", "target", "id", "required", "mode"),
}
_ALIASES = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "readwrite": "rw",
    "readonly": "ro",
}
_ID = re.compile(r"[^\0\n]{1,200}")


@dataclass(frozen=True)
class Mount:
    """kind: one of Dockerfiles' types. target: absolute or relative to the working directory. owner: of a new cache, or a secret."""

    kind: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    target: str
    source: str = ""
    stage: str = ""
    id: str = ""
    read_only: bool = False
    locked: bool = False
    required: bool = False
    variable: str = ""
    mode: int | None = None
    owner: tuple[int, int] = (0, 0)
    size: int = 0


def read(
    text: str, name: str, line: int, expand: Callable[[str, str], str] = lambda key, value: value
) -> Mount:
    """expand: replaces the variables in a value, given its key. Raises DefinitionError for anything that is not understood: a
    mount that is not as asked for would be worse.
    """

    def error(what: str, remedy: str | None = None) -> DefinitionError:
        return DefinitionError(name, f"`--mount={text[:60]}`: {what}", line=line, remedy=remedy)

    values: dict[str, str] = {}
    for field in next(csv.reader(io.StringIO(text)), []):
        key, equals, value = field.strip().partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        values[key] = expand(key, value) if equals else "true"
    kind = values.get("type", "bind")
    if kind not in _KEYS:
        raise error(f"there is no type `{kind[:20]}`", closest(kind, _KEYS))
    for key in values:
        if key not in _KEYS[kind]:
            raise error(f"`{key[:20]}` means nothing for `type={kind}`", closest(key, _KEYS[kind]))
    target = values.get("target", "")
    identity = values.get("id", "")
    if kind == "secret":
        identity = values.get("source") or identity or target.rpartition("/")[2]
        if not identity:
            raise error("a secret needs an `id`")
        if "/" in identity and not target:
            raise error("such an `id` needs a `target`")
        if not target and "env" not in values:
            target = f"/run/secrets/{identity}"
    elif kind == "ssh":
        identity = identity or "default"
        target = target or f"/run/buildkit/ssh_agent.{identity}"
    elif not target:
        raise error("it needs a `target`")
    if "\0" in target or ".." in target.split("/"):
        raise error("its target is no path")
    if identity and not _ID.fullmatch(identity):
        raise error("its `id` is none")
    sharing = values.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise error(
            f"`sharing={sharing[:20]}` is not known", closest(sharing, ("shared", "private", "locked"))
        )
    read_only = kind != "cache"
    for key in ("ro", "rw"):
        if key in values:
            read_only = _flag(values[key], error) is (key == "ro")
    return Mount(
        kind,  # type: ignore[arg-type]
        target,
        values.get("source", ""),
        values.get("from", ""),
        identity or target,
        read_only,
        sharing != "shared",
        _flag(values.get("required", "false"), error),
        values.get("env", ""),
        _mode(values.get("mode"), error),
        (_id(values.get("uid", "0"), error), _id(values.get("gid", "0"), error)),
        _size(values.get("size", ""), error),
    )


def _flag(text: str, error: object) -> bool:
    if text.lower() in ("true", "1", ""):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise error(f"`{text[:20]}` is neither true nor false")  # type: ignore[operator]


def _mode(text: str | None, error: object) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-7]{3,5}", text):
        raise error(f"`{text[:20]}` is no mode")  # type: ignore[operator]
    return int(text, 8)


def _id(text: str, error: object) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise error(f"`{text[:20]}` is no id")  # type: ignore[operator]
    return int(text)


def _size(text: str, error: object) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([kKmMgG]?)[bB]?", text) if text else None
    if text and match is None:
        raise error(f"`{text[:20]}` is no size")  # type: ignore[operator]
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()] if match else 1 << 30
