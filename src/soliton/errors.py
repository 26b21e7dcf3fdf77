"""What went wrong, why, and what to do: the one family of exceptions a user ever reads.

    SolitonError            anything the user should read; printed in one place, `soliton.cli.main`
    ├── UsageError          the command line itself is wrong (exit status 1)
    ├── NotSupported        part of the contract that is not built yet
    ├── ImageError          no such image, not an image, truncated, wrong architecture
    ├── RegistryError       unauthorised, no such tag, digest mismatch
    │   └── Unreachable     no answer: what is in the cache may do
    ├── BuildError          a definition file or one of its steps
    ├── TargetError         the output exists, cannot be written, or the disk is full
    └── LaunchError         the container could not be started

This module does not print, and knows no exit but the number.
"""

from __future__ import annotations

#: Status of soliton's own failures, as the peers have it.
FAILURE = 255
#: Status of a wrong command line, as the peers have it.
USAGE = 1


class SolitonError(Exception):
    """A failure told in at most three parts.

    what: one clause naming the thing that failed, without a full stop.
    why: the cause, if it is known.
    remedy: what the user can do about it.
    status: the exit status of the process.
    """

    status = FAILURE

    def __init__(
        self, what: str, *, why: str | None = None, remedy: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.remedy) if part)


class UsageError(SolitonError):
    status = USAGE


class NotSupported(SolitonError):
    """A documented part of the contract that this version does not have. yet: it may have it one day."""

    def __init__(
        self, what: str, *, why: str | None = None, remedy: str | None = None, yet: bool = True
    ) -> None:
        super().__init__(f"{what} is not supported{' yet' if yet else ''}", why=why, remedy=remedy)


class ImageError(SolitonError):
    pass


class RegistryError(SolitonError):
    pass


class Unreachable(RegistryError):
    pass


class BuildError(SolitonError):
    pass


class TargetError(SolitonError):
    pass


class LaunchError(SolitonError):
    pass
