"""Between here and registries: pull, push, search, delete."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import INTEGER, TEXT, Option, changed
from soliton.cli.tables.shared import (
    AUTHFILE,
    DISABLE_CACHE,
    DOCKER,
    DOCKER_HOST,
    LIBRARY,
    NO_HTTPS,
    NOHTTPS,
    OTHERS,
    REGISTRIES,
    TMPDIR,
)

RESULT = "The result"

PULL = (
    Option("force", "F", keys=("FORCE",), group=RESULT, help="replace an existing file"),
    Option(
        "dir", None, TEXT, "DIR", keys=("PULLDIR", "PULLFOLDER"), group=RESULT, help="directory for the image"
    ),
    Option(
        "name", None, TEXT, "NAME", keys=("PULL_NAME",), hidden=True, group=RESULT, help="name of the file"
    ),
    Option("sandbox", keys=("SANDBOX",), group=RESULT, help="make a directory instead of a file"),
    Option(
        "arch",
        None,
        TEXT,
        "NAME",
        keys=("PULL_ARCH",),
        group=RESULT,
        help="architecture, instead of this machine's",
    ),
    Option(
        "arch-variant",
        None,
        TEXT,
        "NAME",
        keys=("PULL_ARCH_VARIANT",),
        group=RESULT,
        help="its variant, as v7",
    ),
    Option(
        "platform",
        None,
        TEXT,
        "OS/ARCH[/VARIANT]",
        keys=("PLATFORM",),
        group=RESULT,
        help="the same in one word",
    ),
    Option(
        "reproducible",
        keys=("REPRODUCIBLE",),
        group=RESULT,
        help="the same bytes from the same input (always so)",
    ),
    Option(
        "no-cleanup",
        keys=("NO_CLEANUP",),
        group=RESULT,
        help="keep what a failed pull has fetched (always so; the next one goes on from there)",
    ),
    AUTHFILE,
    DISABLE_CACHE,
    NO_HTTPS,
    NOHTTPS,
    *DOCKER,
    LIBRARY,
    TMPDIR,
    Option(
        "allow-unsigned",
        "U",
        hidden=True,
        group=OTHERS,
        deprecated="nothing: signatures are not asked for",
        help="accept images without a signature",
    ),
    Option("allow-unauthenticated", hidden=True, group=OTHERS, help="accept images without a signature"),
    Option("oci", hidden=True, group=OTHERS, help="make an OCI-SIF", supported=False),
    Option("no-oci", hidden=True, group=OTHERS, help="accepted: a SIF is what is made"),
    Option("keep-layers", hidden=True, group=OTHERS, help="keep layers apart in an OCI-SIF", supported=False),
    Option("with-cosign", hidden=True, group=OTHERS, help="take cosign signatures along", supported=False),
)

PUSH = (
    Option("allow-unsigned", "U", keys=("ALLOW_UNSIGNED",), help="push without a signature"),
    Option("description", "D", TEXT, "TEXT", help="what the image is"),
    LIBRARY,
    AUTHFILE,
    DOCKER_HOST,
    NO_HTTPS,
    NOHTTPS,
    Option("layer-format", None, TEXT, "FORMAT", hidden=True, help="format of the layers", supported=False),
    Option("with-cosign", hidden=True, help="push cosign signatures too", supported=False),
)

COMMANDS = (
    Command(
        "pull",
        "[TARGET] URI",
        "fetch an image into one file",
        least=1,
        most=2,
        options=PULL,
        handler="soliton.cli.pull:pull",
        group="Making images",
        description=(
            "URI is docker://NAME[:TAG|@DIGEST], or a local oci:, oci-archive: or docker-archive:. Without TARGET the"
            " file is called NAME_TAG.sif. Layers are fetched several at a time, checked against their digests, and"
            " kept in the cache; an interrupted download is taken up again."
        ),
        examples=(
            Example("soliton pull docker://alpine:3.20", "to alpine_3.20.sif", "registry"),
            Example("soliton pull tools.sif docker://alpine:3.20", "to a name of one's choice", "registry"),
            Example(
                "soliton pull --arch arm64 arm.sif docker://alpine:3.20", "for another machine", "registry"
            ),
        ),
    ),
    Command(
        "push", "IMAGE URI", "send an image to a registry", least=2, most=2, options=PUSH, group="Sharing"
    ),
    Command(
        "search",
        "TEXT",
        "search a library",
        least=1,
        most=1,
        group="Sharing",
        options=(
            LIBRARY,
            Option("arch", None, TEXT, "NAME", keys=("SEARCH_ARCH",), help="architecture"),
            Option("signed", help="only images with a signature"),
        ),
    ),
    Command(
        "delete",
        "URI",
        "delete an image from a library",
        least=1,
        most=1,
        group="Sharing",
        options=(
            Option("arch", "A", TEXT, "NAME", help="architecture"),
            Option("force", "F", help="do not ask"),
            LIBRARY,
            changed(NO_HTTPS, group=REGISTRIES),
            Option("timeout", None, INTEGER, "SECONDS", default=15, hidden=True, help="limit of time"),
        ),
    ),
)
