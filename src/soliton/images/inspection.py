"""What an image says about itself, as one record, however it is stored.

The same data exists three times: as files of `/.singularity.d` and `/scif` in the root, as the object
`inspect-metadata.json` of a SIF, and as the JSON that `inspect --json` prints. Here are the record, the way from files to
it, and both ways between it and JSON. Looking into images is `soliton.api.inspect`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.errors import ImageError
from soliton.images import labels as label
from soliton.images import metadata_json

PREFIX = "/.singularity.d"
APPS = "/scif/apps"
#: Environment scripts that are shown: what an OCI image brought, what the definition said, what %post added.
_SHOWN = re.compile(r"(10-docker[^/]*|9[^/]*-environment)\.sh\Z")
_SHOWN_OF_APP = re.compile(r"9[^/]*-environment\.sh\Z")


@dataclass(frozen=True)
class Described:
    """What there is to say about an image or an app. environment: path of a script → text. Texts without the line
    ends at their end; empty where there is none.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    runscript: str = ""
    startscript: str = ""
    test: str = ""
    help: str = ""
    definition: str = ""
    apps: Mapping[str, Described] = field(default_factory=dict)


def wanted_paths(apps: tuple[str, ...] = ()) -> list[str]:
    """Paths for `core.read_files` that give the `tree` of `inspect_tree`; the apps' names come from a first look."""
    paths = [f"{PREFIX}/*", f"{PREFIX}/env/*", f"{PREFIX}/bootstrap_history/*", f"{APPS}/*", "/.build.labels"]
    for app in apps:
        paths += [f"{APPS}/{app}/scif/*", f"{APPS}/{app}/scif/env/*"]
    return paths


def inspect_tree(tree: Mapping[str, bytes]) -> Described:
    """The record from the files of an image: `tree` is path → content of those that `wanted_paths` names."""
    names = sorted(
        {path.split("/")[3] for path in tree if path.startswith(f"{APPS}/") and "/scif/" in path[12:]}
    )
    apps = {}
    for name in names:
        meta = f"{APPS}/{name}/scif"
        apps[name] = Described(
            environment=_environment(tree, f"{meta}/env/", _SHOWN_OF_APP),
            labels=_labels(tree, f"{meta}/labels.json"),
            runscript=_text(tree, f"{meta}/runscript"),
            startscript=_text(tree, f"{meta}/startscript"),
            test=_text(tree, f"{meta}/test"),
            help=_text(tree, f"{meta}/runscript.help"),
        )
    return Described(
        environment=_environment(tree, f"{PREFIX}/env/", _SHOWN),
        labels=_labels(tree, f"{PREFIX}/labels.json"),
        runscript=_text(tree, f"{PREFIX}/runscript"),
        startscript=_text(tree, f"{PREFIX}/startscript"),
        test=_text(tree, f"{PREFIX}/test"),
        help=_text(tree, f"{PREFIX}/runscript.help"),
        definition=_text(tree, f"{PREFIX}/Singularity") or _text(tree, f"{PREFIX}/Apptainer"),
        apps=apps,
    )


def _text(tree: Mapping[str, bytes], path: str) -> str:
    return tree.get(path, b"").decode("utf-8", "surrogateescape").rstrip("\n")


def _labels(tree: Mapping[str, bytes], path: str) -> Mapping[str, str]:
    return label.decode(tree.get(path, b""), f"`{path}`")


def _environment(tree: Mapping[str, bytes], folder: str, shown: re.Pattern[str]) -> dict[str, str]:
    paths = sorted(path for path in tree if path.startswith(folder) and shown.match(path[len(folder) :]))
    return {path: _text(tree, path) for path in paths}


def to_json(described: Described) -> dict[str, Any]:
    """The record in the shape of `inspect --json`: keys in the peers' order, what is empty left out."""
    attributes = _without_empty(
        {
            "apps": {name: _app(described.apps[name]) for name in sorted(described.apps)},
            "environment": dict(sorted(described.environment.items())),
            "labels": dict(sorted(described.labels.items())),
            "runscript": described.runscript,
            "test": described.test,
            "helpfile": described.help,
            "deffile": described.definition,
            "startscript": described.startscript,
        }
    )
    return {"data": {"attributes": attributes}, "type": "container"}


def _app(described: Described) -> dict[str, Any]:
    return _without_empty(
        {
            "environment": dict(sorted(described.environment.items())),
            "labels": dict(sorted(described.labels.items())),
            "runscript": described.runscript,
            "startscript": described.startscript,
            "test": described.test,
            "helpfile": described.help,
        }
    )


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def to_sif_json(described: Described) -> bytes:
    """The object `inspect-metadata.json` of a SIF."""
    return metadata_json.compact(to_json(described)).encode("utf-8")


def from_json(data: bytes, name: str) -> Described:
    """The record from an `inspect-metadata.json` in the image `name`. Raises ImageError if it is none."""
    try:
        document = json.loads(data)
        attributes = document["data"]["attributes"]
        apps = attributes.get("apps") or {}
        return _from_attributes(
            attributes, {key: _from_attributes(apps[key] or {}, {}) for key in sorted(apps)}
        )
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise ImageError(
            f"what `{name}` says about itself cannot be read", why="its inspect-metadata.json is damaged"
        ) from None


def _from_attributes(values: dict[str, Any], apps: dict[str, Described]) -> Described:
    def text(key: str) -> str:
        value = values.get(key) or ""
        if not isinstance(value, str):
            raise TypeError(key)
        return value

    def table(key: str) -> dict[str, str]:
        value = values.get(key) or {}
        if not all(isinstance(item, str) for item in value.values()):
            raise TypeError(key)
        return dict(sorted(value.items()))

    return Described(
        environment=table("environment"),
        labels=table("labels"),
        runscript=text("runscript"),
        startscript=text("startscript"),
        test=text("test"),
        help=text("helpfile"),
        definition=text("deffile"),
        apps=apps,
    )
