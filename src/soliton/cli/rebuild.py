"""`rebuild`: an image again from what it holds, or the question whether it is the same again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from soliton import messages
from soliton.cli import diff
from soliton.cli.inspect import write
from soliton.errors import UsageError

if TYPE_CHECKING:
    from soliton.api.rebuild import Check
    from soliton.cli.invocation import Invocation

#: Differences of a kind that are told without `--json`.
_FIRST = 20


def rebuild(invocation: Invocation) -> int:
    from soliton.api import build as api
    from soliton.api import rebuild as again
    from soliton.cli.build import binds, build_args
    from soliton.cli.pull import options_of

    image, *rest = invocation.positionals
    checking = invocation.flag("check")
    if checking == bool(rest):
        raise UsageError(
            "`rebuild` makes a new image, or checks: it takes a target, or `--check`",
            remedy=f"write `soliton rebuild --check {image}` or `soliton rebuild {image} new.sif`",
        )
    options = api.BuildOptions(
        force=invocation.flag("force"),
        build_args=build_args(invocation),
        binds=binds(invocation),
        tmpdir=invocation.text("tmpdir"),
        on_host=invocation.flag("run-setup"),
        ignore_subordinate_ids=invocation.flag("ignore-subuid"),
        secrets=invocation.words("secret"),
        ssh=invocation.words("ssh"),
        context=invocation.text("context") or "",
        fetching=options_of(invocation),
    )
    if not checking:
        again.rebuild(image, rest[0], options)
        messages.info(f"Build complete: {rest[0]}")
        return 0
    found = again.check(image, options)
    write(as_json(found, image) if invocation.flag("json") else as_text(found, image))
    return 0 if found.same else 1


def as_json(found: Check, image: str) -> str:
    from soliton.images.compare import as_json as record

    told = json.loads(diff.as_json(found.difference))
    objects = [record(change) for change in found.objects]
    return json.dumps({"image": image, "same": found.same, **told, "objects": objects}, indent="\t") + "\n"


def as_text(found: Check, image: str) -> str:
    if found.same:
        return f"{messages.printable(image)}: built again, the same bytes\n"
    lines = [f"{messages.printable(image)}: built again, not the same"]
    for part in diff.PARTS:
        changes = getattr(found.difference, part)
        if changes:
            lines.append(f"{part.capitalize()}: {diff.counted(changes)}")
            lines += diff.lines_of(changes[:_FIRST])
            if len(changes) > _FIRST:
                lines.append(f"  … and {len(changes) - _FIRST} more; `--json` tells all")
    if found.objects:
        lines.append(f"Other parts of the file: {', '.join(change.name for change in found.objects)}")
    return "".join(f"{line}\n" for line in lines)
