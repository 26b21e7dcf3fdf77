"""Which files of the host a line of `%files` means: patterns, braces, and what to say if there are none.

Patterns in another stage are the core's work, inside that stage's root.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from soliton.build.transfers import Transfer
from soliton.errors import BuildError

_BRACES = re.compile(r"(?<!\\)\{([^{}]*,[^{}]*)\}")
#: Alternatives that one line may stand for.
MOST_ALTERNATIVES = 1000


def find(transfer: Transfer, cwd: str, name: str) -> list[str]:
    """The sources of a transfer as the user would write them: relative ones stay so, patterns are gone.

    Raises BuildError, naming file and line, if there is none.
    """
    found: list[str] = []
    for alternative in alternatives(transfer.source):
        path = os.path.join(cwd, alternative)
        if os.path.lexists(path):
            found.append(alternative)
        elif glob.has_magic(alternative):
            found += sorted(glob.glob(alternative, root_dir=cwd, recursive=True))
    if not found:
        place = f"{name}:{transfer.line}"
        if glob.has_magic(transfer.source):
            raise BuildError(f"{place}: no file matches `{transfer.source}`", why=f"looked for in {cwd}")
        raise BuildError(
            f"{place}: no such file: `{transfer.source}`",
            why=None if transfer.source.startswith("/") else f"it is relative to {cwd}",
        )
    return found


def alternatives(source: str) -> Iterator[str]:
    """`a{b,c}` is `ab` and `ac`, as shells have it; braces without a comma are braces."""
    pending = [source]
    count = 0
    while pending:
        text = pending.pop()
        match = _BRACES.search(text)
        if match is None:
            count += 1
            if count > MOST_ALTERNATIVES:
                return
            yield text
        elif len(pending) < MOST_ALTERNATIVES:
            pending += [
                text[: match.start()] + choice + text[match.end() :]
                for choice in reversed(match[1].split(","))
            ]


def literal(path: str) -> str:
    """A path in which the core sees no pattern."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)
