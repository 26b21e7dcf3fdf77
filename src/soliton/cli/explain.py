"""`--explain` of exec, run, shell and test: for people, and as JSON for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from soliton.messages import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from soliton.api.explain import Explanation
    from soliton.api.pull import PullOptions
    from soliton.launch.request import ActionRequest


def show(request: ActionRequest, fetching: Callable[[], PullOptions], *, as_json: bool) -> int:
    from soliton.api.explain import explain

    found = explain(request, fetching)
    if as_json:
        text = json.dumps(asdict(found), indent="\t")
    else:
        text = "\n".join(printable(line) for line in lines(found))
    sys.stdout.write(text + "\n")
    return 0


def lines(found: Explanation) -> Iterator[str]:
    yield from table(
        [
            ("Image", f"{found.image} ({found.kind})"),
            ("Runs", found.runs),
            ("As", found.identity),
            ("Root", found.root),
            ("Starts in", ", else ".join(found.starts_in)),
            ("Umask", found.umask),
            *(
                ("Namespaces" if at == 0 else "", f"{name}: {why}")
                for at, (name, why) in enumerate(found.namespaces)
            ),
            *(
                ("Helpers" if at == 0 else "", f"{argv} ({why})")
                for at, (argv, why) in enumerate(found.helpers)
            ),
        ]
    )
    yield ""
    yield "Mounts, in order"
    rows = [(f"  {m.target}", m.what + (" (not here, so left out)" if m.absent else ""), m.because) for m in found.mounts]  # fmt: skip
    yield from table(rows)
    yield ""
    yield "Environment"
    passed = [v.name for v in found.environment if v.because == "your environment"]
    rest = [v for v in found.environment if v.because != "your environment"]
    yield from table(
        [(f"  {v.name}" + (f"={_short(v.value)}" if v.value is not None else ""), v.because) for v in rest]
    )
    if passed:
        yield "  from your environment: " + " ".join(passed)
    reasons = dict.fromkeys(why for _, why in found.left_out)
    for reason in reasons:
        yield f"  left out, {reason}: " + " ".join(name for name, why in found.left_out if why == reason)


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns, each but the last as wide as its widest field within reason."""
    widths = [min(48, max(len(row[at]) for row in rows)) for at in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        yield "  ".join(field.ljust(width) for field, width in zip(row, [*widths, 0], strict=True)).rstrip()
