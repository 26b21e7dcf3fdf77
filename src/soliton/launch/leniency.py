"""What the peers only warn of and soliton calls an error: under their names it is warned of here too, so that scripts go on. Pure.

Imported only where something of the kind was asked for.
"""

from __future__ import annotations

from soliton.launch.mounts import NO_MOUNT
from soliton.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config
    from soliton.site.host import Host

_FORBIDDEN = "user bind control disabled by system administrator"


def lenient(request: ActionRequest, config: Config, host: Host) -> tuple[ActionRequest, tuple[str, ...]]:
    """The request without what a peer would pass over, and its warnings."""
    said: list[str] = []
    unknown = tuple(name for name in request.no_mount if name not in NO_MOUNT and not name.startswith("/"))
    if unknown:
        said += [f"Ignoring unknown mount type '{name}'" for name in unknown]
        request = replace(request, no_mount=tuple(name for name in request.no_mount if name not in unknown))
    if request.writable and request.writable_tmpfs:
        said.append("Disabling --writable-tmpfs flag, mutually exclusive with --writable")
        request = replace(request, writable_tmpfs=False)
    if not config.user_bind_control and not host.privileged:
        for option in ("bind", "mount", "data"):
            said += [f"Ignoring {text} bind mount: {_FORBIDDEN}" for text in getattr(request, option)]
        if request.workdir:
            said.append(f"Ignoring {request.workdir} as work directory: {_FORBIDDEN}")
        request = replace(request, bind=(), mount=(), data=(), workdir=None)
    return request, tuple(said)
