"""Images of registries, libraries, engines, OCI layouts and archives: fetched and converted by the same way as `pull`, from the cache."""

from __future__ import annotations

import os
import posixpath

from soliton.build.bootstrap.base import Base, Request
from soliton.build.bootstrap.localimage import of_sif
from soliton.build.header import Header
from soliton.errors import BuildError
from soliton.images.detect import open_image
from soliton.record import replace


def reference(header: Header, cwd: str) -> str:
    """The header as one reference: `docker://REGISTRY/NAMESPACE/FROM`, or `oci:PATH[:TAG]` with an absolute path."""
    agent, source = header.agent, header.get("from")
    if agent == "docker-daemon":
        source = source.removeprefix("//")
        return "docker-daemon:" + posixpath.join(header.get("registry"), header.get("namespace"), source)
    if agent in ("oras", "library", "shub"):
        return f"{agent}://" + source.removeprefix(f"{agent}:").removeprefix("//")
    if agent != "docker":
        return f"{agent}:{os.path.join(cwd, source)}"
    source = source.removeprefix("docker://").removeprefix("//")
    return "docker://" + posixpath.join(header.get("registry"), header.get("namespace"), source)


def bootstrap(request: Request) -> Base:
    wanted = reference(request.header, request.cwd)
    fetched = request.sources.of(request.header).fetch(
        wanted, request.workspace.place(request.folder, "fetched.sif"), request.pinned
    )
    image = open_image(fetched.path)
    if image.sif is None:
        raise BuildError(f"`{wanted}` gave no SIF")
    return replace(of_sif(image, fetched.source, config=True), digest=fetched.digest)
