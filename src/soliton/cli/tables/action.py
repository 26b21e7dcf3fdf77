"""exec, run, shell, test."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.tables.action_options import FOREGROUND, RUNSCRIPT_TIMEOUT, SHELL

RUNNING = "Running"

COMMANDS = (
    Command(
        "exec",
        "IMAGE COMMAND [ARGUMENT…]",
        "run a command in a container",
        least=2,
        most=None,
        options=FOREGROUND,
        handler="soliton.cli.action:exec_",
        immediate=True,
        group=RUNNING,
        description=(
            "IMAGE is a file, a sandbox directory or a URI such as docker://alpine:3.20. Options go before it:"
            " everything behind it belongs to the command. The exit status is the command's."
        ),
        examples=(
            Example("soliton exec image.sif cat /etc/os-release", "a command of the image", "image.sif"),
            Example(
                "soliton exec --bind /srv:/mnt:ro image.sif ls /mnt",
                "with a directory of the host",
                "image.sif",
            ),
            Example(
                "soliton exec --env LEVEL=3 --cleanenv image.sif env",
                "with a variable, and little else",
                "image.sif",
            ),
            Example("soliton exec --net --network none image.sif id", "without any network", "image.sif"),
            Example("soliton exec --containall image.sif id", "cut off from the host", "image.sif"),
            Example(
                "soliton exec --explain -C image.sif id",
                "nothing is run: what it would see, and why",
                "image.sif",
            ),
            Example("soliton exec docker://alpine:3.20 uname -r", "straight from a registry", "registry"),
        ),
    ),
    Command(
        "run",
        "IMAGE [ARGUMENT…]",
        "run the image's own program",
        least=1,
        most=None,
        options=(*FOREGROUND, RUNSCRIPT_TIMEOUT),
        handler="soliton.cli.action:run",
        immediate=True,
        group=RUNNING,
        description=(
            "Runs the image's runscript, which the arguments are passed to. `soliton run hello://` runs a tiny image"
            " that comes with soliton: a first check of any machine."
        ),
        examples=(
            Example("soliton run hello://", "check this machine"),
            Example("soliton run image.sif one two", "with two arguments", "image.sif"),
        ),
    ),
    Command(
        "shell",
        "IMAGE [ARGUMENT…]",
        "open a shell in a container",
        least=1,
        most=None,
        options=(*FOREGROUND, SHELL),
        handler="soliton.cli.action:shell",
        immediate=True,
        group=RUNNING,
        examples=(
            Example("soliton shell image.sif", "look around", "image.sif"),
            Example("soliton shell --shell /bin/sh image.sif", "with a shell of one's choice", "image.sif"),
        ),
    ),
    Command(
        "test",
        "IMAGE [ARGUMENT…]",
        "run the image's own test",
        least=1,
        most=None,
        options=FOREGROUND,
        handler="soliton.cli.action:test",
        immediate=True,
        group=RUNNING,
        description="Runs what the %test section of the definition file says. Its exit status is the test's.",
        examples=(Example("soliton test image.sif", "is the image in order?", "image.sif"),),
    ),
)
