"""`RECIPE.lock`: what a recipe's words stood for when it was built, so that another build can be held to it.

    {"version": 1, "tool": "soliton 0.1.0", "recipe": {"name", "digest"}, "epoch": 1700000000, "architecture": "amd64",
     "bases": [{"stage": 1, "from": "docker://debian:12", "digest": "sha256:…"}],
     "files": {"model.dat": "sha256:…"},
     "packages": {"dpkg": {"hello": {"version": "2.10-3", "digest": "sha256:…"}}}}

JSON, since programs read it; sorted and indented, since people compare it. The same build gives the same text anywhere.
Pure, but for reading and writing the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soliton import __version__, messages
from soliton.errors import BuildError, TargetError
from soliton.images.packages import MANAGERS, Package
from soliton.undisturbed import passing_file, undisturbed

VERSION = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: A lock of 100,000 packages has 20 MB.
LARGEST = 64 << 20
#: Differences named in the error itself, and in the lines before it.
_NAMED, _LISTED = 3, 50


@dataclass(frozen=True)
class LockedBase:
    """stage: counted from 1. digest: empty where an agent gathers its base from many parts."""

    stage: int
    source: str
    digest: str


@dataclass(frozen=True)
class Lock:
    """recipe: name and digest of its text. files: name as in the recipe → digest. packages: of the finished image."""

    recipe: tuple[str, str]
    epoch: int
    architecture: str
    bases: tuple[LockedBase, ...]
    files: Mapping[str, str]
    packages: tuple[Package, ...] = ()
    tool: str = field(default=f"soliton {__version__}")

    def base(self, stage: int) -> LockedBase | None:
        return next((base for base in self.bases if base.stage == stage), None)


def path_of(recipe: str) -> str:
    """Where the lock of a recipe is."""
    return f"{recipe}.lock"


def encode(lock: Lock) -> str:
    packages: dict[str, dict[str, Any]] = {}
    for package in lock.packages:
        entry = {"version": package.version, **({"digest": package.digest} if package.digest else {})}
        known = packages.setdefault(package.manager, {})
        # Of a name that is there several times (pip, in several places), each.
        name, count = package.name, 1
        while name in known:
            count += 1
            name = f"{package.name} ({count})"
        known[name] = entry
    record = {
        "version": VERSION,
        "tool": lock.tool,
        "recipe": {"name": lock.recipe[0], "digest": lock.recipe[1]},
        "epoch": lock.epoch,
        "architecture": lock.architecture,
        "bases": [{"stage": b.stage, "from": b.source, "digest": b.digest} for b in lock.bases],
        "files": dict(sorted(lock.files.items())),
        "packages": packages,
    }
    # Names of files need not be text.
    return json.dumps(record, indent=2, ensure_ascii=True) + "\n"


def decode(text: str | bytes, name: str) -> Lock:
    """The lock in `text`; name: for messages. Raises BuildError for what is none."""
    try:
        record = json.loads(text)
        if record["version"] != VERSION:
            raise BuildError(
                f"`{name}` is a lock of version {record['version']}, which is not known here",
                remedy="use a newer soliton, or write it again with `--lock`",
            )
        return Lock(
            recipe=(_text(record["recipe"]["name"]), _text(record["recipe"]["digest"])),
            epoch=_epoch(record["epoch"]),
            architecture=_text(record["architecture"]),
            bases=tuple(
                LockedBase(int(base["stage"]), _text(base["from"]), _digest(base["digest"]))
                for base in record["bases"]
            ),
            files={_text(path): _text(digest) for path, digest in record["files"].items()},
            packages=tuple(
                Package(
                    manager, name.partition(" (")[0], _text(entry["version"]), _text(entry.get("digest", ""))
                )
                for manager in MANAGERS
                for name, entry in record["packages"].get(manager, {}).items()
            ),
            tool=_text(record["tool"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BuildError(
            f"`{name}` is not a lock", why="it is no JSON of that form", remedy="write it again with `--lock`"
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _digest(value: object) -> str:
    text = _text(value)
    if text and not _DIGEST.fullmatch(text):
        raise ValueError
    return text


def _epoch(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise ValueError
    return value


def read(recipe: str) -> Lock:
    """The lock beside a recipe. Raises BuildError."""
    path = path_of(recipe)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BuildError(
            f"`{path}` cannot be read", why=error.strerror, remedy="`soliton build --lock` writes it"
        ) from None
    if len(data) > LARGEST:
        raise BuildError(f"`{path}` is too large to be a lock")
    return decode(data, path)


def write(recipe: str, text: str) -> None:
    """Puts the lock beside the recipe, whole or not at all. Raises TargetError."""
    path = path_of(recipe)
    made = f"{path}.{os.getpid()}.partial"
    try:
        with undisturbed(), passing_file(made):
            with open(made, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(made, path)
    except OSError as error:
        raise TargetError(f"`{path}` cannot be written", why=error.strerror) from None


def differences(recorded: Lock, found: Lock) -> list[str]:
    """What differs, a sentence each, from what is recorded to what was found; the tool and the recipe's words do not count."""
    told = []
    if recorded.architecture != found.architecture:
        told.append(f"the architecture is {found.architecture} instead of {recorded.architecture}")
    for base in found.bases:
        known = recorded.base(base.stage)
        if known is None or known.source != base.source:
            told.append(f"base `{base.source}` of stage {base.stage} is not in the lock")
        elif known.digest and known.digest != base.digest:
            told.append(
                f"base `{base.source}` has the digest {_short(base.digest)} instead of {_short(known.digest)}"
            )
    told += _values("file", recorded.files, found.files)
    told += _values("package", _versions(recorded.packages), _versions(found.packages))
    return told


def file_differences(recorded: Lock, files: Mapping[str, str]) -> list[str]:
    """The same for some files only."""
    return list(
        _values("file", {name: recorded.files[name] for name in files if name in recorded.files}, files)
    )


def narrowed(lock: Lock, *, base: int) -> Lock:
    """Only the base of one stage."""
    bases = tuple(item for item in lock.bases if item.stage == base)
    return replace(lock, bases=bases, files={}, packages=(), architecture="")


def with_packages(lock: Lock, found: Iterable[Package]) -> Lock:
    return replace(lock, packages=tuple(found))


def _values(kind: str, recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterable[str]:
    for name in sorted({*recorded, *found}):
        old, new = recorded.get(name), found.get(name)
        if old is None:
            yield f"{kind} `{name}` is not in the lock"
        elif new is None:
            yield f"{kind} `{name}` is missing"
        elif old != new:
            yield f"{kind} `{name}` is {_short(new)} instead of {_short(old)}"


def _versions(packages: Iterable[Package]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for package in packages:
        found.setdefault(f"{package.manager} {package.name}", []).append(
            f"{package.version} {package.digest}".strip()
        )
    return {name: ", ".join(several) for name, several in found.items()}


def _short(text: str) -> str:
    """Digests in a sentence by their first digits."""
    return " ".join(
        word[: word.index(":") + 13] + "…" if ":" in word and len(word) > 60 else word
        for word in text.split(" ")
    )


def differs(told: Sequence[str], name: str, remedy: str) -> BuildError:
    """The error that names what differs from the lock called `name`."""
    if len(told) > _NAMED:
        for line in told[:_LISTED]:
            messages.warning(line)
    rest = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return BuildError(
        f"the build differs from `{name}`",
        why="; ".join(told[:_NAMED]) + rest,
        remedy=remedy,
    )
