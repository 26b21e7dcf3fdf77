"""Containers in the background."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import INTEGER, TEXT, Option
from soliton.cli.tables.action_options import BACKGROUND, COMMON, RUNSCRIPT_TIMEOUT

USER = Option("user", "u", TEXT, "NAME", keys=("USER",), help="instances of another user (root only)")
ONE_USER = Option("user", "u", TEXT, "NAME", help="an instance of another user (root only)")
JSON = Option("json", "j", keys=("JSON",), help="as JSON")

COMMANDS = (
    Command(
        "instance",
        "",
        "containers in the background",
        group="Running",
        subcommands=(
            Command(
                "start",
                "IMAGE NAME [ARGUMENT…]",
                "start an instance with the image's startscript",
                least=2,
                most=None,
                options=(*COMMON, *BACKGROUND),
            ),
            Command(
                "run",
                "IMAGE NAME [ARGUMENT…]",
                "start an instance with the image's runscript",
                least=2,
                most=None,
                options=(*COMMON, *BACKGROUND, RUNSCRIPT_TIMEOUT),
            ),
            Command(
                "stop",
                "[NAME]",
                "stop instances",
                most=1,
                options=(
                    ONE_USER,
                    Option("all", "a", keys=("ALL",), help="every instance"),
                    Option("force", "F", keys=("FORCE",), help="kill, do not ask"),
                    Option(
                        "signal",
                        "s",
                        TEXT,
                        "SIGNAL",
                        keys=("SIGNAL",),
                        default="SIGINT",
                        help="the signal to send",
                    ),
                    Option(
                        "timeout", "t", INTEGER, "SECONDS", default=10, help="wait so long before killing"
                    ),
                ),
            ),
            Command(
                "list",
                "[PATTERN]",
                "show instances",
                most=1,
                options=(
                    USER,
                    JSON,
                    Option("logs", "l", keys=("LOGS",), help="show where the logs are"),
                    Option("all", "a", keys=("ALL",), help="of every user and host (root only)"),
                ),
            ),
            Command(
                "stats",
                "NAME",
                "show what an instance uses",
                least=1,
                most=1,
                options=(
                    ONE_USER,
                    Option("json", "j", help="as JSON"),
                    Option("no-stream", help="once, do not go on"),
                ),
            ),
        ),
    ),
)
