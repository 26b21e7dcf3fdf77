"""Nothing at all: the stage's files are its own."""

from __future__ import annotations

from soliton.build.bootstrap.base import Base, Request
from soliton.launch.plan import DirectoryRoot


def bootstrap(request: Request) -> Base:
    return Base(DirectoryRoot(request.workspace.folder(request.folder, "base", mode=0o755)), is_image=False)
