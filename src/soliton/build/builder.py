"""A whole build: the steps of every stage in order, then the image under its name, or nothing.

    result = build(request)

The request is settled by `soliton.api.build`; here is only the order of things, and the three forms of a result.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from soliton import messages
from soliton.build import assemble, cached, carry_out, layers, layout, lockfile, plans, record, stage, tree
from soliton.build.bootstrap import Sources
from soliton.build.definition import Definition
from soliton.build.job import Job, Settings, StageState
from soliton.build.step_cache import StepCache
from soliton.build.steps import Step, plan_steps
from soliton.build.workspace import Workspace, remove, workspace
from soliton.images import sif_write
from soliton.images.target import new_image
from soliton.launch.plan import Bind, DirectoryRoot, Identity, ImageRoot, ReadOnlySurface, TmpfsSurface
from soliton.record import replace

__all__ = ["Request", "build"]

#: Said once where steps have a root of one id.
RECORDED = "this user has no subordinate ids: owners that the steps give to files count in the image, those of links and pipes do not"
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


def build(request: Request) -> None:
    """Builds; when this returns the target is there. Raises BuildError, LaunchError, TargetError and what agents raise."""
    try:
        _build(request)
    finally:
        if request.cache is not None:
            request.cache.release()
            request.cache.trim()


def _build(request: Request) -> None:
    steps = plan_steps(request.definition, request.settings.choice)
    owner = request.identity if request.identity.uid_map else None
    with workspace(*request.tmpdir, owner, keep=request.keep) as place:
        job = Job(
            request.definition,
            request.settings,
            request.identity,
            place,
            request.sources,
            update=request.target if request.settings.choice.update else None,
            cache=None if request.settings.choice.update else request.cache,
        )
        whole = "" if request.sandbox else cached.whole(job, steps, request.target)
        if whole and request.cache is not None and request.cache.is_made(whole, request.target):
            messages.info(f"{request.target} is up to date: nothing it is made from has changed")
            return
        ledger = cached.Ledger(cached.recipe_name(job, request.target), len(steps), request.explain)
        if job.cache is not None:
            ledger.before = job.cache.last(ledger.recipe)
            job = replace(job, log=job.cache.log(ledger.recipe))
        stages = [stage.start(job, index) for index in range(len(request.definition.stages))]
        image = next(step for step in steps if step.kind == "image")
        if job.single_id and any(step.kind in ("setup", "post") for step in steps):
            messages.info(FLATTENED if request.sandbox or job.update else RECORDED)
        before, after = steps[: steps.index(image)], steps[steps.index(image) + 1 :]
        try:
            for number, step in enumerate(before, 1):
                _carry_out(job, stages, step, number, ledger)
        except BaseException:
            if job.cache is not None:
                job.cache.remember(ledger.recipe, ledger.now)
            raise
        number = len(before) + 1
        if job.update is not None:
            _announce(number, len(steps), replace(image, title=f"writing into {request.target}"))
            _update(job, stages[-1])
            remove(job.update + plans.STEP_FOLDER, owner)
            _tests(job, stages[-1], DirectoryRoot(job.update), after, number, len(steps))
        elif request.sandbox:
            _announce(number, len(steps), replace(image, title=f"making the sandbox {request.target}"))
            with new_directory(request.target, force=request.replace) as made:
                frozen = assemble.freeze(job, stages[-1])
                lock = _lock(job, stages, frozen)
                assemble.unpack(frozen, made)
                fix_modes(made, everything=request.fix_perms)
                _tests(job, stages[-1], DirectoryRoot(made), after, number, len(steps))
                _write_lock(request, lock)
        else:
            _announce(number, len(steps), replace(image, title=f"writing {request.target}"))
            parts = assemble.contents(job, stages[-1])
            sif = sif_write.plan_sif(parts.objects)
            with new_image(request.target, force=request.replace) as file:
                root = assemble.write_sif(job, parts, assemble.packing(job, parts), file, sif=sif)
                _tests(job, stages[-1], root, after, number, len(steps), pass_fds=(file.fd,))
                written = replace(root, path=file.readable)
                lock = _lock(job, stages, written)
                sif_write.finish(
                    file.fd,
                    sif,
                    partition_size=root.size,
                    architecture=parts.architecture,
                    time=None,
                    after=record.objects(job, stages, lock, file.fd, written),
                )
                _write_lock(request, lock)
            now = cached.whole(job, steps, request.target)
            if job.cache is not None and now and whole in ("", now):
                job.cache.made(now, request.target)
                if not stages[-1].force_matters:
                    other = cached.whole(job, steps, request.target, force=not request.settings.force)
                    job.cache.made(other, request.target)
        if job.cache is not None:
            job.cache.remember(ledger.recipe, ledger.now)


def _lock(job: Job, stages: list[StageState], root: ImageRoot) -> str:
    """The text of the build's lock, if there is to be one. Raises BuildError if it differs from the one that it is held to."""
    settings = job.settings
    if settings.held_to is not None and settings.held_packages:
        record.check(job, record.found(job, stages, root))
    if not settings.lock:
        return settings.kept_lock
    return lockfile.encode(settings.held_to or record.found(job, stages, root))


def _write_lock(request: Request, text: str) -> None:
    """Beside the recipe, as the last thing before the image gets its name."""
    if text and request.settings.held_to is None:
        lockfile.write(request.definition.name, text)


def _announce(number: int, count: int, step: Step) -> None:
    messages.info(f"[{number}/{count}] {step.title}")


def _carry_out(job: Job, stages: list[StageState], step: Step, number: int, ledger: cached.Ledger) -> None:
    if step.kind == "copy" and step.files is not None and step.files.stage is None:
        record.took_files(job, stages[step.stage], step.files)
    if step.kind in ("copy", "setup", "post") and not layers.is_updated(job, stages[step.stage]):
        cached.carry_out(job, stages, step, number, ledger, lambda: _do(job, stages, step))
    else:
        ledger.announce(number, step.title)
        with ledger.timed(number):
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


def _tests(
    job: Job,
    state: StageState,
    root: ImageRoot | DirectoryRoot,
    steps: tuple[Step, ...],
    done: int,
    count: int,
    *,
    pass_fds: tuple[int, ...] = (),
) -> None:
    for number, step in enumerate(steps, done + 1):
        _announce(number, count, step)
        _test(job, state, root, step, pass_fds)


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
        ended = carry_out.execute(
            plans.test(replace(scene, binds=(*binds, *scene.binds))),
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


@contextlib.contextmanager
def new_directory(final: str, *, force: bool) -> Iterator[str]:
    """A directory beside `final` that becomes it when the block ends without an exception."""
    folder, name = os.path.split(final)
    made = os.path.join(folder, f".{name[:200]}.partial-{secrets.token_hex(6)}")
    try:
        yield made
        assemble.replace_directory(made, final, force=force)
    finally:
        if os.path.lexists(made):
            remove(made, None)


def fix_modes(directory: str, *, everything: bool) -> None:
    """Directories their owner can enter, so that the sandbox can be used and removed; `--fix-perms`: files too."""
    for folder, names, files in os.walk(directory):
        for name in names:
            _grant(os.path.join(folder, name), 0o700)
        if everything:
            for name in files:
                _grant(os.path.join(folder, name), 0o600)


def _grant(path: str, bits: int) -> None:
    mode = os.lstat(path).st_mode
    if mode & bits != bits and not os.path.islink(path):
        with contextlib.suppress(OSError):
            os.chmod(path, (mode & 0o7777) | bits)
