"""`docker://`: an image of a registry as an `OciImage`, through the cache."""

from __future__ import annotations

from soliton import messages
from soliton.errors import RegistryError, Unreachable
from soliton.images import oci
from soliton.images.cache import Cache
from soliton.images.oci import Layer, OciImage, Platform
from soliton.registry.blobs import Download
from soliton.registry.client import Client
from soliton.registry.reference import Reference


def resolve(
    client: Client,
    cache: Cache,
    platform: Platform,
    *,
    offline_is_fine: bool = False,
    pinned: str | None = None,
) -> OciImage:
    """Finds manifest and configuration; layers are yet to be fetched.

    A digest that the cache knows needs no network. offline_is_fine: an unreachable registry is passed over, with a
    warning, where the cache knows what the tag meant last time. pinned: digest of the manifest to take in place of what the
    name means.
    """
    reference = client.reference
    name = str(reference)
    if pinned is None:
        digest, manifest = _manifest(client, cache, reference, platform, offline_is_fine)
    else:
        digest, manifest = pinned, _pinned(client, cache, pinned, name)
    config, layers = oci.parts(manifest, name)
    data = cache.get(config.digest)
    if data is None:
        data = client.blob_bytes(config.digest, config.size)
        cache.put(config.digest, data)
    found = tuple(
        Layer(
            layer.digest,
            layer.size,
            Download(client, cache, layer.digest, layer.size, f"layer {number} of {name}"),
        )
        for number, layer in enumerate(layers, 1)
    )
    return OciImage(name, digest, data, found, "docker", (name, digest))


def _pinned(client: Client, cache: Cache, digest: str, name: str) -> dict[str, object]:
    data = cache.get(digest)
    if data is None:
        data, _ = client.manifest(digest, oci.ACCEPT)
        cache.put(digest, data)
    return oci.decode(data, f"the manifest of {name}")


def _manifest(
    client: Client, cache: Cache, reference: Reference, platform: Platform, offline_is_fine: bool
) -> tuple[str, dict[str, object]]:
    name = str(reference)
    known = cache.known_tag(name, str(platform))
    if reference.digest and known and (data := cache.get(known)) is not None:
        return known, oci.decode(data, f"the manifest of {name}")
    try:
        data, kind = client.manifest(reference.wanted, oci.ACCEPT)
    except Unreachable as error:
        cached = cache.get(known) if known and offline_is_fine else None
        if known is None or cached is None:
            raise
        messages.warning(f"{error.what}; using what `{name}` was when it was last pulled")
        return known, oci.decode(cached, f"the manifest of {name}")
    record = oci.decode(data, f"the manifest of {name}")
    depth = 0
    while oci.is_index(record, kind):
        depth += 1
        if depth > 2:
            raise RegistryError(f"the index of {name} leads to another and another")
        entry = oci.choose(record, platform, name)
        data, kind = client.manifest(entry.digest, entry.media_type or oci.ACCEPT)
        record = oci.decode(data, f"the manifest of {name}")
    digest = oci.sha256(data)
    cache.put(digest, data)
    cache.remember_tag(name, str(platform), digest)
    return digest, record
