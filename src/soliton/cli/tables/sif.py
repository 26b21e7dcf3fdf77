"""The parts of a SIF file: `soliton sif …`."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import INTEGER, TEXT, Option

ADD = (
    Option(
        "datatype",
        None,
        INTEGER,
        "N",
        help="1 definition, 2 environment, 3 labels, 4 partition, 5 signature, 6 JSON, 7 generic, 8 cryptographic message, 9 SBOM",
    ),
    Option("filename", None, TEXT, "NAME", help="name of the object, instead of the file's"),
    Option(
        "groupid", None, INTEGER, "N", default=1, help="the group it belongs to", hidden=True, alias="group"
    ),
    Option("group", None, INTEGER, "N", default=1, help="the group it belongs to"),
    Option("link", None, INTEGER, "N", help="the object it is about"),
    Option("alignment", None, INTEGER, "BYTES", help="its alignment in the file"),
    Option(
        "parttype", None, INTEGER, "N", help="of a partition: 1 system, 2 primary system, 3 data, 4 overlay"
    ),
    Option(
        "partfs",
        None,
        INTEGER,
        "N",
        help="of a partition: 1 squashfs, 2 ext3, 3 others, 4 raw, 5 encrypted squashfs",
    ),
    Option(
        "partarch",
        None,
        INTEGER,
        "N",
        help="of a partition: 1 386, 2 amd64, 3 arm, 4 arm64, 5 ppc64, 6 ppc64le, …",
    ),
    Option(
        "signhash",
        None,
        INTEGER,
        "N",
        help="of a signature: 1 SHA-256, 2 SHA-384, 3 SHA-512, 4 BLAKE2s, 5 BLAKE2b",
    ),
    Option("signentity", None, TEXT, "FINGERPRINT", help="of a signature: whose it is"),
    Option("sbomformat", None, TEXT, "NAME", help="of an SBOM: its format"),
)

COMMANDS = (
    Command(
        "sif",
        "",
        "the parts of a SIF file",
        aliases=("siftool",),
        group="Looking into images",
        subcommands=(
            Command(
                "list",
                "FILE",
                "list its objects",
                least=1,
                most=1,
                handler="soliton.cli.sif:list_",
                immediate=True,
                examples=(Example("soliton sif list image.sif", "what is in the file?", "image.sif"),),
            ),
            Command(
                "header",
                "FILE",
                "show its header",
                least=1,
                most=1,
                handler="soliton.cli.sif:header",
                immediate=True,
                examples=(Example("soliton sif header image.sif", "who made it, when?", "image.sif"),),
            ),
            Command(
                "info",
                "ID FILE",
                "show one object's description",
                least=2,
                most=2,
                handler="soliton.cli.sif:info",
                immediate=True,
                examples=(Example("soliton sif info 1 image.sif", "the first object", "image.sif"),),
            ),
            Command(
                "dump",
                "ID FILE",
                "write one object to stdout",
                least=2,
                most=2,
                handler="soliton.cli.sif:dump",
                immediate=True,
                examples=(Example("soliton sif dump 1 image.sif", "its content", "image.sif"),),
            ),
            Command("new", "FILE", "make an empty file", least=1, most=1, handler="soliton.cli.sif:new"),
            Command(
                "add",
                "FILE SOURCE",
                "add an object",
                least=2,
                most=2,
                options=ADD,
                handler="soliton.cli.sif:add",
            ),
            Command("del", "ID FILE", "delete an object", least=2, most=2, handler="soliton.cli.sif:delete"),
            Command(
                "setprim",
                "ID FILE",
                "choose the partition that runs",
                least=2,
                most=2,
                handler="soliton.cli.sif:set_primary",
            ),
        ),
    ),
)
