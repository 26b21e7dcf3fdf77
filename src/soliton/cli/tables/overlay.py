"""Writable layers, and data images: `soliton overlay …`, `soliton data …`."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import INTEGER, WHOLE, Option
from soliton.cli.tables.shared import TMPDIR

CREATE = (
    Option("size", "s", INTEGER, "MIB", default=64, help="size in MiB, at least 64"),
    Option("sparse", "S", keys=("SPARSE",), help="take up space only when written"),
    Option("create-dir", None, WHOLE, "DIR", help="a directory to make in it, as it is named inside"),
    Option("fakeroot", "f", keys=("FAKEROOT",), help="of user 0, for use with --fakeroot"),
    TMPDIR,
)

COMMANDS = (
    Command(
        "overlay",
        "",
        "writable layers",
        group="Making images",
        subcommands=(
            Command(
                "create",
                "IMAGE",
                "make a writable layer",
                least=1,
                most=1,
                options=CREATE,
                handler="soliton.cli.overlay:create",
                description=(
                    "Makes an empty writable layer (ext3) in a new file, for `--overlay`, or in a SIF that exists: it then goes"
                    " with the image, is written by `exec --writable`, and is seen without. One container writes a"
                    " layer at a time; any number read it."
                ),
                examples=(
                    Example("soliton overlay create --size 128 work.img", "a file of 128 MiB"),
                    Example(
                        "soliton overlay create --sparse --create-dir /data image.sif",
                        "in an image",
                        "image.sif",
                    ),
                ),
            ),
            Command("seal", "IMAGE", "make a layer of an OCI-SIF read-only", least=1, most=1, hidden=True),
            Command("sync", "IMAGE", "bring an OCI-SIF's digests up to date", least=1, most=1, hidden=True),
        ),
    ),
    Command(
        "data",
        "",
        "data images",
        hidden=True,
        subcommands=(Command("package", "PATH IMAGE", "make a data image", least=2, most=2),),
    ),
)
