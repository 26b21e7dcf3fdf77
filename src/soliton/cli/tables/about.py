"""The program about itself: version, help, completion, and hidden build settings."""

from __future__ import annotations

from soliton.cli.commands import Command, Example

ABOUT = "About soliton"
SHELLS = ("bash", "zsh", "fish", "powershell")

COMMANDS = (
    Command(
        "version",
        "",
        "show the version",
        handler="soliton.cli.version:version",
        group=ABOUT,
        examples=(Example("soliton version", "the number alone"),),
    ),
    Command(
        "help",
        "[COMMAND…]",
        "explain a command",
        most=None,
        handler="soliton.cli.help:help_",
        group=ABOUT,
        examples=(Example("soliton help sif dump", "of one command"),),
    ),
    Command(
        "completion",
        "",
        "completion of command lines for a shell",
        group=ABOUT,
        subcommands=tuple(Command(shell, "", f"for {shell}") for shell in SHELLS),
    ),
    Command("buildcfg", "[NAME]", "settings this program was built with", most=1, hidden=True),
    Command("confgen", "[OLD] NEW", "write a configuration file", least=1, most=2, hidden=True),
)
