"""Containers in the background."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
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
                handler="soliton.cli.instance:start",
                description=(
                    "Starts the image's startscript in the background, with the arguments, and leaves the container there until it"
                    " is stopped, whether the script goes on or ends. NAME is made of letters, digits, `.`, `_` and `-`."
                    " `soliton exec instance://NAME` runs a command in it. With --boot the image's /sbin/init is process 1, with the"
                    " arguments."
                ),
                examples=(
                    Example("soliton instance start image.sif web", "start it", "image.sif"),
                    Example("soliton instance start --boot image.sif box", "boot it", "image.sif"),
                ),
            ),
            Command(
                "run",
                "IMAGE NAME [ARGUMENT…]",
                "start an instance with the image's runscript",
                least=2,
                most=None,
                options=(*COMMON, *BACKGROUND, RUNSCRIPT_TIMEOUT),
                handler="soliton.cli.instance:run",
                examples=(
                    Example(
                        "soliton instance run image.sif job one two",
                        "the image's program, in the background",
                        "image.sif",
                    ),
                ),
            ),
            Command(
                "stop",
                "[NAME]",
                "stop instances",
                most=1,
                handler="soliton.cli.instance:stop",
                description=(
                    "Sends the signal to what the instance started, and kills what is left after the timeout. NAME may be a"
                    " pattern."
                ),
                examples=(
                    Example("soliton instance stop web", "ask it to end", "image.sif", "web"),
                    Example(
                        "soliton instance stop --signal TERM --timeout 60 web",
                        "and be patient",
                        "image.sif",
                        "web",
                    ),
                    Example("soliton instance stop --all", "every one", "image.sif", "web"),
                ),
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
                        help="the signal to send (with --boot: what makes the init shut down)",
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
                handler="soliton.cli.instance:list_",
                examples=(
                    Example("soliton instance list", "those that run here"),
                    Example("soliton instance list --json 'w*'", "for programs, those whose names match"),
                    Example("soliton instance list --logs", "where their output is"),
                ),
                options=(
                    USER,
                    JSON,
                    Option("logs", "l", keys=("LOGS",), help="show where the logs are"),
                    Option("all", "a", keys=("ALL",), help="also what is held for --sharens"),
                ),
            ),
            Command(
                "stats",
                "NAME",
                "show what an instance uses",
                handler="soliton.cli.instance:stats",
                description=(
                    "Processor time, memory, input and output, and processes: of its control group if it was started with limits,"
                    " else summed over its processes. Repeated every second, until it is interrupted."
                ),
                examples=(Example("soliton instance stats --no-stream web", "once", "image.sif", "web"),),
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
