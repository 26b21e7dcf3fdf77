"""Bootstrap agents: each makes what a stage starts from. One module per way; a new agent is a line in the table.

Agents that come with other package managers and services are part of the contract and refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from soliton.build.bootstrap import busybox, debootstrap, localimage, oci, scratch
from soliton.build.bootstrap.base import Agent, Base, Fetched, Request, Sources
from soliton.errors import NotSupported

__all__ = ["AGENTS", "Agent", "Base", "Fetched", "Request", "Sources", "bootstrap"]

AGENTS: Mapping[str, Agent] = {
    "docker": oci.bootstrap,
    "docker-archive": oci.bootstrap,
    "oci": oci.bootstrap,
    "oci-archive": oci.bootstrap,
    "localimage": localimage.bootstrap,
    "scratch": scratch.bootstrap,
    "busybox": busybox.bootstrap,
    "debootstrap": debootstrap.bootstrap,
}


def bootstrap(request: Request) -> Base:
    """What the stage starts from. Raises NotSupported for an agent without a module, else what the agent raises."""
    agent = AGENTS.get(request.header.agent)
    if agent is None:
        raise NotSupported(
            f"`Bootstrap: {request.header.agent}` ({request.name}:{request.header.line})",
            remedy="supported are " + ", ".join(AGENTS),
        )
    return agent(request)
