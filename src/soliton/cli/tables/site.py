"""What an administrator settles: `soliton config …`, `soliton capability …`."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import TEXT, Option

HOUSEKEEPING = "Housekeeping"
WHO = (
    Option("user", "u", TEXT, "NAME", keys=("CAP_USER",), help="the user"),
    Option("group", "g", TEXT, "NAME", keys=("CAP_GROUP",), help="the group"),
)

COMMANDS = (
    Command(
        "config",
        "",
        "the configuration",
        group=HOUSEKEEPING,
        subcommands=(
            Command(
                "fakeroot",
                "USER",
                "subordinate ids of a user",
                least=1,
                most=1,
                options=(
                    Option("add", "a", help="add a range"),
                    Option("remove", "r", help="remove the range"),
                    Option("enable", "e", help="enable it"),
                    Option("disable", "d", help="disable it"),
                ),
                instead="use `usermod --add-subuids` and `--add-subgids`",
            ),
            Command(
                "global",
                "DIRECTIVE [VALUE]",
                "one directive of the configuration file",
                least=1,
                most=2,
                options=(
                    Option("set", "s", help="set it"),
                    Option("unset", "u", help="take a value away"),
                    Option("get", "g", help="show it"),
                    Option("reset", "r", help="back to its default"),
                    Option("dry-run", "d", help="only show the result"),
                ),
            ),
        ),
    ),
    Command(
        "capability",
        "",
        "capabilities that users may ask for",
        aliases=("caps",),
        group=HOUSEKEEPING,
        subcommands=(
            Command("add", "CAPS", "allow capabilities", least=1, most=1, options=WHO),
            Command("drop", "CAPS", "no longer allow them", least=1, most=1, options=WHO),
            Command("list", "[NAME]", "show what is allowed", most=1),
            Command("avail", "[CAP]", "explain capabilities", most=1),
        ),
    ),
)
