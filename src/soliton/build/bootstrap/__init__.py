"""Bootstrap agents: each makes what a stage starts from. One module per way; a new agent is a line in the table.

Agents whose services this program has no client for are part of the contract and refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from soliton.build.bootstrap import (
    arch,
    busybox,
    debootstrap,
    dockerfile,
    localimage,
    oci,
    rpm,
    scratch,
    zypper,
)
from soliton.build.bootstrap.base import Agent, Base, Fetched, Request, Sources
from soliton.build.header import Header
from soliton.errors import NotSupported

__all__ = ["AGENTS", "Agent", "Base", "Fetched", "Request", "Sources", "bootstrap"]

AGENTS: Mapping[str, Agent] = {
    "docker": oci.bootstrap,
    "docker-archive": oci.bootstrap,
    "docker-daemon": oci.bootstrap,
    "oci": oci.bootstrap,
    "oci-archive": oci.bootstrap,
    "oras": oci.bootstrap,
    "library": oci.bootstrap,
    "shub": oci.bootstrap,
    "localimage": localimage.bootstrap,
    "scratch": scratch.bootstrap,
    "dockerfile": dockerfile.bootstrap,
    "busybox": busybox.bootstrap,
    "debootstrap": debootstrap.bootstrap,
    "dnf": rpm.bootstrap,
    "yum": rpm.bootstrap,
    "zypper": zypper.bootstrap,
    "arch": arch.bootstrap,
}
#: Agents of the contract without a module: what to do instead.
INSTEAD: Mapping[str, str] = {
    "buildkit": "no daemon is asked: start from an image, `Bootstrap: docker`",
}


def bootstrap(request: Request) -> Base:
    """What the stage starts from. Raises NotSupported for an agent without a module, else what the agent raises."""
    require(request.header, request.name)
    return AGENTS[request.header.agent](request)


def require(header: Header, name: str) -> None:
    """Raises NotSupported for a header that asks for what no agent here does. name: the definition, for messages."""
    if header.get("fingerprints"):
        raise NotSupported(
            f"`Fingerprints` ({name}:{header.line_of('fingerprints')})",
            why="signatures cannot be checked yet, and building on an unchecked image is not what was asked for",
        )
    if header.agent not in AGENTS:
        raise NotSupported(
            f"`Bootstrap: {header.agent}` ({name}:{header.line})",
            remedy=INSTEAD.get(header.agent, "supported are " + ", ".join(AGENTS)),
        )
