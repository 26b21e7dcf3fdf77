"""RUN: a command in the container, as the stage's user, with what its mounts show."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence

from soliton import messages
from soliton.build import carry_out, emulation, layers, plans, record, sources, stage, trace
from soliton.build import ingredients as step_ingredients
from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile import mounts, needs, origins, stages, users
from soliton.build.dockerfile.config import Config
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.work import Current, Work, title
from soliton.build.step_cache import Ingredients
from soliton.errors import BuildError
from soliton.images import root_architecture
from soliton.launch.identity import renumbered
from soliton.launch.plan import (
    Bind,
    Copy,
    DirectoryRoot,
    Environment,
    Mount,
    Plan,
    Process,
    SynthesizedFile,
    Tmpfs,
)
from soliton.record import replace


def run(work: Work, current: Current, item: Instruction) -> None:
    config, index = current.config, current.state.index
    for key, _ in item.flags:
        if key not in ("mount", "network", "security"):
            raise BuildError(f"{work.place(item)}: RUN has no option `--{key}`")
    network = item.flag("network") or "default"
    if network not in ("default", "host", "none"):
        raise BuildError(
            f"{work.place(item)}: `RUN --network={network[:20]}` is not known", remedy="it is host or none"
        )
    if item.flag("security") not in (None, "sandbox"):
        raise BuildError(
            f"{work.place(item)}: `RUN --security={item.flag('security')}` is not possible for a user"
        )
    file = work.wishes.recipe.file

    def expand(key: str, value: str) -> str:
        if key == "from":
            return needs.origin(work.wishes.recipe, value, item)
        return work.expand(current, item, value)

    texts = [value for key, value in item.flags if key == "mount"]
    wanted = [mounts.read(text, file.name, item.line, expand) for text in texts]
    argv, script = _command(work, config, item)
    known: list[tuple[str, str]] = []
    known.append(("the network", network))
    for mount in wanted:
        if mount.kind == "ssh":
            what, given, option = "SSH agent", mount.id in work.wishes.agents, f"--ssh {mount.id}"
        elif mount.kind == "secret":
            what, given, option = (
                "secret",
                mount.id in work.wishes.hidden,
                f"--secret id={mount.id},src=FILE",
            )
        else:
            continue
        known.append((f"whether the {what} `{mount.id}` is given", str(given)))
        if mount.required and not given:
            raise BuildError(
                f"{work.place(item)}: the {what} `{mount.id}` is not given", remedy=f"`{option}`"
            )
    for mount in wanted:
        if mount.kind == "bind" and mount.stage:
            known.append((f"the stage `{mount.stage}`", work.stage_of(mount.stage, index, item).key))
        elif mount.kind == "bind":
            name, digest = mount.source or ".", work.digest(mount.source, item)
            record.took(work.job, current.state, {name: digest})
            known.append((f"`{name}`", digest))
    arguments = {key: value for key, value in config.arguments.items() if key not in stages.PREDEFINED}
    ingredients: Ingredients | None = (
        ("the command", json.dumps([argv, script])),
        ("the mounts", json.dumps([str(mount) for mount in wanted])),
        ("a build argument", json.dumps(sorted(arguments.items()))),
        ("the environment", json.dumps(sorted(config.env.items()))),
        ("the user", config.user),
        ("the working directory", config.workdir),
        *known,
        *step_ingredients.of_devices(work.job),
    )
    bound = work.job.settings.binds
    work.step(
        current,
        item,
        None if bound else ingredients,
        lambda: _execute(work, current, item, argv, script, wanted, network),
        "it sees directories of the host by `--bind`" if bound else "",
    )


def _command(work: Work, config: Config, item: Instruction) -> tuple[tuple[str, ...], str]:
    """argv, and the text of a script that it runs at plans.SCRIPT."""
    if item.json is not None:
        if not item.json:
            raise BuildError(f"{work.place(item)}: RUN without a command")
        return item.json, ""
    first = item.heredocs[0] if item.heredocs else None
    if first is not None and item.rest == first.mark:
        if first.body.startswith("#!"):
            return (plans.SCRIPT,), first.body
        return (*config.shell, first.body), ""
    text = item.rest
    for heredoc in item.heredocs:
        text += f"\n{heredoc.body}{heredoc.name}"
    return (*config.shell, text), ""


def _execute(
    work: Work,
    current: Current,
    item: Instruction,
    argv: tuple[str, ...],
    script: str,
    wanted: Sequence[mounts.Mount],
    network: str,
) -> None:
    job, state, config = work.job, current.state, current.config
    scene = state.scene
    root = layers.of_stage(job, state)
    user = users.find(root, config.user, work.place(item)) if config.user else users.User(0, 0, "/root")
    identity = scene.identity
    is_root = user.uid == 0
    if job.single_id:
        state.maker = (user.uid, user.gid)
        if not is_root:
            # The one id there is, under another number: all files seem to be this user's.
            identity = renumbered(identity, user.uid, user.gid)
    elif not is_root or user.gid != 0:
        identity = replace(identity, uid=user.uid, gid=user.gid, groups=(user.gid, *user.groups))
    environment = {
        **{key: job.settings.environment[key] for key in plans.PASSED if key in job.settings.environment},
        "PATH": configuration.DEFAULT_PATH,
        "HOME": user.home or "/",
        **plans.same_everywhere(scene),
        **{key: value for key, value in work.wishes.given.items() if key.upper() in stages.PREDEFINED},
        **config.variables,
    }
    with contextlib.ExitStack() as stack:
        _lock(work, stack, item, wanted)
        extra: list[Mount] = []
        for mount in wanted:
            extra += _mount(work, current, item, mount, environment)
        if script:
            extra.append(SynthesizedFile(plans.SCRIPT, script, 0o755, origin="RUN"))
        if is_root:
            extra.append(SynthesizedFile(plans.APT_CONF, plans.APT_AS_ROOT, origin="build"))
            environment["APT_CONFIG"] = plans.APT_CONF
        plan = Plan(
            identity=identity,
            root=scene.root,
            surface=scene.surface,
            mounts=(*plans.system(scene), *extra, *scene.binds),
            process=Process(
                action="exec",
                argv=argv,
                environment=Environment(fixed=environment, evaluate=False, scripts=False),
                cwd=(config.workdir,),
                cwd_required=True,
                umask=0o022,
                capabilities="all" if identity.uid == 0 else "none",
                emulate_root=scene.single_id and is_root,
                emulate_devices=scene.mapped and not scene.single_id,
                owners=scene.owners if is_root else None,
            ),
            namespaces=("pid", "uts", "net") if network == "none" else ("pid", "uts"),
            hostname=plans.HOSTNAME,
            name="RUN",
            reporter=scene.reporter,
        )
        made_for = state.architecture or root_architecture.of_root(root) or ""
        base = state.stage.header.get("from") or "the stage"
        plan = job.settings.furnish(emulation.furnished(plan, made_for, base, job.settings.environment))
        with contextlib.closing(trace.Watch(job.log)) as watch:
            ended = carry_out.execute(plan, job.settings.environment, watch=watch)
        if ended.status != 0 and job.settings.debug_shell:
            shell = replace(plan, process=replace(plan.process, argv=("/bin/sh",)))
            stage.debug_shell(job, shell, "RUN")
    if ended.status != 0:
        raise carry_out.failed(title(item), work.place(item), ended, job.log, job.workspace.path)


def _mount(
    work: Work,
    current: Current,
    item: Instruction,
    wanted: mounts.Mount,
    environment: dict[str, str],
) -> Iterator[Mount]:
    origin = "RUN --mount"
    at = configuration.joined(current.config.workdir, wanted.target) if wanted.target else ""
    match wanted.kind:
        case "tmpfs":
            yield Tmpfs(at, wanted.size, origin=origin)
        case "secret":
            content = work.wishes.hidden.get(wanted.id)
            if content is None:
                return
            if wanted.variable:
                environment[wanted.variable] = content.removesuffix("\n")
            if at:
                owner = None if work.job.single_id else wanted.owner
                yield SynthesizedFile(at, content, wanted.mode or 0o400, owner, origin=origin)
        case "ssh":
            socket = work.wishes.agents.get(wanted.id)
            if socket is not None:
                environment["SSH_AUTH_SOCK"] = at
                yield Bind(socket, at, origin=origin)
        case "cache":
            yield Bind(_kept_directory(work, current, wanted), at, read_only=wanted.read_only, origin=origin)
        case "bind":
            yield Bind(_shown(work, current, item, wanted), at, read_only=wanted.read_only, origin=origin)


def _kept_directory(work: Work, current: Current, wanted: mounts.Mount) -> str:
    """A directory that stays from build to build. It and its files may belong to mapped ids."""
    mode = wanted.mode or 0o755
    if work.job.cache is None:
        path = work.job.workspace.place(f"mount-{secrets.token_hex(4)}")
    else:
        path = _place_of(work, wanted)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if work.job.single_id or wanted.owner == (0, 0):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, mode)
        return path
    # One that is another's is made by root of the builder's namespace.
    folder, name = os.path.split("-".join(map(str, (path, *wanted.owner))))
    if not os.path.lexists(f"{folder}/{name}"):
        nothing = DirectoryRoot(work.job.workspace.folder(f"nothing-{secrets.token_hex(4)}"))
        made = Copy("/.", f"/{name}", follow=False, from_root=nothing, owner=wanted.owner, mode=mode)
        work.put(current.state, (made,), root=DirectoryRoot(folder))
    return f"{folder}/{name}"


def _place_of(work: Work, wanted: mounts.Mount) -> str:
    assert work.job.cache is not None
    kind = "single" if work.job.single_id else "many"
    name = hashlib.sha256(f"{kind}\n{wanted.id}".encode()).hexdigest()[:32]
    return os.path.join(work.job.cache.root, "mounts", name)


def _lock(work: Work, stack: contextlib.ExitStack, item: Instruction, wanted: Sequence[mounts.Mount]) -> None:
    """Locks the cache mounts that only one step may have at a time: always in the same order, so that nobody waits in a circle."""
    if work.job.cache is None:
        return
    for path in sorted(
        {_place_of(work, mount) for mount in wanted if mount.kind == "cache" and mount.locked}
    ):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                messages.info(f"{title(item)}: another step has its cache mount, waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)


def _shown(work: Work, current: Current, item: Instruction, wanted: mounts.Mount) -> str:
    """The directory or file of the host that a bind shows: of the context, or a copy of what a stage has there. What
    is written to it is forgotten.
    """
    context = work.wishes.context
    if not wanted.stage and wanted.read_only and not context.rules:
        place = contexts.resolve(context.root, wanted.source)
        whole = os.path.join(context.root, place)
        if os.path.lexists(whole):
            return whole
        raise BuildError(f"{work.place(item)}: the build context has no `{wanted.source}`")
    folder = work.job.workspace.folder(f"bind-{secrets.token_hex(4)}", mode=0o755)
    source = wanted.source or "/"
    if wanted.stage:
        origin = layers.of_stage(work.job, work.stage_of(wanted.stage, current.state.index, item))
        copy = Copy(sources.literal(source), "/it", follow=False, from_root=origin)
    else:
        copy = origins.of_context(work, source, "/it", item)
    work.put(current.state, (copy,), root=DirectoryRoot(folder))
    return f"{folder}/it"
