"""The steps of one stage, carried out: one function per kind of step.

There is no unpacked root: the base lies below, read-only, and what steps write goes to the stage's upper directory. A base
that is a sandbox being updated is the exception: it is written itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence

from soliton import core, messages
from soliton.build import (
    carry_out,
    console,
    emulation,
    epoch,
    ingredients,
    layers,
    layout,
    plans,
    record,
    script,
    sources,
    step_cache,
    trace,
    tree,
)
from soliton.build.bootstrap import Base, Request, bootstrap
from soliton.build.definition import Files, Section, Stage
from soliton.build.job import Job, StageState
from soliton.build.steps import Step
from soliton.errors import BuildError
from soliton.images import architecture, metadata, root_architecture
from soliton.images.metadata_layer import Entry
from soliton.launch.plan import Copy, DirectoryRoot, DirectSurface, Plan, Root, UpperSurface
from soliton.record import replace

#: What a step needs where all its work is done by the core.
NOTHING_TO_RUN = ("/bin/sh", "-c", ":")


def start(job: Job, index: int) -> StageState:
    """A stage before its first step."""
    folder = f"stage-{index + 1}"
    job.workspace.folder(folder)
    nothing = job.workspace.folder(folder, "empty", mode=0o755)
    scene = plans.Scene(
        identity=job.identity,
        root=DirectoryRoot(nothing),
        surface=DirectSurface(),
        environment=job.settings.environment,
        injected=job.settings.injected,
        hosts=_host_file("/etc/hosts"),
        resolv_conf=_host_file("/etc/resolv.conf"),
        binds=job.settings.binds,
        reporter=carry_out.reporter(job.workspace.place(folder, "failure.json")),
        epoch=job.settings.epoch,
    )
    return StageState(index, job.definition.stages[index], folder, scene)


def pre(job: Job, state: StageState, step: Step) -> None:
    """`%pre`: on the host, as the user, before there is anything."""
    assert step.section is not None
    path = _script_file(job, state, step.section)
    variables = {
        **job.settings.environment,
        **plans.both("ENVIRONMENT", metadata.POST_ENVIRONMENT),
        **plans.both("ROOTFS", _mount_point(job, state)),
    }
    ended = carry_out.host_script(script.command(step.section, path), variables, job.settings.cwd)
    carry_out.check(ended, step.section, job.definition.name)


def start_from(job: Job, state: StageState) -> None:
    """The bootstrap: a base, an upper directory over it, and what every step needs in that."""
    request = Request(
        header=state.stage.header,
        name=job.definition.name,
        workspace=job.workspace,
        folder=state.folder,
        scene=state.scene,
        sources=job.sources,
        execute=lambda plan: _agent_step(job, state, plan),
        capture=lambda plan: carry_out.capture(plan, job.settings.environment),
        environment=job.settings.environment,
        cwd=job.settings.cwd,
        say=messages.warning,
        pinned=record.pinned(job, state),
        machine=job.settings.architecture,
    )
    base = kept_base(job, state, request)
    root = layers.with_ids(job, base.root)
    state.base = base
    state.architecture = base.architecture or root_architecture.of_root(root) or ""
    state.base_tree, _ = tree.read(root)
    if base.oci_config is not None:
        # Written by the conversion for an image of its own; this build's definition takes its place.
        state.base_tree.pop(metadata.DEFINITION, None)
    if not base.is_image:
        state.base_tree = metadata.with_entries(state.base_tree, metadata.base())
    elif not metadata.has_scripts(state.base_tree):
        state.base = base = replace(base, bare=True)
        state.base_tree = {**metadata.with_entries({}, metadata.supplement()), **state.base_tree}
    state.epoch = epoch.of_base(base, state.base_tree) if job.settings.epoch is None else job.settings.epoch
    record.took_base(job, state)
    if job.cache is not None and not state.key:
        known = ingredients.of_base(job, state.stage.header, base.digest)
        state.key = step_cache.key_of(known) if known else secrets.token_hex(32)
    lay_out(job, state)


def lay_out(job: Job, state: StageState) -> None:
    """What every step needs, in the directory that the first of them writes to."""
    apps = metadata.for_apps(_apps(state.stage), state.base_tree)
    wanted = [*layout.NEEDED, *apps]
    found = layout.look(layers.with_ids(job, state.started.root), wanted)
    open_upper(job, state)
    assert state.upper is not None
    layout.write(state.upper, layout.plan(wanted, found), found if job.single_id else None)


def kept_base(job: Job, state: StageState, request: Request) -> Base:
    """What the agent gives. What it makes of packages is kept as the result of a step is."""
    if request.header.agent not in ingredients.MAKING:
        return bootstrap(request)
    path = None
    with contextlib.ExitStack() as stack:
        if job.cache is not None:
            state.key = step_cache.key_of(ingredients.of_making(job, request.header))
            path = job.cache.find(state.key)
            if path is None and not job.cache.anew:
                told = f"another build makes this base of `{request.header.agent}`, waiting for its result"
                stack.enter_context(job.cache.making(state.key, lambda: messages.info(told)))
                path = job.cache.find(state.key)
        if path is None:
            base = bootstrap(request)
            assert isinstance(base.root, DirectoryRoot)
            time = epoch.of_base(base, {}) if job.settings.epoch is None else job.settings.epoch
            path = layers.keep_directory(job, base.root.path, state.key, time)
    return Base(layers.image(job, path), is_image=False)


def open_upper(job: Job, state: StageState) -> None:
    """Over what there is, a directory that the next step writes to; none if there is one already."""
    if state.upper is not None or layers.is_updated(job, state):
        return
    root = layers.of_stage(job, state)
    found = core.read_files(root, ["/"], limit=0).get("/")
    name = secrets.token_hex(4)
    state.upper = job.workspace.folder(
        state.folder, f"upper-{name}", mode=found.mode & 0o7777 if found is not None else 0o755
    )
    work = job.workspace.folder(state.folder, f"work-{name}")
    state.scene = _scene(state, root, UpperSurface(state.upper, work))


def start_update(job: Job, state: StageState, sandbox: str) -> None:
    """In place of the bootstrap: the sandbox itself is the root, and is written."""
    root = DirectoryRoot(sandbox)
    state.base = Base(root)
    state.architecture = of_programs(root)
    state.scene = _scene(state, root, DirectSurface())
    state.base_tree, _ = tree.read(root)
    # What exists already is changed now.
    state.epoch = int(time.time()) if job.settings.epoch is None else job.settings.epoch
    apps = metadata.for_apps(_apps(state.stage), state.base_tree)
    wanted = [*layout.NEEDED, *apps]
    put(job, state, layout.plan(wanted, layout.look(root, wanted)))


def copy(job: Job, state: StageState, step: Step, stages: Sequence[StageState]) -> None:
    """`%files`, `%files from STAGE`, `%appfiles APP`."""
    assert step.files is not None
    source = next((s for s in stages if step.files.stage and s.stage.name == step.files.stage), None)
    copies = tuple(
        plan_copies(
            step.files,
            layers.of_stage(job, source) if source else None,
            job.settings.cwd,
            job.definition.name,
            state.epoch,
        )
    )
    for item in copies:
        messages.verbose(f"copying {item.source} to {item.target}")
    _on_host(job, state, copies=copies)


def plan_copies(
    files: Files, from_root: Root | None, cwd: str, name: str, time: int | None = None
) -> list[Copy]:
    """The copies of a section. Sources on the host are looked for in `cwd`; in another stage they are relative to its
    root. name: the definition, for messages. time: of the copies of the host's files, which bear the time of a checkout.
    """
    copies = []
    for transfer in files.transfers:
        if from_root is not None:
            source = f"/{transfer.source.lstrip('/')}"
            copies.append(Copy(source, _inside(transfer.target), follow=False, from_root=from_root))
            continue
        found = sources.find(transfer, cwd, name)
        target = transfer.target
        if len(found) > 1 and target is not None and not target.endswith("/"):
            target += "/"
        for path in found:
            inside = target if target is not None else path
            inside = f"/scif/apps/{files.app}/{inside.lstrip('/')}" if files.app else _inside(inside)
            copies.append(Copy(sources.literal(os.path.join(cwd, path)), inside, time=time))
    return copies


def _inside(target: str | None) -> str:
    """A target as an absolute path; none stays none, which is the source's own path."""
    return "" if target is None else f"/{target.lstrip('/')}"


def setup(job: Job, state: StageState, step: Step) -> None:
    """`%setup`: on the host, with the root at a directory."""
    assert step.section is not None
    path = _script_file(job, state, step.section)
    ended = _on_host(job, state, script.command(step.section, path))
    carry_out.check(ended, step.section, job.definition.name)


def post(job: Job, state: StageState, step: Step) -> None:
    """`%post`: in the container."""
    assert step.section is not None
    if hint := script.unheeded(step.section):
        messages.warning(hint)
    base = state.stage.header.get("from") or state.stage.header.agent
    numbered = script.is_traced(step.section)
    text = (trace.FIRST if numbered else "") + step.section.body
    # A base of nothing does not say; what earlier steps have brought may.
    made_for = state.architecture or root_architecture.of_root(layers.of_stage(job, state)) or ""

    def furnish(plan: Plan) -> Plan:
        emulated = emulation.furnished(plan, made_for, base, job.settings.environment)
        return job.settings.furnish(emulated)

    plan = furnish(plans.in_container(state.scene, script.command(step.section, plans.SCRIPT), text))
    with contextlib.closing(
        trace.Watch(job.log, script=step.section.body.splitlines() if numbered else None)
    ) as watch:
        ended = carry_out.execute(plan, job.settings.environment, watch=watch)
    if ended.status != 0 and job.settings.debug_shell:
        debug_shell(job, furnish(plans.in_container(state.scene, ("/bin/sh",), text)), "%post")
    line = _line_of(job, step.section, watch.line)
    carry_out.check(
        ended, step.section, job.definition.name, line=line, log=job.log, folder=job.workspace.path
    )


def debug_shell(job: Job, plan: Plan, title: str) -> None:
    """A shell where a step has failed, with everything that it has written."""
    messages.info(
        f"{title} has failed; this is a shell in it, and its script is {plans.SCRIPT}. `exit` ends the build"
    )
    carry_out.interactive(plan, job.settings.environment)


def _line_of(job: Job, section: Section, line: int) -> int:
    """The line of the recipe that is this one of the script; 0 if that cannot be told (sections that were joined)."""
    body, whole = section.body.splitlines(), job.definition.text.splitlines()
    at = section.line + line
    if 0 < line <= len(body) and at <= len(whole) and whole[at - 1].strip() == body[line - 1].strip():
        return at
    return 0


def temporary_names(job: Job, state: StageState) -> frozenset[str]:
    """What lies in the stage's temporary directories: what %post leaves there does not enter the image."""
    found = core.read_files(layers.of_stage(job, state), ["/tmp/*", "/var/tmp/*"], limit=0)
    return frozenset(found)


def put(job: Job, state: StageState, entries: Sequence[Entry]) -> None:
    """Entries into a root that is written itself. The core puts them there, following links inside the root only."""
    folder = job.workspace.folder(state.folder, f"put-{os.urandom(4).hex()}")
    copies = []
    for number, entry in enumerate(entries):
        name = entry.path.rsplit("/", 1)[1]
        source = f"{folder}/{number}/{name}"
        os.makedirs(os.path.dirname(source))
        layout.write(os.path.dirname(source), [replace(entry, path=f"/{name}")])
        copies.append(
            Copy(sources.literal(source), os.path.dirname(entry.path).rstrip("/") + "/", follow=False)
        )
    if copies:
        _on_host(job, state, copies=tuple(copies))


def _on_host(
    job: Job, state: StageState, argv: tuple[str, ...] = NOTHING_TO_RUN, copies: tuple[Copy, ...] = ()
) -> console.Ended:
    plan = plans.on_host(state.scene, argv, _mount_point(job, state), job.settings.cwd, copies)
    return carry_out.execute(plan, job.settings.environment)


def _agent_step(job: Job, state: StageState, plan: Plan) -> None:
    ended = carry_out.execute(plan, job.settings.environment)
    if ended.status != 0:
        raise BuildError(
            f"`{os.path.basename(plan.process.argv[0])}` failed with exit status {ended.status} "
            f"({job.definition.name}:{state.stage.header.line})",
            why="its last output: " + " | ".join(ended.last_lines[-3:]) if ended.last_lines else None,
        )


def _scene(state: StageState, root: Root, surface: UpperSurface | DirectSurface) -> plans.Scene:
    return replace(state.scene, root=root, surface=surface, epoch=state.epoch)


def of_programs(root: Root) -> str:
    """For which architecture a root is made, this machine's where nothing in it says."""
    return root_architecture.of_root(root) or architecture.host_architecture()


def _apps(stage: Stage) -> list[metadata.App]:
    return [
        metadata.App(
            name=app,
            environment=stage.body("appenv", app) or "",
            runscript=stage.body("apprun", app) or "",
            startscript=stage.body("appstart", app) or "",
            test=stage.body("apptest", app) or "",
            help=stage.body("apphelp", app) or "",
            labels=stage.body("applabels", app) or "",
        )
        for app in stage.apps
    ]


def _mount_point(job: Job, state: StageState) -> str:
    path = job.workspace.place(state.folder, "root")
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def _script_file(job: Job, state: StageState, section: Section) -> str:
    path = job.workspace.place(state.folder, f"{section.name}.script")
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(section.body)
    os.chmod(path, 0o755)
    return path


def _host_file(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError:
        return None
