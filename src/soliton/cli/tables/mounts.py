"""Images that are mounted on this node: `soliton mounts …`."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import Option

COMMANDS = (
    Command(
        "mounts",
        "",
        "images that are mounted on this node",
        group="Housekeeping",
        description=(
            "Containers of one job on a node share one mount of their image. It stays for SOLITON_IMAGE_SERVER seconds (30) after "
            "the last of them has ended."
        ),
        subcommands=(
            Command(
                "list",
                "",
                "show which images are mounted, and for how many processes",
                handler="soliton.cli.mounts:list_",
                options=(Option("json", "j", help="as JSON"),),
                examples=(Example("soliton mounts list", "who keeps the file system busy?"),),
            ),
            Command(
                "stop",
                "[IMAGE ...]",
                "let go of mounts now, all of them if none is named",
                most=None,
                handler="soliton.cli.mounts:stop",
                description="Containers that are running keep what they have; the next one mounts the image anew.",
                examples=(Example("soliton mounts stop", "before a file system is unmounted"),),
            ),
        ),
    ),
)
