"""Looking into an image: inspect, run-help."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import LIST, TEXT, Option

APP = Option("app", None, TEXT, "NAME", help="of this SCIF app")
LOOKING = "Looking into images"

COMMANDS = (
    Command(
        "inspect",
        "IMAGE",
        "show what an image says about itself",
        least=1,
        most=1,
        group=LOOKING,
        handler="soliton.cli.inspect:inspect",
        immediate=True,
        options=(
            Option("labels", "l", help="its labels (what is shown without options)"),
            Option("deffile", "d", help="the definition file it was built from"),
            Option("environment", "e", help="its environment scripts"),
            Option("runscript", "r", help="what `run` does"),
            Option("startscript", "s", help="what an instance does"),
            Option("test", "t", help="what `test` does"),
            Option("helpfile", "H", help="its help text"),
            Option("provenance", help="what it was built from, and how: an in-toto statement, as JSON"),
            Option("all", help="everything, as JSON"),
            Option("json", "j", help="as JSON"),
            Option("list-apps", help="the names of its SCIF apps"),
            APP,
        ),
        examples=(
            Example("soliton inspect image.sif", "its labels", "image.sif"),
            Example("soliton inspect --runscript image.sif", "what running it does", "image.sif"),
            Example("soliton inspect --all image.sif", "everything, for programs", "image.sif"),
        ),
    ),
    Command(
        "run-help",
        "IMAGE",
        "show an image's help text",
        least=1,
        most=1,
        group=LOOKING,
        options=(APP,),
        handler="soliton.cli.inspect:run_help",
        immediate=True,
        examples=(Example("soliton run-help image.sif", "what is it for?", "image.sif"),),
    ),
    Command(
        "diff",
        "IMAGE IMAGE",
        "show what differs between two images",
        least=2,
        most=2,
        group=LOOKING,
        handler="soliton.cli.diff:diff",
        options=(
            Option("json", "j", help="as JSON"),
            Option(
                "ignore",
                None,
                LIST,
                "WHAT",
                help="of files do not compare: content, mode, owner, time, xattrs, links, …",
            ),
        ),
        description=(
            "Files, packages (dpkg, rpm, apk, pip, conda), environment and labels are compared; an image may be a SIF, a"
            " squashfs or a sandbox, whose files have no owners of their own. Nothing is mounted or run. The exit status is 0 if nothing differs, 1 if something does."
        ),
        examples=(
            Example("soliton diff image.sif tree", "an image and a sandbox", "image.sif", "tree", status=1),
            Example("soliton diff --json image.sif image.sif", "for programs", "image.sif"),
        ),
    ),
)
