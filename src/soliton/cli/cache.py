"""The commands cache list and cache clean."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from soliton.errors import UsageError
from soliton.progress import size

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation
    from soliton.images.cache import CacheEntry


def _kinds(invocation: Invocation) -> tuple[str, ...]:
    from soliton.api.cache import KINDS

    kinds = invocation.words("type") or ("all",)
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"`{kind}` is not kept in the cache", why=f"the kinds are {', '.join(KINDS)}")
    return kinds


def list_(invocation: Invocation) -> int:
    from soliton.api.cache import CONTAINERS, entries

    found = entries(_kinds(invocation))
    if invocation.flag("verbose"):
        print(f"{'NAME':<24} {'DATE CREATED':<20} {'SIZE':<12} TYPE")  # noqa: T201 - results go to stdout
        for entry in found:
            date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.changed))
            kind = {"image": "oci-tmp", "step": "steps", "mount": "steps"}.get(entry.kind, entry.kind)
            print(f"{entry.name[:22]:<24} {date:<20} {size(entry.size):<12} {kind}")  # noqa: T201
        print()  # noqa: T201
    images = [entry for entry in found if entry.kind in CONTAINERS]
    blobs = [entry for entry in found if entry.kind in ("blob", "partial")]
    steps = [entry for entry in found if entry.kind in ("step", "mount")]
    print(  # noqa: T201
        f"There are {len(images)} container file(s) using {_sum(images)} "
        f"and {len(blobs)} oci blob file(s) using {_sum(blobs)} of space"
    )
    if steps:
        print(f"and {len(steps)} result(s) of build steps using {_sum(steps)}")  # noqa: T201
    print(f"Total space used: {_sum(found)}")  # noqa: T201
    return 0


def _sum(found: list[CacheEntry]) -> str:
    return size(sum(entry.size for entry in found))


def clean(invocation: Invocation) -> int:
    from soliton import messages
    from soliton.api.cache import delete, select

    days = invocation.integer("days") or 0
    if days < 0:
        raise UsageError(f"`{days}` is not a number of days", why="`--days` takes 0 or more")
    found = select(_kinds(invocation), days=days)
    if invocation.flag("dry-run"):
        for entry in found:
            print(f"{entry.path} ({size(entry.size)})")  # noqa: T201
        return 0
    if found and not invocation.flag("force"):
        question = f"This will delete {len(found)} files ({_sum(found)}) from the cache. Do you want to continue? [y/N] "
        sys.stderr.write(question)
        sys.stderr.flush()
        if sys.stdin is None or sys.stdin.readline().strip().lower() not in ("y", "yes"):
            messages.info("nothing was deleted")
            return 0
    messages.info(f"deleted {size(delete(found))}")
    return 0
