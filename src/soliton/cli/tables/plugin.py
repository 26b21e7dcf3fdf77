"""Plugins of the peers, which soliton does not load: known so that the answer is clear."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import TEXT, Option

COMMANDS = (
    Command(
        "plugin",
        "",
        "plugins",
        aliases=("plugins",),
        group="Housekeeping",
        hidden=True,
        subcommands=(
            Command(
                "compile",
                "PATH",
                "compile a plugin",
                least=1,
                most=1,
                options=(Option("out", "o", TEXT, "FILE", help="the result"),),
            ),
            Command("install", "PATH", "install a plugin", least=1, most=1),
            Command("create", "PATH NAME", "begin a plugin", least=2, most=2),
            Command("enable", "NAME", "enable a plugin", least=1, most=1),
            Command("disable", "NAME", "disable a plugin", least=1, most=1),
            Command("uninstall", "NAME", "remove a plugin", least=1, most=1),
            Command("inspect", "NAME", "show a plugin", least=1, most=1),
            Command("list", "", "show plugins"),
        ),
    ),
)
