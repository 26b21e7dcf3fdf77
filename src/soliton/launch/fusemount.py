"""`--fusemount`: which program serves which place. Imported only where the option is given. Pure."""

from __future__ import annotations

import posixpath

from soliton.errors import LaunchError, SolitonError
from soliton.launch.plan import FuseMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config
    from soliton.site.host import Host

#: Type → (on the host, goes into the background by itself).
_TYPES = {
    "container": (False, False),
    "container-daemon": (False, True),
    "host": (True, False),
    "host-daemon": (True, True),
}


def fuse_mounts(request: ActionRequest, config: Config, host: Host) -> list[FuseMount]:
    """Raises SolitonError for what makes no sense, and LaunchError for what the site forbids."""
    if not config.enable_fusemount and not host.privileged:
        raise LaunchError(
            "`--fusemount` is not allowed here",
            why="the site has `enable-fusemount = false`",
            remedy="leave it out, or bind what another program has mounted on the host",
        )
    if request.sharens:
        raise SolitonError(
            "`--fusemount` and `--sharens` exclude each other",
            why="the program of the file system would belong to one process, the file system to all",
        )
    return [_parsed(text) for text in request.fusemount]


def _parsed(text: str) -> FuseMount:
    kind, colon, rest = text.strip().partition(":")
    if not colon or kind not in _TYPES:
        raise SolitonError(
            f"`{text}` of `--fusemount` has no type",
            why="it is TYPE:PROGRAM MOUNTPOINT, and the types are container, container-daemon, host and host-daemon",
        )
    words = rest.split()
    if len(words) < 2:
        raise SolitonError(
            f"`{text}` of `--fusemount` names no program and place",
            why="it is TYPE:PROGRAM MOUNTPOINT; what is between the first word and the last are the program's arguments",
        )
    *argv, target = words
    if not target.startswith("/"):
        raise SolitonError(
            f"`{target}` of `--fusemount` is not an absolute path", why="it is the place inside the container"
        )
    on_host, daemon = _TYPES[kind]
    return FuseMount(tuple(argv), posixpath.normpath(target), on_host, daemon, origin="--fusemount")
