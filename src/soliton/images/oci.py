"""An OCI image, wherever it comes from: a configuration and layers, lowest first.

Registries, layouts and archives are sources of it; `images.convert` makes it into one file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from soliton.errors import ImageError, NotSupported, SolitonError
from soliton.images.architecture import SIF_CODES, from_machine, host_architecture

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_LARGEST = 8 << 20
_MOST_LAYERS = 512
#: `arm64v8`, `arm32v7`: the names that Docker's libraries of images have.
_WITH_VARIANT = re.compile(r"arm(32|64)v([0-9])")


class LayerBytes(Protocol):
    """Where a layer's bytes are, or will be."""

    def feed(self, pipe: int) -> None:
        """Writes the whole layer into a pipe, as it arrives; returns when done. Runs in a thread of its own."""

    def path(self) -> str | None:
        """A file that is the layer and nothing else, if there is one (or will be, by the time feed() returns)."""


@dataclass(frozen=True)
class Layer:
    """digest: of the stored bytes. size: of them."""

    digest: str
    size: int
    source: LayerBytes


@dataclass(frozen=True)
class OciImage:
    """name: for people. manifest_digest: identity of the whole. origin: reference and digest in a registry."""

    name: str
    manifest_digest: str
    config: bytes
    layers: tuple[Layer, ...]
    bootstrap: str
    origin: tuple[str, str] | None = None


@dataclass(frozen=True)
class Descriptor:
    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Platform:
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.architecture}/{self.variant}" if self.variant else self.architecture


def platform(architecture: str | None, variant: str | None = None) -> Platform:
    """The platform asked for, the host's by default."""
    if not architecture:
        return Platform(host_architecture(), _variant(variant))
    name, told = architecture, variant
    if match := _WITH_VARIANT.fullmatch(architecture):
        name, told = f"arm{'' if match[1] == '32' else match[1]}", variant or f"v{match[2]}"
    elif name not in SIF_CODES and (not name.startswith("arm") or name.startswith("armv")):
        name = from_machine(name)
    if name not in SIF_CODES and name != host_architecture():
        raise SolitonError(
            f"`{architecture}` is not the name of an architecture", why=f"there are {', '.join(SIF_CODES)}"
        )
    return Platform(name, _variant(told))


def _variant(text: str | None) -> str | None:
    """`7` is meant as `v7`."""
    return f"v{text}" if text and text.isdigit() else text


def decode(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError for anything else."""
    if len(data) > _LARGEST:
        raise ImageError(f"{what} is too large", why=f"it has {len(data)} bytes")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is damaged", why=f"it is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ImageError(f"{what} is damaged", why="it is not a JSON object")
    if record.get("schemaVersion") == 1:
        raise ImageError(
            f"{what} is in the format of 2015",
            why="manifests of schema version 1 carry no verifiable layers",
            remedy="have it pushed again by a current tool",
        )
    return record


def is_index(record: Mapping[str, Any], media_type: str = "") -> bool:
    return media_type in INDEX_TYPES or record.get("mediaType") in INDEX_TYPES or "manifests" in record


def descriptor(record: Any, what: str) -> Descriptor:
    """A descriptor out of JSON, its types and digest checked."""
    from soliton.registry.reference import is_digest

    if isinstance(record, dict):
        digest, size = record.get("digest"), record.get("size")
        if isinstance(digest, str) and is_digest(digest) and isinstance(size, int) and size >= 0:
            return Descriptor(str(record.get("mediaType", "")), digest, size)
    raise ImageError(f"{what} is damaged", why="a descriptor has no proper digest and size")


def choose(index: Mapping[str, Any], wanted: Platform, what: str) -> Descriptor:
    """The entry of an index for a platform: the first that fits, as the peers do."""
    entries = index.get("manifests")
    offered: list[str] = []
    fitting: list[tuple[object, dict[str, Any]]] = []
    for entry in entries if isinstance(entries, list) else []:
        place = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(place, dict):
            # A single image without a platform is meant for everybody.
            if isinstance(entries, list) and len(entries) == 1:
                return descriptor(entry, what)
            continue
        architecture, variant = str(place.get("architecture", "")), place.get("variant")
        fits = wanted.variant is None or variant in (None, wanted.variant)
        if place.get("os") == "linux" and architecture == wanted.architecture and fits:
            fitting.append((variant, entry))
        if architecture not in ("", "unknown"):
            offered.append(f"{architecture}/{variant}" if variant else architecture)
    if fitting:
        # Of 32-bit ARM what most machines are, else programs may lack a floating-point unit.
        usual = (entry for variant, entry in fitting if (wanted.architecture, variant) == ("arm", "v7"))
        return descriptor(next(usual, fitting[0][1]), what)
    raise ImageError(
        f"{what} is not there for {wanted}",
        why=f"it is offered for: {', '.join(sorted(set(offered)))}"
        if offered
        else "it holds no image at all",
        remedy="choose one of these with `--arch`" if offered else None,
    )


def parts(manifest: Mapping[str, Any], what: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Configuration and layers of a manifest. Raises ImageError for artifacts that are no images."""
    config = descriptor(manifest.get("config"), what)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > _MOST_LAYERS:
        raise ImageError(f"{what} is damaged", why="its list of layers is missing or too long")
    found = tuple(descriptor(layer, what) for layer in layers)
    for layer in found:
        kind = layer.media_type
        if "sif" in kind:
            raise NotSupported(
                f"{what}: a SIF stored as an artifact", remedy="write oras:// instead of docker://", yet=False
            )
        if "encrypted" in kind or not (".tar" in kind or "rootfs.diff" in kind or not kind):
            raise ImageError(f"{what} is not a container image", why=f"a layer is of the type `{kind}`")
    return config, found


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_layers(found: Sequence[str | None], expected: Sequence[str], name: str) -> None:
    """Compares digests of uncompressed layers with those of the configuration."""
    if len(found) != len(expected):
        raise ImageError(
            f"{name} is damaged",
            why=f"it has {len(found)} layers, its configuration speaks of {len(expected)}",
        )
    for number, (actual, wanted) in enumerate(zip(found, expected, strict=True), 1):
        if actual != wanted:
            raise ImageError(
                f"layer {number} of {name} is not what it should be",
                why=f"uncompressed its digest is {actual}, expected {wanted}",
            )
