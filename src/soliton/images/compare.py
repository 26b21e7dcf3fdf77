"""What differs between two sets of files, or of anything else that has names: pure functions over what was read before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soliton.images.survey import FileFacts

#: What of a file can differ, in the order in which it is told.
ASPECTS = ("kind", "content", "target", "device", "mode", "owner", "time", "xattrs", "links")


@dataclass(frozen=True)
class Change:
    """name: a path, a package, a variable, a label. aspects: of a changed one, aspect → (before, after) for people."""

    name: str
    change: Literal["added", "removed", "changed"]
    aspects: Mapping[str, tuple[str, str]]


def files(
    before: Mapping[str, FileFacts], after: Mapping[str, FileFacts], ignore: Collection[str] = ()
) -> list[Change]:
    """Changes in the order of paths. ignore: aspects that do not count."""
    changes: list[Change] = []
    for path in sorted({*before, *after}, key=lambda path: path.split("/")):
        old, new = before.get(path), after.get(path)
        if old is None or new is None:
            there = old or new
            assert there is not None
            shown = {"is": _both(_described(there), old is None)}
            changes.append(Change(path, "added" if old is None else "removed", shown))
        elif aspects := {name: pair for name, pair in _file_aspects(old, new).items() if name not in ignore}:
            changes.append(Change(path, "changed", aspects))
    return changes


def values(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """The same for names with values: packages with their versions, variables, labels."""
    changes: list[Change] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None:
            changes.append(Change(name, "added", {"is": ("", new or "")}))
        elif new is None:
            changes.append(Change(name, "removed", {"is": (old, "")}))
        elif old != new:
            changes.append(Change(name, "changed", {"is": (old, new)}))
    return changes


def as_json(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {"name": change.name, "change": change.change}
    for aspect, (old, new) in change.aspects.items():
        found[aspect] = {"before": old, "after": new}
    return found


def _both(text: str, added: bool) -> tuple[str, str]:
    return ("", text) if added else (text, "")


def _described(facts: FileFacts) -> str:
    match facts.kind:
        case "file":
            return f"{facts.size} bytes"
        case "link":
            return f"-> {facts.target}"
    return facts.kind


def _file_aspects(old: FileFacts, new: FileFacts) -> dict[str, tuple[str, str]]:
    if old.kind != new.kind:
        return {"kind": (old.kind, new.kind)}
    found: dict[str, tuple[str, str]] = {}
    if (old.size, old.digest) != (new.size, new.digest):
        sizes = (f"{old.size} bytes", f"{new.size} bytes")
        found["content"] = (
            sizes if old.size != new.size else (f"sha256:{old.digest[:12]}", f"sha256:{new.digest[:12]}")
        )
    pairs = {
        "target": (old.target, new.target),
        "device": (old.device, new.device),
        "mode": (f"{old.mode:04o}", f"{new.mode:04o}"),
        "owner": (f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
        "time": (_time(old.mtime), _time(new.mtime)),
        "xattrs": (_xattrs(old), _xattrs(new)),
        "links": (old.same_as, new.same_as),
    }
    return found | {aspect: pair for aspect, pair in pairs.items() if pair[0] != pair[1]}


def _time(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _xattrs(facts: FileFacts) -> str:
    return ", ".join(f"{name}={value.hex()}" for name, value in sorted(facts.xattrs.items()))
