"""The program about itself: version, help, completion, and hidden build settings."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import TEXT, Option

ABOUT = "About soliton"


def _completion(shell: str) -> Command:
    if shell == "powershell":
        return Command(shell, "", f"for {shell}", instead="bash, zsh and fish have one")
    return Command(
        shell,
        "",
        f"for {shell}",
        handler=f"soliton.cli.completion:{shell}",
        immediate=True,
        examples=(Example(f"soliton completion {shell}", "a script for the shell to read"),),
    )


COMMANDS = (
    Command(
        "version",
        "",
        "show the version",
        handler="soliton.cli.version:version",
        immediate=True,
        group=ABOUT,
        examples=(Example("soliton version", "the number alone"),),
    ),
    Command(
        "help",
        "[COMMAND…]",
        "explain a command",
        most=None,
        options=(
            Option(
                "man", None, TEXT, "DIRECTORY", help="write the manual pages of all commands there instead"
            ),
        ),
        handler="soliton.cli.help:help_",
        immediate=True,
        group=ABOUT,
        examples=(
            Example("soliton help sif dump", "of one command"),
            Example("soliton help --man ~/.local/share/man/man1", "then `man soliton-exec` shows it"),
        ),
    ),
    Command(
        "completion",
        "",
        "completion of command lines for a shell",
        group=ABOUT,
        subcommands=tuple(_completion(shell) for shell in ("bash", "zsh", "fish", "powershell")),
    ),
    Command(
        "buildcfg",
        "[NAME]",
        "settings this program was built with",
        most=1,
        hidden=True,
        handler="soliton.cli.config:buildcfg",
    ),
    Command(
        "confgen",
        "[OLD] NEW",
        "write a configuration file",
        least=1,
        most=2,
        hidden=True,
        handler="soliton.cli.config:confgen",
    ),
)
