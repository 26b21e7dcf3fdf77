"""Images that are one file where they are: `oras://`, `library://`, `shub://`, `http://` and `https://`.

Each way ends in the same: an address, the size, and the file's digest where somebody says it. What is downloaded then is a
blob like any other: resumed, compared, kept in the cache. Nothing here knows what is in the file.

Sources: the ORAS artifact of a SIF (one layer of `application/vnd.sylabs.sif.layer.v1.sif`), the API of a cloud library
(`/v1/images`, `/v1/imagefile`), that of Singularity Hub (`/api/container`), RFC 9110 for the rest.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from soliton.errors import RegistryError
from soliton.images import oci
from soliton.images.oci import Platform
from soliton.registry.blobs import NO_DIGEST
from soliton.registry.client import LARGEST_MANIFEST, Client, capped
from soliton.registry.credentials import Credentials
from soliton.registry.reference import DEFAULT_HOST, HOST, Reference, parse

SCHEMES = ("oras", "library", "shub", "http", "https")
#: The layer of an artifact; the second is what old pushers wrote.
_SIF_LAYERS = ("application/vnd.sylabs.sif.layer.v1.sif", "appliciation/vnd.sylabs.sif.layer.tar")
#: Where an image of the hub is if its name has no host.
_HUB = "singularity-hub.org"
_LIBRARY = re.compile(r"https?://[^/?#@]+(?:/[^?#]*)?\Z")
_LIBRARY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_LIBRARY_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?:,[A-Za-z0-9_][A-Za-z0-9._-]{0,127})*\Z")
_LIBRARY_HASH = re.compile(r"sha256\.([0-9a-f]{64})\Z")
#: No image is as large: an announced size beyond it is a mistake or worse.
_LARGEST = 1 << 50


@dataclass(frozen=True)
class Finished:
    """name: for people. key: of the file in the cache, `sha256:…` where its digest is known. size: in bytes, if it is said.
    lasting: whether another call finds the same key, and can go on with what has arrived.
    """

    name: str
    key: str
    size: int | None
    client: Client
    lasting: bool = True


class Web(Client):
    """A file at an address. Its answers are asked for with what tells whether it is still the same file."""

    def __init__(self, url: str, name: str, credentials: Credentials | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"`{url[:200]}` is not an address of an image")
        super().__init__(Reference(parts.netloc, name, ""), credentials, plain_http=parts.scheme == "http")
        self.url = url
        self._validator = ""

    def _url(self, kind: str, what: str) -> str:
        return self.url

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        sent = dict(headers or {})
        if "Range" in sent and self._validator:
            sent["If-Range"] = self._validator
        with super().get(url, sent) as answer:
            yield answer

    def record(self, url: str) -> Any:
        """What an API answers, as JSON."""
        with self.get(url, {"Accept": "application/json"}) as answer:
            data = capped(answer, LARGEST_MANIFEST, f"the answer of {self.reference.host}")
        try:
            return json.loads(data)
        except ValueError:
            raise RegistryError(
                f"{self.reference.host} does not answer as such a service does",
                why="its answer is not JSON",
                remedy="check the address",
            ) from None

    def look(self) -> tuple[int | None, str]:
        """The file's size, if it is said, and what tells this version of it from others, if anything does."""
        with self.get(self.url, {"Accept-Encoding": "identity"}) as answer:
            length = answer.headers.get("Content-Length", "")
            tag, changed = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        # A weak tag does not tell one byte from another (RFC 9110, 8.8.1).
        self._validator = tag if tag and not tag.startswith("W/") else changed
        size = _sized(int(length), self.reference.name) if length.isdecimal() and length.isascii() else None
        return size, f"{tag}\n{changed}\n{length}" if tag or changed else ""


def parse_oras(text: str) -> Reference:
    """`HOST/NAME[:TAG][@DIGEST]`; there is no registry that is meant without a host."""
    reference = parse(text.removeprefix("//"))
    if reference.host == DEFAULT_HOST and not text.removeprefix("//").startswith(f"{DEFAULT_HOST}/"):
        raise RegistryError(
            f"`oras:{text}` does not say which registry has it", remedy="write oras://HOST/NAME:TAG"
        )
    return reference


def oras(client: Client, platform: Platform) -> Finished:
    """The SIF that an artifact of a registry is. client: of its reference."""
    name = f"oras://{client.reference}"
    data, kind = client.manifest(client.reference.wanted, oci.ACCEPT)
    manifest = oci.decode(data, f"the manifest of {name}")
    if oci.is_index(manifest, kind):
        entry = oci.choose(manifest, platform, name)
        data, kind = client.manifest(entry.digest, entry.media_type or oci.ACCEPT)
        manifest = oci.decode(data, f"the manifest of {name}")
    layers = manifest.get("layers")
    layer = layers[0] if isinstance(layers, list) and len(layers) == 1 else None
    found = oci.descriptor(layer, name) if layer is not None else None
    if found is None or found.media_type not in _SIF_LAYERS:
        raise RegistryError(
            f"{name} is not a SIF",
            why="it is an image of layers, or an artifact of another kind",
            remedy=f"for an image of layers write docker://{client.reference}",
        )
    return Finished(name, found.digest, _sized(found.size, name), client)


def library_address(text: str, library: str | None, *, plain_http: bool) -> tuple[str, str, bool]:
    """Of `[//][HOST/]ENTITY/COLLECTION/CONTAINER[:TAG]`: an address, the name there with its tag, and whether the address
    is that of a host, which names its library, instead of the library's.

    Leading parts may be left out; with four the first is the host.
    """
    parts = text.removeprefix("//").strip("/").split("/")
    host = parts.pop(0) if len(parts) == 4 else ""
    parts[-1], _, tag = parts[-1].partition(":")
    known = not host or HOST.match(host)
    if not known or len(parts) > 3 or not all(_LIBRARY_PART.match(part) for part in parts):
        raise RegistryError(
            f"`library:{text}` is not the name of an image in a library",
            remedy="write library://ENTITY/COLLECTION/CONTAINER:TAG",
        )
    tag = tag or "latest"
    if not _LIBRARY_TAG.match(tag):
        raise RegistryError(f"`library:{text}` cannot be looked for", why=f"`{tag}` is not a tag")
    if host:
        return f"{'http' if plain_http else 'https'}://{host}", f"{'/'.join(parts)}:{tag}", True
    if not library:
        raise RegistryError(
            f"`library:{text}` does not say which library has it",
            why="no library is meant where none is named",
            remedy="name one: `--library https://…`, SOLITON_LIBRARY, or library://HOST/ENTITY/COLLECTION/CONTAINER",
        )
    if "://" not in library:
        library = f"{'http' if plain_http else 'https'}://{library}"
    if not _LIBRARY.match(library):
        raise RegistryError(
            f"`{library[:200]}` is not the address of a library",
            remedy="write https://HOST, and a path if it has one",
        )
    return library.rstrip("/"), f"{'/'.join(parts)}:{tag}", False


def library(text: str, address: str | None, platform: Platform, *, plain_http: bool) -> Finished:
    """An image of a library. address: the library that is meant, if the name has no host."""
    base, wanted, of_host = library_address(text, address, plain_http=plain_http)
    named = urlsplit(base).netloc
    name = f"library://{named}/{wanted}"
    if of_host:
        with Web(f"{base}/assets/config/config.prod.json", wanted) as asked:
            services = asked.record(asked.url)
        there = services.get("libraryAPI") if isinstance(services, dict) else None
        offered = there.get("uri") if isinstance(there, dict) else None
        if not isinstance(offered, str):
            raise RegistryError(f"{named} offers no library")
        base = offered.rstrip("/")
    query = f"?arch={quote(platform.architecture)}"
    client = Web(f"{base}/v1/imagefile/{wanted}{query}", wanted)
    record = client.record(f"{base}/v1/images/{wanted}{query}")
    data = record.get("data") if isinstance(record, dict) else None
    known = _LIBRARY_HASH.match(str(data.get("hash", ""))) if isinstance(data, dict) else None
    if known is None or not isinstance(data, dict):
        client.close()
        raise RegistryError(f"{named} does not say which file `{wanted}` is")
    return Finished(name, f"sha256:{known[1]}", _sized(data.get("size"), name), client)


def shub(text: str, *, plain_http: bool) -> Finished:
    """An image of a Singularity Hub; the public one serves none any more, so the name needs a host that does."""
    path = text.removeprefix("//").strip("/")
    parts = path.split("/")
    host = parts.pop(0) if len(parts) > 2 else _HUB
    wanted = "/".join(parts)
    if len(parts) != 2 or not all(parts) or not HOST.match(host):
        raise RegistryError(
            f"`shub:{text}` is not the name of an image of a hub", remedy="write shub://[HOST/]USER/NAME:TAG"
        )
    with Web(
        f"{'http' if plain_http else 'https'}://{host}/api/container/{quote(wanted, safe='/:@')}", wanted
    ) as asked:
        record = asked.record(asked.url)
    address = record.get("image") if isinstance(record, dict) else None
    if not isinstance(address, str):
        raise RegistryError(f"{host} does not say where `{wanted}` is")
    found = web(address)
    return replace(found, name=f"shub://{host}/{wanted}")


def web(url: str) -> Finished:
    """A file at an address; in the cache it is known by the address and by what tells its versions apart.

    Where nothing does, what was fetched before may be another by now.
    """
    client = Web(url, url)
    size, version = client.look()
    key = hashlib.sha256(f"{url}\n{version or secrets.token_hex(16)}".encode()).hexdigest()
    return Finished(url, f"{NO_DIGEST}:{key}", size, client, lasting=bool(version) and size is not None)


def _sized(size: object, name: str) -> int:
    if not isinstance(size, int) or not 0 < size < _LARGEST:
        raise RegistryError(f"`{name}` cannot be fetched", why=f"its size is said to be `{size}`")
    return size
