"""`overlay create`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation


def create(invocation: Invocation) -> int:
    from soliton.api import overlay

    overlay.create(
        invocation.positionals[0],
        size=invocation.integer("size") or 0,
        sparse=invocation.flag("sparse"),
        directories=invocation.words("create-dir"),
        fakeroot=invocation.flag("fakeroot"),
    )
    return 0
