"""Checkpoints of instances by DMTCP."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import TEXT, Option

COMMANDS = (
    Command(
        "checkpoint",
        "",
        "checkpoints of instances",
        group="Running",
        subcommands=(
            Command("create", "NAME", "make a checkpoint", least=1, most=1),
            Command("delete", "NAME", "delete a checkpoint", least=1, most=1),
            Command(
                "instance",
                "NAME",
                "save an instance",
                least=1,
                most=1,
                options=(Option("home", "H", TEXT, "SRC[:DST]", help="home directory inside"),),
            ),
            Command("list", "", "show checkpoints"),
        ),
    ),
)
