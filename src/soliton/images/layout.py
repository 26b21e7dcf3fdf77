"""OCI images on disk: layouts (`oci:DIR[:TAG]`), archives of them, and what `docker save` writes.

Archives are read in place: a member is a stretch of the file.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from soliton.errors import ImageError
from soliton.images import oci
from soliton.images.copying import copy
from soliton.images.oci import Layer, OciImage, Platform
from soliton.registry.reference import is_digest

_TAG = "org.opencontainers.image.ref.name"
#: The whole name, as `docker save` and containerd note it.
_NAME = "io.containerd.image.name"
_LARGEST_RECORD = 8 << 20
_COMPRESSED: tuple[tuple[bytes, Callable[[str], gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File]], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
)


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file: a whole file, or a member of an archive."""

    file: str
    offset: int
    size: int
    whole: bool

    def feed(self, pipe: int) -> None:
        with open(self.file, "rb") as source:
            copy(source.fileno(), self.offset, self.size, pipe, self.file)

    def path(self) -> str | None:
        return self.file if self.whole else None


class Store(Protocol):
    """Files by name, in a directory or an archive."""

    @property
    def name(self) -> str: ...

    def find(self, name: str) -> Stretch | None: ...


@dataclass(frozen=True)
class FolderStore:
    name: str

    def find(self, name: str) -> Stretch | None:
        path = os.path.join(self.name, name)
        try:
            return Stretch(path, 0, os.stat(path).st_size, True) if os.path.isfile(path) else None
        except OSError:
            return None


class ArchiveStore:
    """A tar, its members found once."""

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self._members: dict[str, Stretch] = {}
        links: dict[str, str] = {}
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    clean = member.name.removeprefix("./")
                    if member.isreg():
                        self._members[clean] = Stretch(file, member.offset_data, member.size, False)
                    elif member.issym():
                        links[clean] = os.path.normpath(os.path.join(os.path.dirname(clean), member.linkname))
        except (tarfile.TarError, OSError) as error:
            raise ImageError(f"`{name}` cannot be read", why=str(error)) from None
        for link, target in links.items():
            if target in self._members:
                self._members[link] = self._members[target]

    def find(self, name: str) -> Stretch | None:
        return self._members.get(name.removeprefix("./"))


def _read(store: Store, name: str) -> bytes:
    stretch = store.find(name)
    if stretch is None:
        raise ImageError(f"`{store.name}` is not complete", why=f"`{name}` is missing")
    if stretch.size > _LARGEST_RECORD:
        raise ImageError(f"`{store.name}` is damaged", why=f"`{name}` has {stretch.size} bytes")
    with open(stretch.file, "rb") as file:
        file.seek(stretch.offset)
        return file.read(stretch.size)


def split_tag(text: str) -> tuple[str, str | None]:
    """`PATH[:TAG]`, `PATH[:NAME:TAG]` or `PATH[@DIGEST]`: the path, and what is asked for in it. A path that exists is taken whole."""
    if os.path.exists(text):
        return text, None
    path, at, digest = text.rpartition("@")
    if at and is_digest(digest):
        return path.rpartition(":")[0] if not os.path.exists(path) and ":" in path else path, digest
    words = text.split(":")
    for count in range(1, len(words)):
        path, asked = ":".join(words[:count]), ":".join(words[count:])
        if path and os.path.exists(path):
            return path, asked or None
    path, colon, tag = text.rpartition(":")
    if colon and "/" not in tag and path:
        return path, tag
    return text, None


def _is_called(name: str, asked: str) -> bool:
    """Whether an image of an archive with this name is the one asked for: by its tag alone, or by its whole name, with or without
    what Docker adds to short ones.
    """

    def short(text: str) -> str:
        text = text.removeprefix("docker.io/").removeprefix("library/")
        return text if ":" in text.rpartition("/")[2] else f"{text}:latest"

    return asked == name or name.endswith(f":{asked}") or short(name) == short(asked)


def open_layout(path: str, tag: str | None, platform: Platform) -> OciImage:
    """`oci:`. Raises ImageError: not a layout, no such tag, a blob is missing."""
    if not os.path.isdir(path):
        raise ImageError(f"no such OCI layout: `{path}`")
    return _from_layout(FolderStore(path), tag, platform, "oci")


@contextmanager
def open_archive(path: str, tag: str | None, platform: Platform) -> Iterator[OciImage]:
    """`oci-archive:` and `docker-archive:`; either may hold either, and may be compressed by gzip, xz or bzip2."""
    if not os.path.isfile(path):
        raise ImageError(f"no such archive: `{path}`")
    with _uncompressed(path) as file:
        store = ArchiveStore(path, file)
        if store.find("oci-layout") and store.find("index.json"):
            yield _from_layout(store, tag, platform, "oci-archive")
        elif store.find("manifest.json"):
            yield _from_docker(store, tag)
        else:
            raise ImageError(
                f"`{path}` is not an image archive", why="it holds neither `index.json` nor `manifest.json`"
            )


@contextmanager
def _uncompressed(path: str) -> Iterator[str]:
    """The archive itself, or its content in a file without a name while the block lasts."""
    with open(path, "rb") as file:
        head = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED if head.startswith(magic)), None)
    if opener is None:
        yield path
        return
    with tempfile.TemporaryFile() as out, opener(path) as packed:
        try:
            while chunk := packed.read(1 << 20):
                out.write(chunk)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ImageError(f"`{path}` cannot be decompressed", why=str(error)) from None
        out.flush()
        yield f"/proc/self/fd/{out.fileno()}"


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _from_layout(store: Store, tag: str | None, platform: Platform, bootstrap: str) -> OciImage:
    if store.find("oci-layout") is None or store.find("index.json") is None:
        raise ImageError(
            f"`{store.name}` is not an OCI layout", why="`oci-layout` or `index.json` is missing"
        )
    record: dict[str, Any] = oci.decode(_read(store, "index.json"), f"the index of `{store.name}`")
    entries = [e for e in record.get("manifests") or [] if isinstance(e, dict)]
    names = [str((e.get("annotations") or {}).get(_TAG, "")) for e in entries]
    if tag and is_digest(tag):
        entries = [e for e in entries if e.get("digest") == tag]
    elif tag:
        whole = [str((e.get("annotations") or {}).get(_NAME, "")) for e in entries]
        every = zip(entries, names, whole, strict=True)
        entries = [e for e, name, full in every if name == tag or (full and _is_called(full, tag))]
    if not entries:
        known = ", ".join(sorted(filter(None, names)))
        raise ImageError(
            f"`{store.name}` has no image `{tag}`" if tag else f"`{store.name}` holds no image",
            remedy=f"it has: {known}" if known else None,
        )
    entry = oci.descriptor(entries[0], f"`{store.name}`")
    if len({e.get("digest") for e in entries}) > 1:
        if not any("platform" in e for e in entries):
            raise ImageError(
                f"`{store.name}` holds several images",
                remedy=f"name one: {', '.join(sorted(filter(None, names))) or 'by its digest'}",
            )
        entry = oci.choose({"manifests": entries}, platform, f"`{store.name}`")
    what = f"`{store.name}`"
    for _ in range(3):
        data = _read(store, _blob(entry.digest))
        if oci.sha256(data) != entry.digest and entry.digest.startswith("sha256:"):
            raise ImageError(f"{what} is damaged", why=f"the manifest is not {entry.digest}")
        record = oci.decode(data, f"the manifest of {what}")
        if not oci.is_index(record, entry.media_type):
            break
        entry = oci.choose(record, platform, what)
    config, layers = oci.parts(record, what)
    config_data = _read(store, _blob(config.digest))
    if config.digest.startswith("sha256:") and oci.sha256(config_data) != config.digest:
        raise ImageError(f"{what} is damaged", why=f"the configuration is not {config.digest}")
    found = []
    for layer in layers:
        stretch = store.find(_blob(layer.digest))
        if stretch is None:
            raise ImageError(f"{what} is not complete", why=f"the layer {layer.digest} is missing")
        if stretch.size != layer.size:
            raise ImageError(
                f"{what} is damaged", why=f"the layer {layer.digest} has {stretch.size} of {layer.size} bytes"
            )
        found.append(Layer(layer.digest, layer.size, stretch))
    return OciImage(
        os.path.basename(store.name.rstrip("/")), entry.digest, config_data, tuple(found), bootstrap
    )


def _from_docker(store: Store, tag: str | None) -> OciImage:
    data = _read(store, "manifest.json")
    what = f"`{store.name}`"
    try:
        records = json.loads(data)
        wanted = [r for r in records if tag is None or any(_is_called(t, tag) for t in r["RepoTags"] or [])]
        if not wanted:
            known = ", ".join(sorted(t for r in records for t in r["RepoTags"] or []))
            raise ImageError(
                f"{what} has no image `{tag}`" if tag else f"{what} holds no image",
                remedy=f"it has: {known[:200]}" if known else None,
            )
        record = wanted[0]
        config = _read(store, str(record["Config"]))
        names = [str(name) for name in record["Layers"]]
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"{what} is damaged", why="its manifest.json is malformed") from None
    found = []
    for name in names:
        stretch = store.find(name)
        if stretch is None:
            raise ImageError(f"{what} is not complete", why=f"the layer `{name}` is missing")
        found.append(Layer("", stretch.size, stretch))
    return OciImage(os.path.basename(store.name), oci.sha256(config), config, tuple(found), "docker-archive")
