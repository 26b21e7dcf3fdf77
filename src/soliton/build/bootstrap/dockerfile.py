"""A Dockerfile as a base: built as `build` does it, with its own steps in the cache, then started from.

From: the build context, the working directory if not said    Filename: of the Dockerfile in it    Target: its stage
BuildArgs: NAME=VALUE words
"""

from __future__ import annotations

from soliton.build.bootstrap.base import Base, Request
from soliton.build.bootstrap.localimage import of_sif
from soliton.errors import NotSupported
from soliton.images.detect import open_image
from soliton.record import replace


def bootstrap(request: Request) -> Base:
    header = request.header
    if header.get("frontend"):
        raise NotSupported(
            f"`Frontend` ({request.name}:{header.line_of('frontend')})",
            why="no program that reads recipes is fetched",
        )
    assert request.sources.of_dockerfile is not None
    path = request.workspace.place(request.folder, "dockerfile.sif")
    digest = request.sources.of_dockerfile(header, path)
    return replace(of_sif(open_image(path), config=True), digest=digest)
