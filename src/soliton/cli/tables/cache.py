"""What has been fetched and kept: `soliton cache …`."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import INTEGER, LIST, Option

COMMANDS = (
    Command(
        "cache",
        "",
        "what has been fetched and kept",
        group="Housekeeping",
        subcommands=(
            Command(
                "list",
                "",
                "show how much is kept",
                handler="soliton.cli.cache:list_",
                options=(
                    Option(
                        "type",
                        "T",
                        LIST,
                        "KIND",
                        default=("all",),
                        help="only these of library, oci-tmp, shub, oras, ipfs, net, blob, steps",
                    ),
                    Option("verbose", "v", help="each entry with its size and date"),
                ),
                examples=(Example("soliton cache list --verbose", "what takes the space?"),),
            ),
            Command(
                "clean",
                "",
                "delete what is kept",
                handler="soliton.cli.cache:clean",
                options=(
                    Option(
                        "type",
                        "T",
                        LIST,
                        "KIND",
                        default=("all",),
                        help="only these of library, oci-tmp, shub, oras, ipfs, net, blob, steps",
                    ),
                    Option("days", "D", INTEGER, "N", default=0, help="only what is older than so many days"),
                    Option("dry-run", "n", help="only say what would be deleted"),
                    Option("force", "f", help="do not ask"),
                ),
                examples=(Example("soliton cache clean --days 30 --force", "what was not used for a month"),),
            ),
        ),
    ),
)
