"""The configuration of an OCI image, as far as it says something about the container.

Read with every type checked, since it comes from a registry; written again as the object `oci-config.json` of a SIF
with the keys in the order the peers' encoder has them. Nothing here fetches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soliton.errors import ImageError
from soliton.images import metadata_json

#: Keys of `config` in the order in which the peers write them.
_ORDER = (
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Cmd",
    "Healthcheck",
    "Domainname",
    "Entrypoint",
    "Env",
    "Hostname",
    "Image",
    "Labels",
    "OnBuild",
    "OpenStdin",
    "StdinOnce",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
    "ExposedPorts",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "Shell",
)
_HEALTH_ORDER = ("Test", "Interval", "Timeout", "StartPeriod", "Retries")
#: Configurations larger than this are refused before they are parsed.
LARGEST = 8 << 20


@dataclass(frozen=True)
class OciConfig:
    """os, architecture, variant: the platform. created: RFC 3339 text. diff_ids: digests of the uncompressed layers,
    lowest first. config: the rest of what is known of `config`, by its own keys, types checked.
    """

    os: str
    architecture: str
    variant: str
    created: str | None
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def parse(data: bytes, name: str) -> OciConfig:
    """The configuration blob of the image `name`. Raises ImageError for anything that is not one."""
    if len(data) > LARGEST:
        raise _wrong(name, f"it has {len(data)} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _wrong(name, "it is not JSON") from None
    if not isinstance(document, dict):
        raise _wrong(name, "it is not a JSON object")
    # Docker writes null where nothing is set.
    document = {key: value for key, value in document.items() if value is not None}
    config, rootfs = document.get("config", {}), document.get("rootfs", {})
    if not isinstance(config, dict) or not isinstance(rootfs, dict):
        raise _wrong(name, "`config` or `rootfs` is not an object")
    config = {key: value for key, value in config.items() if value is not None}
    return OciConfig(
        os=_text(document, "os", name),
        architecture=_text(document, "architecture", name),
        variant=_text(document, "variant", name),
        created=_text(document, "created", name) or None,
        diff_ids=_words(rootfs, "diff_ids", name),
        entrypoint=_words(config, "Entrypoint", name),
        cmd=_words(config, "Cmd", name),
        env=_words(config, "Env", name),
        labels=_labels(config, name),
        working_dir=_text(config, "WorkingDir", name),
        user=_text(config, "User", name),
        config=config,
    )


def encode(config: OciConfig) -> bytes:
    """The object `oci-config.json`: `config`, known keys in the peers' order, empty ones left out."""
    known: dict[str, Any] = {}
    for key in _ORDER:
        value = config.config.get(key)
        if not value:
            continue
        if key == "Healthcheck" and isinstance(value, dict):
            value = {part: value[part] for part in _HEALTH_ORDER if value.get(part)}
        elif isinstance(value, dict):
            value = {part: value[part] for part in sorted(value)}
        known[key] = value
    return metadata_json.compact(known).encode("utf-8")


def _text(holder: Mapping[str, Any], key: str, name: str) -> str:
    value = holder.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(name, f"`{key}` is not a text")
    return value


def _words(holder: Mapping[str, Any], key: str, name: str) -> tuple[str, ...]:
    value = holder.get(key)
    if value is None:
        return ()
    # Very old images have a single text for a command of one word.
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _wrong(name, f"`{key}` is not a list of texts")
    return tuple(value)


def _labels(config: Mapping[str, Any], name: str) -> dict[str, str]:
    value = config.get("Labels") or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _wrong(name, "`Labels` is not a map of texts")
    return dict(sorted(value.items()))


def _wrong(name: str, why: str) -> ImageError:
    return ImageError(f"the configuration of `{name}` is not one of an OCI image", why=why)
