"""Names of images in registries: `[host[:port]/]name[:tag][@digest]` (distribution specification, "Pulling manifests")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from soliton.errors import RegistryError

DEFAULT_HOST = "docker.io"
#: Where the default registry answers, and the key of its credentials.
DEFAULT_ENDPOINT = "registry-1.docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True)
class Reference:
    """host: as written, `docker.io` by default. A digest beats the tag."""

    host: str
    name: str
    tag: str
    digest: str | None = None

    @property
    def endpoint(self) -> str:
        return DEFAULT_ENDPOINT if self.host in (DEFAULT_HOST, "index.docker.io") else self.host

    @property
    def wanted(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.name}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def is_digest(text: str) -> bool:
    return _DIGEST.match(text) is not None


def parse(text: str) -> Reference:
    """The reference in `text`, which may begin with `docker://`. Raises RegistryError for what is none."""
    rest = text.removeprefix("docker://").removeprefix("docker:").removeprefix("//")
    rest, at, digest = rest.partition("@")
    if at and not is_digest(digest):
        raise _malformed(text, f"`{digest}` is not a digest: `sha256:` and 64 hexadecimal digits")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        host, rest = head, tail
    else:
        host = DEFAULT_HOST
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        name, tag = rest, "latest"
    if not HOST.match(host):
        raise _malformed(text, f"`{host}` is not a host name")
    if not _NAME.match(name) or len(name) > 255:
        hint = " (names are in lower case)" if name != name.lower() else ""
        raise _malformed(text, f"`{name}` is not the name of a repository{hint}")
    if not _TAG.match(tag):
        raise _malformed(text, f"`{tag}` is not a tag")
    if host == DEFAULT_HOST and "/" not in name:
        name = f"library/{name}"
    return Reference(host, name, tag, digest if at else None)


def _malformed(text: str, why: str) -> RegistryError:
    return RegistryError(
        f"`{text}` is not the name of an image", why=why, remedy="write docker://[HOST/]NAME[:TAG][@DIGEST]"
    )


def file_name(text: str) -> str:
    """Of the file that an image called `text` is pulled to: what is between the last slash and the first colon behind it, and
    what follows up to the next, so for a digest, too: `alpine@sha256_DIGEST.sif`.
    """
    name, *tags = text.rpartition("/")[2].split(":")
    return f"{name}_{tags[0] if tags else 'latest'}.sif"
