"""What every build has around its steps, whatever its recipe is written in: a workspace, a job, the telling of steps, the cache let go.

with session.job(request) as job:
    with session.steps(job, request, count) as (job, ledger):
        …
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from soliton import messages
from soliton.build import cached
from soliton.build.bootstrap import Sources
from soliton.build.definition import Definition
from soliton.build.job import Job, Settings
from soliton.build.step_cache import StepCache
from soliton.build.workspace import workspace
from soliton.launch.plan import Identity
from soliton.record import replace

#: Said once where steps have a root of one id.
RECORDED = "this user has no subordinate ids: owners that the steps give to files are written down, and count in the image"
#: The same where the result is a directory.
FLATTENED = (
    "this user has no subordinate ids: whatever owner the steps give a file, it belongs to you in the sandbox"
)


@dataclass(frozen=True)
class Request:
    """target: absolute. sandbox: a directory instead of a file. replace: an existing target may go. fix_perms: its owner may read and write everything.

    tmpdir: (directory, who says so) for the workspace. keep: the workspace stays, to be looked into.
    cache: of steps; explain: say why a step is not taken from it.
    """

    definition: Definition
    target: str
    settings: Settings
    identity: Identity
    sources: Sources
    tmpdir: tuple[str, str]
    sandbox: bool = False
    replace: bool = False
    fix_perms: bool = False
    keep: bool = False
    cache: StepCache | None = None
    explain: bool = False


@contextlib.contextmanager
def job(request: Request) -> Iterator[Job]:
    """The job of a request; at its end the workspace is gone, and results in the cache may go."""
    owner = request.identity if request.identity.uid_map else None
    update = request.settings.choice.update
    try:
        with workspace(*request.tmpdir, owner, keep=request.keep) as place:
            yield Job(
                request.definition,
                request.settings,
                request.identity,
                place,
                request.sources,
                update=request.target if update else None,
                cache=None if update else request.cache,
            )
    finally:
        if request.cache is not None:
            request.cache.release()
            request.cache.trim()


@contextlib.contextmanager
def steps(job: Job, request: Request, count: int) -> Iterator[tuple[Job, cached.Ledger]]:
    """The same job with a log, and what tells of its steps; what they were made from is remembered, however this ends."""
    ledger = cached.Ledger(cached.recipe_name(job, request.target), count, request.explain)
    if job.cache is not None:
        ledger.before = job.cache.last(ledger.recipe)
        job = replace(job, log=job.cache.log(ledger.recipe))
    try:
        yield job, ledger
    finally:
        if job.cache is not None:
            job.cache.remember(ledger.recipe, ledger.now)


def tell_of_owners(job: Job, request: Request) -> None:
    """To a user whose steps have a root of one id only."""
    if job.single_id:
        messages.info(FLATTENED if request.sandbox or job.update else RECORDED)
