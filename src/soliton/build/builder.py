"""A definition file carried out: the steps of every stage in order, then the image under its name, or nothing.

    build(request)

The request is settled by `soliton.api.build`; what every build has around its steps is in `session`, the forms of its end in `result`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from soliton import messages
from soliton.build import (
    assemble,
    cached,
    carry_out,
    emulation,
    layers,
    layout,
    plans,
    record,
    result,
    session,
    stage,
    tree,
)
from soliton.build.job import Job, StageState
from soliton.build.session import Request
from soliton.build.steps import Step, plan_steps
from soliton.build.workspace import Workspace, remove
from soliton.launch.plan import Bind, DirectoryRoot, ImageRoot, ReadOnlySurface, TmpfsSurface
from soliton.record import replace

__all__ = ["Request", "build"]


def build(request: Request) -> None:
    """Builds; when this returns the target is there. Raises BuildError, LaunchError, TargetError and what agents raise."""
    steps = plan_steps(request.definition, request.settings.choice)
    with session.job(request) as job:
        whole = "" if request.sandbox else cached.whole(job, steps, request.target)
        if whole and job.cache is not None and job.cache.is_made(whole, request.target):
            messages.info(f"{request.target} is up to date: nothing it is made from has changed")
            return
        with session.steps(job, request, len(steps)) as (logged, ledger):
            last = _build(logged, request, steps, ledger)
        now = "" if request.sandbox else cached.whole(job, steps, request.target)
        if job.cache is not None and now and whole in ("", now):
            job.cache.made(now, request.target)
            if not last.force_matters:
                other = cached.whole(job, steps, request.target, force=not request.settings.force)
                job.cache.made(other, request.target)


def _build(job: Job, request: Request, steps: tuple[Step, ...], ledger: cached.Ledger) -> StageState:
    """The last stage, whose image is under its name now."""
    stages = [stage.start(job, index) for index in range(len(request.definition.stages))]
    if any(step.kind in ("setup", "post") for step in steps):
        session.tell_of_owners(job, request)
    at = next(number for number, step in enumerate(steps) if step.kind == "image")
    for step in steps[:at]:
        _carry_out(job, stages, step, ledger)

    def tests(root: ImageRoot | DirectoryRoot, fds: tuple[int, ...]) -> None:
        for step in steps[at + 1 :]:
            ledger.announce(step.title)
            _test(job, stages[-1], root, step, fds)

    if job.update is not None:
        ledger.announce(f"writing into {request.target}")
        _update(job, stages[-1])
        remove(job.update + plans.STEP_FOLDER, job.identity if job.unprivileged else None)
        tests(DirectoryRoot(job.update), ())
        return stages[-1]
    ledger.announce(f"{'making the sandbox' if request.sandbox else 'writing'} {request.target}")
    result.write(job, request, stages, assemble.contents(job, stages[-1]), tests)
    return stages[-1]


def _carry_out(job: Job, stages: list[StageState], step: Step, ledger: cached.Ledger) -> None:
    if step.kind == "copy" and step.files is not None and step.files.stage is None:
        record.took_files(job, stages[step.stage], step.files)
    if step.kind in ("copy", "setup", "post") and not layers.is_updated(job, stages[step.stage]):
        cached.carry_out(job, stages, step, ledger, lambda: _do(job, stages, step))
    else:
        ledger.announce(step.title)
        with ledger.timed():
            _do(job, stages, step)


def _do(job: Job, stages: list[StageState], step: Step) -> None:
    state = stages[step.stage]
    if job.update is not None and step.stage == len(stages) - 1 and state.base is None and step.kind != "pre":
        stage.start_update(job, state, job.update)
    match step.kind:
        case "pre":
            stage.pre(job, state, step)
        case "bootstrap":
            stage.start_from(job, state)
        case "copy":
            stage.copy(job, state, step, stages)
        case "setup":
            stage.setup(job, state, step)
        case "post":
            if state.temporary is None:
                state.temporary = stage.temporary_names(job, state)
            stage.post(job, state, step)
        case "freeze":
            state.frozen = assemble.freeze(job, state)
        case "test":
            assert state.frozen is not None
            _test(job, state, state.frozen, step)
        case "image":
            raise AssertionError("the last stage's image is made by `build`")


def _test(
    job: Job,
    state: StageState,
    root: ImageRoot | DirectoryRoot,
    step: Step,
    pass_fds: tuple[int, ...] = (),
) -> None:
    """`%test` in the finished image, which it cannot change."""
    assert step.section is not None
    if isinstance(root, ImageRoot):
        root = replace(root, ids="caller" if job.single_id else "stored")
    surface = TmpfsSurface(64 << 20) if job.settings.writable_test else ReadOnlySurface()
    scene = replace(state.scene, root=root, surface=surface)
    with _temporary(job.workspace, state.folder) as binds:
        plan = plans.test(replace(scene, binds=(*binds, *scene.binds)))
        ended = carry_out.execute(
            job.settings.furnish(
                emulation.furnished(plan, state.architecture, "the image", job.settings.environment)
            ),
            job.settings.environment,
            pass_fds=pass_fds,
        )
    carry_out.check(ended, step.section, job.definition.name)


@contextlib.contextmanager
def _temporary(place: Workspace, folder: str) -> Iterator[tuple[Bind, ...]]:
    """Directories of the test's own at /tmp and /var/tmp, as a container has them."""
    name = f"tmp-{secrets.token_hex(4)}"
    yield tuple(
        Bind(place.folder(folder, f"{name}{number}", mode=0o1777), target, origin="%test")
        for number, target in enumerate(("/tmp", "/var/tmp"))
    )


def _update(job: Job, state: StageState) -> None:
    """Metadata into a sandbox that the steps have written to."""
    assert job.update is not None
    if state.base is None:
        stage.start_update(job, state, job.update)
    after, _ = tree.read(DirectoryRoot(job.update))
    finished = assemble.finish(job, state, after)
    found = layout.look(DirectoryRoot(job.update), finished.above)
    stage.put(job, state, layout.plan(finished.above, found))
    for path in finished.removed:
        with contextlib.suppress(OSError):
            os.unlink(job.update + path)
