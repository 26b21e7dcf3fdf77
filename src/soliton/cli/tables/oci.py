"""Containers by the rules of the OCI runtime specification (root only)."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import INTEGER, TEXT, Option

BUNDLE = Option("bundle", "b", TEXT, "DIR", keys=("BUNDLE",), help="the bundle")
SYNC_SOCKET = Option("sync-socket", "s", TEXT, "FILE", help="socket for changes of state")
STARTING = (
    BUNDLE,
    Option("log-path", "l", TEXT, "FILE", help="the log"),
    Option("log-format", None, TEXT, "NAME", default="kubernetes", help="its format"),
    Option("pid-file", None, TEXT, "FILE", help="write the process id to a file"),
    SYNC_SOCKET,
)


def _on_one(name: str, summary: str, *options: Option) -> Command:
    return Command(name, "ID", summary, least=1, most=1, options=options)


COMMANDS = (
    Command(
        "oci",
        "",
        "containers by the OCI runtime specification",
        group="Running",
        subcommands=(
            _on_one(
                "create", "make a container", *STARTING, Option("empty-process", help="without a process")
            ),
            _on_one("run", "make, start and wait for a container", *STARTING),
            _on_one("start", "start a container"),
            _on_one("state", "show a container's state", SYNC_SOCKET),
            _on_one("attach", "connect to a container's terminal"),
            _on_one("delete", "delete a container"),
            _on_one(
                "kill",
                "signal a container",
                Option("signal", "s", TEXT, "SIGNAL", default="SIGTERM", help="the signal"),
                Option("force", "f", help="kill"),
                Option("timeout", "t", INTEGER, "SECONDS", help="wait so long before killing"),
            ),
            _on_one("pause", "pause a container"),
            _on_one("resume", "go on"),
            _on_one(
                "update",
                "change a container's limits",
                Option("from-file", "f", TEXT, "FILE", help="the limits"),
            ),
            Command("exec", "ID COMMAND [ARGUMENT…]", "run a command in a container", least=2, most=None),
            Command("mount", "IMAGE BUNDLE", "make a bundle of an image", least=2, most=2),
            Command("umount", "BUNDLE", "take it away", least=1, most=1),
        ),
    ),
)
