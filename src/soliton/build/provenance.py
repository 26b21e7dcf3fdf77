"""Where an image comes from, as data that others know: an in-toto Statement with SLSA provenance (slsa.dev/provenance/v1).

It lies in the SIF behind the root file system, which is its subject. It tells recipe, bases, files, arguments and the
builder, and nothing of machine, user, day or directory: the same build makes the same statement. Values of secrets are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soliton import __version__
from soliton.build.lockfile import Lock, LockedBase
from soliton.errors import ImageError
from soliton.images import metadata_json

#: Names of the objects in a SIF.
OBJECT = "provenance.intoto.json"
LOCK_OBJECT = "recipe.lock"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:soliton:build:1"
_BUILDER = "urn:soliton"


@dataclass(frozen=True)
class Arguments:
    """What the user said on the command line that the image depends on. build_args: without secrets, of which only the
    names are told. options: name → value, only those that differ from the usual. injected: names of `APPTAINERENV_*`.
    binds: targets.
    """

    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    injected: Sequence[str] = ()
    binds: Sequence[str] = ()


def statement(lock: Lock, arguments: Arguments, root_digest: str, lock_digest: str = "") -> bytes:
    """The object's bytes. root_digest: of the root file system; lock_digest: of the lock beside it, empty without one."""
    dependencies: list[dict[str, Any]] = []
    for base in lock.bases:
        entry: dict[str, Any] = {"uri": base.source, **_digest(base.digest)}
        dependencies.append({**entry, "annotations": {"stage": base.stage}})
    dependencies += [{"name": name, **_digest(digest)} for name, digest in sorted(lock.files.items())]
    if lock_digest:
        dependencies.append({"name": LOCK_OBJECT, **_digest(lock_digest)})
    parameters: dict[str, Any] = {
        "recipe": {"name": lock.recipe[0], **_digest(lock.recipe[1])},
        "buildArgs": dict(sorted(arguments.build_args.items())),
        "secretBuildArgs": sorted(arguments.secrets),
        "options": dict(sorted(arguments.options.items())),
        "environment": sorted(arguments.injected),
        "binds": sorted(arguments.binds),
    }
    return metadata_json.indented(
        {
            "_type": STATEMENT,
            "subject": [{"name": "root", **_digest(root_digest)}],
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {key: value for key, value in parameters.items() if value},
                    "internalParameters": {"epoch": lock.epoch, "architecture": lock.architecture},
                    "resolvedDependencies": dependencies,
                },
                "runDetails": {"builder": {"id": _BUILDER, "version": {"soliton": __version__}}},
            },
        }
    ).encode("utf-8")


def _digest(text: str) -> dict[str, Any]:
    kind, colon, value = text.partition(":")
    return {"digest": {kind: value}} if colon else {}


@dataclass(frozen=True)
class Origin:
    """A statement, read: what is needed to build the image again. inputs: without packages."""

    inputs: Lock
    arguments: Arguments


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The statement in an object of the image `name`. Raises ImageError."""
    try:
        found = json.loads(data)
        if found["_type"] != STATEMENT or found["predicateType"] != PREDICATE:
            raise ValueError
        return dict(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ImageError(
            f"what `{name}` says about its provenance cannot be read", why="the object is damaged"
        ) from None


def origin(data: bytes, name: str) -> Origin:
    """What a statement of soliton's tells. Raises ImageError."""
    found = decode(data, name)
    try:
        definition = found["predicate"]["buildDefinition"]
        if definition["buildType"] != BUILD_TYPE:
            raise ImageError(
                f"`{name}` was built by another program",
                why=f"its provenance is of the kind `{str(definition['buildType'])[:60]}`",
            )
        outer, inner = definition["externalParameters"], definition["internalParameters"]
        bases, files = [], {}
        for item in definition["resolvedDependencies"]:
            if "uri" in item:
                stage = int(item["annotations"]["stage"])
                bases.append(LockedBase(stage, _text(item["uri"]), _of_digest(item)))
            elif item["name"] != LOCK_OBJECT:
                files[_text(item["name"])] = _of_digest(item)
        lock = Lock(
            recipe=(_text(outer["recipe"]["name"]), _of_digest(outer["recipe"])),
            epoch=_number(inner["epoch"]),
            architecture=_text(inner["architecture"]),
            bases=tuple(bases),
            files=files,
            tool=f"soliton {_text(found['predicate']['runDetails']['builder']['version']['soliton'])}",
        )
        arguments = Arguments(
            build_args={_text(key): _text(value) for key, value in outer.get("buildArgs", {}).items()},
            secrets=tuple(_text(word) for word in outer.get("secretBuildArgs", ())),
            options=dict(outer.get("options", {})),
            injected=tuple(_text(word) for word in outer.get("environment", ())),
            binds=tuple(_text(word) for word in outer.get("binds", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ImageError(
            f"what `{name}` says about its provenance cannot be read", why="it lacks what a build needs"
        ) from None
    return Origin(lock, arguments)


def _of_digest(item: Mapping[str, Any]) -> str:
    digests = item.get("digest", {})
    return f"sha256:{_text(digests['sha256'])}" if "sha256" in digests else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise ValueError
    return value
