"""Options of the program itself, before the command, and the two that answer at once."""

from __future__ import annotations

from soliton.cli.options import TEXT, Option

HELP = Option("help", "h", help="show this help")
VERSION = Option("version", help="show the version")

GLOBALS = (
    Option("debug", "d", keys=("DEBUG",), help="all messages, each with its place in the program"),
    Option("verbose", "v", keys=("VERBOSE",), help="more messages"),
    Option("quiet", "q", keys=("QUIET",), help="warnings and errors only, no progress"),
    Option("silent", "s", keys=("SILENT",), help="errors only"),
    Option(
        "nocolor", keys=("NOCOLOR",), help="no colours (as with NO_COLOR, and where stderr is no terminal)"
    ),
    Option(
        "config",
        "c",
        TEXT,
        "FILE",
        keys=("CONFIG_FILE",),
        help="configuration file instead of the usual ones (for root, and where the installation is one's own)",
    ),
    Option("build-config", help="settings used by nested build steps", hidden=True, supported=False),
)
