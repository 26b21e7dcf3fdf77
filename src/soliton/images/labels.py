"""Labels: short facts about an image, from its source, its definition file and the build itself.

Order of strength: what the base image has stays; `$APPTAINER_LABELS` written by %post and the facts of this build are
put over it; `%labels` only adds, unless the build is forced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from soliton import PEER, __version__
from soliton.errors import ImageError
from soliton.images import metadata_json

SCHEMA = "org.label-schema."
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@dataclass(frozen=True)
class BuildFacts:
    """What a build says of itself. time: Unix seconds. architecture: OCI name. header: keyword → value of the
    definition file. source: reference and digest of the image in a registry that it is based on.
    """

    time: int
    architecture: str
    header: Mapping[str, str] = field(default_factory=dict)
    has_help: bool = False
    source: tuple[str, str] | None = None


def parse(text: str) -> dict[str, str]:
    """Lines `key value…`; a key alone has an empty value. Empty lines and lines that begin with `#` do not count."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, *rest = line.split(None, 1)
        found[key] = rest[0].strip() if rest else ""
    return found


def build_date(time: int) -> str:
    """`Monday_23_November_2026_9:5:3_UTC`: in UTC, without padding, whatever the locale says."""
    when = datetime.fromtimestamp(time, UTC)
    day = f"{_DAYS[when.weekday()]}_{when.day}_{MONTHS[when.month - 1]}_{when.year}"
    return f"{day}_{when.hour}:{when.minute}:{when.second}_UTC"


def of_build(facts: BuildFacts) -> dict[str, str]:
    """The labels that every build adds."""
    found = {
        f"{SCHEMA}build-arch": facts.architecture,
        f"{SCHEMA}build-date": build_date(facts.time),
        f"{SCHEMA}schema-version": "1.0",
        f"{SCHEMA}usage.soliton.version": __version__,
        # Programs look here for the version that an image is meant for. As semantic versions go (and Python's) it is that
        # version, and what stands behind the `+` tells who made the image.
        f"{SCHEMA}usage.{PEER[0]}.version": f"{PEER[1]}+soliton.{__version__}",
    }
    if facts.has_help:
        found[f"{SCHEMA}usage"] = "/.singularity.d/runscript.help"
        found[f"{SCHEMA}usage.apptainer.runscript.help"] = "/.singularity.d/runscript.help"
    for keyword, value in facts.header.items():
        found[f"{SCHEMA}usage.singularity.deffile.{keyword.lower()}"] = value
    if facts.source is not None:
        found["org.opencontainers.image.base.name"], found["org.opencontainers.image.base.digest"] = (
            facts.source
        )
    return found


def merge(
    base: Mapping[str, str],
    build: Mapping[str, str],
    *,
    post: Mapping[str, str] | None = None,
    definition: Mapping[str, str] | None = None,
    force: bool = False,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """All labels of an image, and the keys of `%labels` that were there already and so did not count."""
    merged = {**base, **(post or {}), **build}
    kept: list[str] = []
    for key, value in (definition or {}).items():
        if key in merged and not force:
            kept.append(key)
        else:
            merged[key] = value
    return dict(sorted(merged.items())), tuple(kept)


def encode(labels: Mapping[str, str]) -> bytes:
    """`labels.json`: sorted, indented by tabs."""
    return metadata_json.indented(dict(sorted(labels.items()))).encode("utf-8")


def decode(data: bytes, name: str) -> dict[str, str]:
    """The labels in a `labels.json`; `name` says whose, in the ImageError for what is none."""
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        value = None
    if value is None and data.strip() == b"null":
        return {}
    if not isinstance(value, dict):
        raise ImageError(f"the labels of {name} cannot be read", why="labels.json is not a JSON object")
    return {str(key): item if isinstance(item, str) else json.dumps(item) for key, item in value.items()}
