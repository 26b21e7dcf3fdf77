"""A Dockerfile built: its stages one after the other, each instruction a step over the same stack, cache and writer that definition
files have.

    RUN, COPY, ADD, WORKDIR   a layer, taken from the cache if all that it depends on is as it was
    the others                say something of the image (`config`), and cost nothing
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soliton import core, messages
from soliton.build import (
    assemble,
    builder,
    cached,
    carry_out,
    layers,
    plans,
    record,
    sources,
    stage,
    step_cache,
    trace,
)
from soliton.build.bootstrap import localimage
from soliton.build.bootstrap.download import download
from soliton.build.definition import Definition
from soliton.build.definition import Stage as DefinedStage
from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile import mounts, parser, stages, users, words
from soliton.build.dockerfile.config import Config
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.stages import Recipe
from soliton.build.header import Entry, Header
from soliton.build.job import Job, StageState
from soliton.build.step_cache import PARENT, Ingredients
from soliton.build.workspace import workspace
from soliton.errors import BuildError, NotSupported
from soliton.images import labels, metadata, ociconfig, sif_write, target
from soliton.images.detect import open_image
from soliton.images.metadata_layer import File
from soliton.launch.plan import (
    Bind,
    Copy,
    DirectoryRoot,
    DirectSurface,
    Environment,
    ImageRoot,
    Mount,
    Plan,
    Process,
    SynthesizedFile,
    Tmpfs,
)
from soliton.record import replace

#: Instructions that write files.
STEPS = ("RUN", "COPY", "ADD", "WORKDIR")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: Bytes that ADD takes from an address.
LARGEST_DOWNLOAD = 1 << 30
_SHOWN = 60


@dataclass(frozen=True)
class Wishes:
    """given: `--build-arg`. hidden: secrets by id, their contents."""

    recipe: Recipe
    context: contexts.Context
    given: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Stage:
    """What is known of one stage while it is built."""

    state: StageState
    config: Config
    base_config: bytes | None = None


class _Build:
    def __init__(self, request: builder.Request, wishes: Wishes, job: Job, ledger: cached.Ledger) -> None:
        self.request, self.wishes, self.job, self.ledger = request, wishes, job, ledger
        self.recipe = wishes.recipe
        self.file = wishes.recipe.file
        self.number = 0
        self.done: dict[int | str, _Stage] = {}
        self.announced = False

    def place(self, item: Instruction) -> str:
        return f"{self.file.name}:{item.line}"

    # Stages

    def stage(self, number: int) -> _Stage:
        """A stage, built with all that it needs."""
        if number in self.done:
            return self.done[number]
        wanted = self.recipe.stages[number]
        if isinstance(wanted.base, int):
            below = self.stage(wanted.base)
            state = stage.start(self.job, number)
            state.base, state.base_tree, state.epoch = (
                below.state.base,
                below.state.base_tree,
                below.state.epoch,
            )
            state.architecture, state.key = below.state.architecture, below.state.key
            state.base_digest = below.state.base_digest
            state.layers = list(below.state.layers)
            if not state.layers:
                stage.lay_out(self.job, state)
            current = _Stage(state, below.config.copy(), below.base_config)
        else:
            current = self.start(number)
        triggers = current.config.config.pop("OnBuild", None) or []
        self.done[number] = current
        current.config.config.pop("_cmd_is_own", None)
        for text in triggers:
            self.instruction(current, parser.single(text, wanted.line, "\\", self.file.name))
        for item in wanted.instructions:
            self.instruction(current, item)
        return current

    def start(self, number: int) -> _Stage:
        state = stage.start(self.job, number)
        self.announce(f"FROM {state.stage.header.get('from') or 'scratch'}")
        stage.start_from(self.job, state)
        base = state.started.oci_config
        if base is None and state.stage.header.agent == "localimage":
            shown = state.stage.header.get("from")
            base = localimage.oci_config(open_image(os.path.join(self.job.settings.cwd, shown), shown=shown))
        try:
            found = json.loads(base) if base else {}
        except ValueError:
            found = {}
        return _Stage(state, Config(found if isinstance(found, dict) else {}), base)

    def other(self, word: str, before: int, item: Instruction) -> StageState:
        """What `--from=` names: an earlier stage, or an image."""
        number = self.recipe.find(word, before)
        if number is not None:
            return self.stage(number).state
        if word not in self.done:
            index = next(
                index
                for index, part in enumerate(self.job.definition.stages)
                if index >= len(self.recipe.stages) and part.header.get("stage") == word
            )
            self.done[word] = self.start(index)
        return self.done[word].state

    # Instructions

    def announce(self, title: str, *, found: bool = False) -> None:
        self.number += 1
        self.ledger.announce(self.number, title, found=found)

    def instruction(self, current: _Stage, item: Instruction) -> None:
        if item.word not in STEPS:
            configuration.apply(current.config, item, self.file, self.wishes.given, self.recipe.arguments)
            return
        match item.word:
            case "RUN":
                self.run(current, item)
            case "WORKDIR":
                configuration.apply(current.config, item, self.file, self.wishes.given, self.recipe.arguments)
                self.workdir(current, item)
            case _:
                self.copy(current, item)

    def step(self, current: _Stage, item: Instruction, known: Ingredients, work: Any) -> None:
        """One step: found in the cache, or done and kept there."""
        state, cache = current.state, self.job.cache
        title = _title(item)
        known = ((PARENT, state.key), *known)
        key = step_cache.key_of(known) if cache is not None else ""
        path = cache.find(key) if cache is not None else None
        self.announce(title, found=path is not None)
        if path is not None:
            self.ledger.now.append(known)
            layers.take(self.job, state, path)
            state.key = key
            return
        anew = cache is None or cache.anew
        self.ledger.note(known, title, "nothing is taken from the cache" if anew else "")
        stage.open_upper(self.job, state)
        with self.ledger.timed(self.number), cached.logged(self.job):
            work()
        if cache is not None:
            layers.keep(self.job, state, key)
            state.key = key
        else:
            layers.keep_aside(self.job, state)

    def run(self, current: _Stage, item: Instruction) -> None:
        config, index = current.config, current.state.index
        for key, _ in item.flags:
            if key not in ("mount", "network", "security"):
                raise BuildError(f"{self.place(item)}: RUN has no option `--{key}`")
        if item.flag("network") not in (None, "default", "host"):
            raise NotSupported(f"`RUN --network={item.flag('network')}` ({self.place(item)})")
        if item.flag("security") not in (None, "sandbox"):
            raise BuildError(
                f"{self.place(item)}: `RUN --security={item.flag('security')}` is not possible for a user"
            )
        variables = config.variables
        wanted = [
            mounts.read(
                words.expand(value, variables, self.file.escape, self.file.name, item.line),
                self.file.name,
                item.line,
            )
            for key, value in item.flags
            if key == "mount"
        ]
        argv, script = self.command(config, item)
        secrets_given = []
        for mount in wanted:
            if mount.kind == "secret":
                secrets_given.append(
                    (f"whether the secret `{mount.id}` is given", str(mount.id in self.wishes.hidden))
                )
                if mount.required and mount.id not in self.wishes.hidden:
                    raise BuildError(
                        f"{self.place(item)}: the secret `{mount.id}` is not given",
                        remedy=f"`--secret id={mount.id},src=FILE`",
                    )
        seen = []
        for mount in wanted:
            if mount.kind == "bind":
                if mount.stage:
                    seen.append((f"the stage `{mount.stage}`", self.other(mount.stage, index, item).key))
                else:
                    seen.append((f"`{mount.source or '.'}`", self.digest(mount.source, item)))
        arguments = {key: value for key, value in config.arguments.items() if key not in stages.PREDEFINED}
        known: Ingredients = (
            ("the command", json.dumps([argv, script])),
            ("the mounts", json.dumps([str(mount) for mount in wanted])),
            ("a build argument", json.dumps(sorted(arguments.items()))),
            ("the environment", json.dumps(sorted(config.env.items()))),
            ("the user", config.user),
            ("the working directory", config.workdir),
            *secrets_given,
            *seen,
        )
        self.step(current, item, known, lambda: self.execute(current, item, argv, script, wanted))

    def command(self, config: Config, item: Instruction) -> tuple[tuple[str, ...], str]:
        """argv, and the text of a script that it runs at plans.SCRIPT."""
        if item.json is not None:
            if not item.json:
                raise BuildError(f"{self.place(item)}: RUN without a command")
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

    def execute(
        self,
        current: _Stage,
        item: Instruction,
        argv: tuple[str, ...],
        script: str,
        wanted: Sequence[mounts.Mount],
    ) -> None:
        state, config = current.state, current.config
        scene = state.scene
        root = layers.of_stage(self.job, state)
        user = users.find(root, config.user, self.place(item)) if config.user else users.User(0, 0, "/root")
        identity = scene.identity
        if user.uid != 0 or user.gid != 0:
            if self.job.single_id:
                messages.warning(
                    f"{self.place(item)}: this user has no subordinate ids, so RUN is root and not `{config.user}`"
                )
            else:
                identity = replace(identity, uid=user.uid, gid=user.gid, groups=(user.gid, *user.groups))
        as_root = identity.uid == 0
        environment = {
            **{
                key: self.job.settings.environment[key]
                for key in plans.PASSED
                if key in self.job.settings.environment
            },
            "PATH": configuration.DEFAULT_PATH,
            "HOME": user.home or "/",
            **plans.same_everywhere(scene),
            **config.variables,
        }
        with contextlib.ExitStack() as stack:
            extra: list[Mount] = []
            for mount in wanted:
                extra += self.mount(stack, current, item, mount, environment)
            if script:
                extra.append(SynthesizedFile(plans.SCRIPT, script, 0o755, origin="RUN"))
            if scene.single_id:
                extra.append(SynthesizedFile(plans.APT_CONF, plans.APT_AS_ROOT, origin="single-id root"))
                environment["APT_CONFIG"] = plans.APT_CONF
            plan = Plan(
                identity=identity,
                root=scene.root,
                surface=scene.surface,
                mounts=(*plans.system(scene), *extra),
                process=Process(
                    action="exec",
                    argv=argv,
                    environment=Environment(fixed=environment, evaluate=False, scripts=False),
                    cwd=(config.workdir,),
                    cwd_required=True,
                    umask=0o022,
                    capabilities="all" if as_root else "none",
                    emulate_root=scene.single_id,
                    emulate_devices=scene.mapped and not scene.single_id,
                ),
                namespaces=("pid", "uts"),
                hostname=plans.HOSTNAME,
                name="RUN",
                reporter=scene.reporter,
            )
            with contextlib.closing(trace.Watch(self.job.log)) as watch:
                ended = carry_out.execute(plan, self.job.settings.environment, watch=watch)
            if ended.status != 0 and self.job.settings.debug_shell:
                shell = replace(plan, process=replace(plan.process, argv=("/bin/sh",)))
                stage.debug_shell(self.job, shell, "RUN")
        if ended.status != 0:
            raise BuildError(
                f"`{_title(item)}` failed with exit status {ended.status} ({self.place(item)})",
                why="its last output: " + " | ".join(ended.last_lines[-5:])
                if ended.last_lines
                else "it printed nothing",
                remedy=carry_out.where_more_is(self.job.log),
            )

    def mount(
        self,
        stack: contextlib.ExitStack,
        current: _Stage,
        item: Instruction,
        wanted: mounts.Mount,
        environment: dict[str, str],
    ) -> Iterator[Mount]:
        at = configuration.joined(current.config.workdir, wanted.target) if wanted.target else ""
        match wanted.kind:
            case "tmpfs":
                yield Tmpfs(at, wanted.size, origin="RUN --mount")
            case "secret":
                content = self.wishes.hidden.get(wanted.id)
                if content is None:
                    return
                if wanted.variable:
                    environment[wanted.variable] = content.removesuffix("\n")
                if at:
                    yield SynthesizedFile(at, content, wanted.mode or 0o400, origin="RUN --mount")
            case "cache":
                yield Bind(
                    self.kept_directory(stack, wanted), at, read_only=wanted.read_only, origin="RUN --mount"
                )
            case "bind":
                yield Bind(
                    self.shown(current, item, wanted), at, read_only=wanted.read_only, origin="RUN --mount"
                )

    def kept_directory(self, stack: contextlib.ExitStack, wanted: mounts.Mount) -> str:
        """A directory that stays from build to build. Its files may belong to mapped ids."""
        if self.job.cache is None:
            return self.job.workspace.folder(f"mount-{secrets.token_hex(4)}", mode=wanted.mode or 0o755)
        kind = "single" if self.job.single_id else "many"
        name = hashlib.sha256(f"{kind}\n{wanted.id}".encode()).hexdigest()[:32]
        path = os.path.join(self.job.cache.root, "mounts", name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, wanted.mode or 0o755)
        if wanted.locked:
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        return path

    def shown(self, current: _Stage, item: Instruction, wanted: mounts.Mount) -> str:
        """The directory or file of the host that a bind shows: of the context, or a copy of what a stage has there. What
        is written to it is forgotten.
        """
        if not wanted.stage and wanted.read_only and not self.wishes.context.rules:
            place = contexts.resolve(self.wishes.context.root, wanted.source)
            whole = os.path.join(self.wishes.context.root, place)
            if os.path.lexists(whole):
                return whole
            raise BuildError(f"{self.place(item)}: the build context has no `{wanted.source}`")
        folder = self.job.workspace.folder(f"bind-{secrets.token_hex(4)}", mode=0o755)
        source = wanted.source or "/"
        if wanted.stage:
            origin = layers.of_stage(self.job, self.other(wanted.stage, current.state.index, item))
            copy = Copy(sources.literal(source), "/it", follow=False, from_root=origin)
        else:
            copy = self.from_context(source, "/it", item, directory=None)
        self.put(current.state, (copy,), root=DirectoryRoot(folder))
        return f"{folder}/it"

    def workdir(self, current: _Stage, item: Instruction) -> None:
        path = current.config.workdir
        nothing = self.job.workspace.path

        def make() -> None:
            empty = os.path.join(nothing, "nothing")
            os.makedirs(empty, mode=0o755, exist_ok=True)
            self.put(
                current.state,
                (
                    Copy(
                        "/.",
                        path,
                        follow=False,
                        from_root=DirectoryRoot(empty),
                        time=current.state.epoch,
                        owner=(0, 0),
                    ),
                ),
            )

        if path != "/":
            self.step(current, item, (("the directory", path),), make)

    def copy(self, current: _Stage, item: Instruction) -> None:
        state, config = current.state, current.config
        allowed = ("from", "chown", "chmod", "link", "checksum", "keep-git-dir")
        for key, _ in item.flags:
            if key not in allowed:
                raise NotSupported(f"`{item.word} --{key}` ({self.place(item)})")

        def expand(text: str) -> str:
            return words.expand(text, config.variables, self.file.escape, self.file.name, item.line)

        written = (
            list(item.json)
            if item.json
            else words.split(item.rest, self.file.escape, self.file.name, item.line)
        )
        paths = [expand(word) if not word.startswith("<<") else word for word in written]
        if len(paths) < 2:
            raise BuildError(f"{self.place(item)}: {item.word} needs a source and a destination")
        *named, last = paths
        at = configuration.joined(config.workdir, last)
        if last.endswith("/") or last in (".", ".."):
            at = at.rstrip("/") + "/"
        if len(named) > 1 and not at.endswith("/"):
            raise BuildError(
                f"{self.place(item)}: the destination of several sources is a directory",
                remedy=f"write `{last}/`",
            )
        origin = expand(item.flag("from") or "")
        owner_text, mode_text = expand(item.flag("chown") or ""), expand(item.flag("chmod") or "")
        known: list[tuple[str, str]] = [
            ("what is copied where", json.dumps([item.word, named, at, owner_text, mode_text])),
        ]
        bodies = {
            heredoc.mark: words.expand(
                heredoc.body, config.variables, self.file.escape, self.file.name, item.line, quotes=False
            )
            if heredoc.expand
            else heredoc.body
            for heredoc in item.heredocs
        }
        other = None
        if origin:
            other = self.other(origin, state.index, item)
            known.append((f"the stage `{origin}`", other.key))
        else:
            for path in named:
                if path in bodies:
                    known.append((f"the text `{path}`", bodies[path]))
                elif item.word == "ADD" and _is_address(path):
                    known.append((f"the address `{path}`", item.flag("checksum") or ""))
                else:
                    found = contexts.find(self.wishes.context, path)
                    if not found:
                        raise self.missing(path, item)
                    known += [(f"`{one or '.'}`", self.digest(one, item)) for one in found]

        def carry() -> None:
            root = layers.of_stage(self.job, state)
            owner = (
                users.owner(root, owner_text, self.place(item))
                if owner_text
                else (None if origin else (0, 0))
            )
            mode = _mode(mode_text, self.place(item)) if mode_text else None
            copies: list[Copy] = []
            for path in named:
                if other is not None:
                    copies.append(self.from_stage(other, path, at))
                elif path in bodies:
                    name = next(heredoc.name for heredoc in item.heredocs if heredoc.mark == path)
                    copies.append(self.made(name, bodies[path].encode("utf-8", "surrogateescape"), at))
                elif item.word == "ADD" and _is_address(path):
                    copies.append(self.fetched(path, at, item))
                else:
                    for one in contexts.find(self.wishes.context, path):
                        unpacked = self.unpacked(one, item) if item.word == "ADD" else None
                        if unpacked is not None:
                            copies.append(
                                Copy(
                                    "/.",
                                    at.rstrip("/") or "/",
                                    follow=False,
                                    from_root=unpacked,
                                )
                            )
                        else:
                            copies.append(self.from_context(one, at, item, directory=at.endswith("/")))
            time = None if origin else state.epoch
            self.put(state, tuple(replace(copy, owner=owner, mode=mode, time=time) for copy in copies))

        self.step(current, item, tuple(known), carry)

    # Sources of copies

    def from_stage(self, other: StageState, path: str, at: str) -> Copy:
        root = layers.of_stage(self.job, other)
        clean = os.path.normpath("/" + path)
        kind = core.read_files(root, [clean], limit=0)[clean].kind if clean != "/" else "directory"
        if kind == "directory":
            return Copy(f"{clean.rstrip('/')}/.", at.rstrip("/") or "/", follow=False, from_root=root)
        return Copy(clean, at, follow=False, from_root=root)

    def from_context(self, path: str, at: str, item: Instruction, directory: bool | None) -> Copy:
        """A source inside the context, which the core looks up inside the context again."""
        context = self.wishes.context
        place = contexts.resolve(context.root, path)
        whole = os.path.join(context.root, place)
        if not os.path.lexists(whole):
            raise self.missing(path, item)
        if not os.path.isdir(whole):
            return Copy(sources.literal("/" + place), at, follow=False, from_root=DirectoryRoot(context.root))
        if contexts.is_partial(context, place):
            folder = self.job.workspace.place(f"context-{secrets.token_hex(4)}")
            contexts.without_ignored(context, place, folder)
            return Copy("/.", at.rstrip("/") or "/", follow=False, from_root=DirectoryRoot(folder))
        source = sources.literal(f"/{place}".rstrip("/")) + "/."
        return Copy(source, at.rstrip("/") or "/", follow=False, from_root=DirectoryRoot(context.root))

    def made(self, name: str, data: bytes, at: str) -> Copy:
        folder = self.job.workspace.folder(f"made-{secrets.token_hex(4)}", mode=0o755)
        with open(os.path.join(folder, name), "xb") as file:
            file.write(data)
        os.chmod(os.path.join(folder, name), 0o644)
        return Copy(sources.literal(f"/{name}"), at, follow=False, from_root=DirectoryRoot(folder))

    def fetched(self, url: str, at: str, item: Instruction) -> Copy:
        data = download(url, LARGEST_DOWNLOAD, "a file")
        wanted = item.flag("checksum")
        actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if wanted and wanted != actual:
            raise BuildError(
                f"{self.place(item)}: {url} is not what it should be", why=f"its digest is {actual}"
            )
        name = url.split("?", 1)[0].rstrip("/").rpartition("/")[2]
        copy = self.made(name or "index", data, at)
        folder = copy.from_root
        assert isinstance(folder, DirectoryRoot)
        os.chmod(os.path.join(folder.path, name or "index"), 0o600)
        return copy

    def unpacked(self, path: str, item: Instruction) -> ImageRoot | None:
        """ADD unpacks archives: what is in one, made an image by the core, which nothing leads out of; None for what is none."""
        place = contexts.resolve(self.wishes.context.root, path)
        whole = os.path.join(self.wishes.context.root, place)
        if not place.endswith(_ARCHIVES) or not stat.S_ISREG(os.lstat(whole).st_mode):
            return None
        name = f"archive-{secrets.token_hex(4)}"
        if place.endswith((".bz2", ".tbz2")):
            plain = self.job.workspace.place(f"{name}.tar")
            try:
                with bz2.open(whole) as source, open(plain, "xb") as copied:
                    shutil.copyfileobj(source, copied)
            except (OSError, EOFError) as error:
                raise BuildError(f"{self.place(item)}: `{path}` cannot be unpacked", why=str(error)) from None
            whole = plain
        try:
            return layers.of_archive(self.job, whole, self.job.workspace.place(f"{name}.squashfs"))
        except core.CoreError as error:
            raise BuildError(f"{self.place(item)}: `{path}` cannot be unpacked", why=error.what) from None

    def digest(self, path: str, item: Instruction) -> str:
        cache = self.job.cache
        from soliton.build import digests

        try:
            return contexts.digest(self.wishes.context, path, cache.digest if cache else digests.of_file)
        except FileNotFoundError:
            raise self.missing(path, item) from None
        except OSError as error:
            raise BuildError(f"{self.place(item)}: `{path}` cannot be read", why=error.strerror) from None

    def missing(self, path: str, item: Instruction) -> BuildError:
        ignored = self.wishes.context.ignores(path.strip("/") or ".")
        return BuildError(
            f"{self.place(item)}: the build context has no `{path}`",
            why="`.dockerignore` leaves it out" if ignored else f"looked for in {self.wishes.context.root}",
        )

    def put(self, state: StageState, copies: tuple[Copy, ...], root: DirectoryRoot | None = None) -> None:
        scene = state.scene if root is None else replace(state.scene, root=root, surface=DirectSurface())
        folder = self.job.workspace.place(state.folder, "root")
        os.makedirs(folder, mode=0o755, exist_ok=True)
        plan = plans.on_host(scene, stage.NOTHING_TO_RUN, folder, self.job.settings.cwd, copies)
        carry_out.execute(plan, self.job.settings.environment)

    # The image

    def contents(self, current: _Stage) -> assemble.Contents:
        state = current.state
        base = state.started
        text = self.file.text
        found = configuration.finished(current.config)
        document = {"os": "linux", "architecture": state.architecture, "config": found}
        parsed = ociconfig.parse(json.dumps(document).encode(), self.file.name)
        facts = labels.BuildFacts(
            time=state.epoch, architecture=state.architecture, header={}, source=base.source
        )
        own = {k: v for k, v in parsed.labels.items() if not k.startswith(labels.SCHEMA)}
        merged, _ = labels.merge(own, labels.of_build(facts))
        above = (
            *metadata.base(),
            *metadata.from_oci(parsed),
            File(metadata.DEFINITION, text.encode("utf-8", "surrogateescape")),
            File(metadata.LABELS, labels.encode(merged)),
        )
        return assemble.of_parts(
            self.job,
            state,
            above,
            metadata.sif_objects(text, metadata.with_entries({}, above), ociconfig.encode(parsed)),
        )


def build(request: builder.Request, wishes: Wishes) -> None:
    """Builds; when this returns the target is there, and if this raises, nothing is."""
    try:
        _build(request, wishes)
    finally:
        if request.cache is not None:
            request.cache.release()
            request.cache.trim()


def definition(recipe: Recipe, cwd: str) -> Definition:
    """The stages in the form that everything else knows, and behind them the images that `--from=` names."""
    found = [
        DefinedStage(_header(stage.base, stage.name or str(number), stage.line))
        for number, stage in enumerate(recipe.stages)
    ]
    known: set[str] = set()
    for number, part in enumerate(recipe.stages):
        for item in part.instructions:
            texts = [value for key, value in item.flags if key == "from"]
            texts += [
                value.partition("=")[2]
                for key, mount in item.flags
                if key == "mount"
                for value in mount.split(",")
                if value.startswith("from=")
            ]
            for text in texts:
                name = words.expand(text, recipe.arguments, recipe.file.escape, recipe.file.name, item.line)
                if recipe.find(name, number) is None and name not in known:
                    known.add(name)
                    found.append(DefinedStage(_header(name, name, item.line)))
    return Definition(tuple(found), recipe.file.name, recipe.file.text)


def _header(base: str | int, name: str, line: int) -> Header:
    if isinstance(base, int):
        words_ = [("bootstrap", "stage"), ("from", str(base))]
    elif base == "scratch":
        words_ = [("bootstrap", "scratch")]
    elif base.endswith(".sif") and "/" in base:
        words_ = [("bootstrap", "localimage"), ("from", base)]
    else:
        scheme, colon, rest = base.partition(":")
        fetched = colon and scheme in ("oci", "oci-archive", "docker-archive", "docker-daemon")
        words_ = (
            [("bootstrap", scheme), ("from", rest)] if fetched else [("bootstrap", "docker"), ("from", base)]
        )
    return Header(tuple(Entry(key, value, line) for key, value in (*words_, ("stage", name))), line)


def _build(request: builder.Request, wishes: Wishes) -> None:
    owner = request.identity if request.identity.uid_map else None
    recipe = wishes.recipe
    with workspace(*request.tmpdir, owner, keep=request.keep) as place:
        job = Job(
            request.definition,
            request.settings,
            request.identity,
            place,
            request.sources,
            cache=request.cache,
        )
        ledger = cached.Ledger(
            cached.recipe_name(job, request.target), _count(recipe, recipe.target) + 1, request.explain
        )
        if job.cache is not None:
            ledger.before = job.cache.last(ledger.recipe)
            job = replace(job, log=job.cache.log(ledger.recipe))
        if job.single_id:
            messages.info(builder.FLATTENED if request.sandbox else builder.RECORDED)
        work = _Build(request, wishes, job, ledger)
        try:
            current = work.stage(recipe.target)
        finally:
            if job.cache is not None:
                job.cache.remember(ledger.recipe, ledger.now)
        state = current.state
        whole = ""
        if job.cache is not None and not request.sandbox:
            known = (
                ("the stages", state.key),
                ("the recipe", recipe.file.text),
                ("the image", json.dumps(configuration.finished(current.config), sort_keys=True)),
                ("the target", request.target),
            )
            whole = step_cache.key_of(known)
            if job.cache.is_made(whole, request.target):
                messages.info(f"{request.target} is up to date: nothing it is made from has changed")
                return
        work.announce(f"{'making the sandbox' if request.sandbox else 'writing'} {request.target}")
        parts = work.contents(current)
        if request.sandbox:
            with builder.new_directory(request.target, force=request.replace) as made:
                assemble.unpack(assemble.freeze_parts(job, state, parts), made)
                builder.fix_modes(made, everything=request.fix_perms)
            return
        sif = sif_write.plan_sif(parts.objects)
        with target.new_image(request.target, force=request.replace) as file:
            root = assemble.write_sif(job, parts, assemble.packing(job, parts), file, sif=sif)
            written = replace(root, path=file.readable)
            started = [one.state for one in work.done.values()]
            sif_write.finish(
                file.fd,
                sif,
                partition_size=root.size,
                architecture=parts.architecture,
                time=None,
                after=record.objects(
                    job, [*[s for s in started if s is not state], state], "", file.fd, written
                ),
            )
        if job.cache is not None and whole:
            job.cache.made(whole, request.target)


def _count(recipe: Recipe, target_stage: int) -> int:
    """How many steps are announced: every base, and every instruction that writes files, of the stages that are needed."""
    needed: set[int] = set()
    images: set[str] = set()
    pending = [target_stage]
    while pending:
        number = pending.pop()
        if number in needed:
            continue
        needed.add(number)
        part = recipe.stages[number]
        if isinstance(part.base, int):
            pending.append(part.base)
        for item in part.instructions:
            for key, value in item.flags:
                names = [value] if key == "from" else []
                if key == "mount":
                    names = [word.partition("=")[2] for word in value.split(",") if word.startswith("from=")]
                for name in names:
                    found = recipe.find(name, number)
                    if found is not None:
                        pending.append(found)
                    else:
                        images.add(name)
    bases = sum(1 for number in needed if not isinstance(recipe.stages[number].base, int))
    steps = sum(1 for number in needed for item in recipe.stages[number].instructions if item.word in STEPS)
    return bases + len(images) + steps


def _title(item: Instruction) -> str:
    text = " ".join(f"{item.word} {item.rest}".split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _is_address(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def _mode(text: str, place: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and all(digit in "01234567" for digit in text):
        return int(text, 8)
    raise BuildError(f"{place}: `--chmod={text[:20]}` is no mode", why="expected one such as 755")
