"""`doctor`: what of this machine helps or hinders containers. Status 1 if containers cannot run as they should."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from soliton import core
from soliton.errors import SolitonError, UsageError
from soliton.messages import printable
from soliton.site import doctor as site

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation

_WORDS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def doctor(invocation: Invocation) -> int:
    if invocation.flag("apparmor-profile"):
        try:
            sys.stdout.write(site.apparmor_profile(os.path.realpath(core.program())))
        except ValueError as error:
            raise SolitonError(
                f"`{error}` cannot stand in a profile", why="its name holds characters with a meaning there"
            ) from None
        return 0
    found = site.findings(site.look())
    if invocation.positionals:
        (name,) = invocation.positionals
        names = [finding.name for finding in found]
        if name not in names:
            raise UsageError(f"there is no finding `{name}` here", why=f"there are {', '.join(names)}")
        found = [finding for finding in found if finding.name == name]
    if invocation.flag("json"):
        sys.stdout.write(json.dumps({"findings": [asdict(finding) for finding in found]}, indent="\t") + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for finding in found for line in lines(finding)))
    return 1 if any(finding.status == "problem" for finding in found) else 0


def lines(finding: site.Finding) -> list[str]:
    """`PROBLEM  fuse  image files cannot be mounted: …`, and below it who can do what."""
    told = [f"{_WORDS[finding.status]:<8} {finding.name:<9} {printable(finding.what)}"]
    if finding.status != "ok":
        for who, remedy in (("you", finding.user), ("administrator", finding.admin)):
            if remedy:
                told.append(f"{'':<18} {who}: {printable(remedy)}")
    return told
