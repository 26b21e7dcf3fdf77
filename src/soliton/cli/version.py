"""`version` and `--version`. Other programs read these lines, so their form is part of the contract."""

from __future__ import annotations

import sys

from soliton import PEER, __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation


def version(invocation: Invocation) -> int:
    """The number alone."""
    sys.stdout.write(f"{number(invocation.program)}\n")
    return 0


def version_line(invocation: Invocation) -> int:
    """`FLAVOUR version NUMBER`."""
    flavour = "soliton" if invocation.program == "soliton" else PEER[0]
    sys.stdout.write(f"{flavour} version {number(invocation.program)}\n")
    return 0


def number(program: str) -> str:
    return __version__ if program == "soliton" else PEER[1]
