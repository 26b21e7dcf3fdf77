"""COPY, ADD and WORKDIR: what is copied where, and with whose owner and mode."""

from __future__ import annotations

import json
import os

from soliton.build import layers, record
from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile import needs, origins, users, words
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.work import Current, Work
from soliton.errors import BuildError, NotSupported
from soliton.launch.plan import Copy, DirectoryRoot
from soliton.record import replace

_OPTIONS = {
    "COPY": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "ADD": ("chown", "chmod", "link", "checksum", "exclude", "unpack"),
}


def workdir(work: Work, current: Current, item: Instruction) -> None:
    """The directory that WORKDIR has just named, made where it is missing."""
    path, state, user = current.config.workdir, current.state, current.config.user

    def make() -> None:
        owner = (0, 0)
        if user:
            found = users.find(layers.of_stage(work.job, state), user, work.place(item))
            owner = (found.uid, found.gid)
        empty = os.path.join(work.job.workspace.path, "nothing")
        os.makedirs(empty, mode=0o755, exist_ok=True)
        nothing = DirectoryRoot(empty)
        made = Copy("/.", path, follow=False, from_root=nothing, time=state.epoch, owner=owner, mode=0o755)
        work.put(state, (made,))

    if path != "/":
        work.step(current, item, (("the directory", path), ("the user", user)), make)


def copy(work: Work, current: Current, item: Instruction) -> None:
    """COPY and ADD."""
    state = current.state
    for key, _ in item.flags:
        if key not in _OPTIONS[item.word]:
            raise NotSupported(f"`{item.word} --{key}` ({work.place(item)})")
    parents, excluded = (
        item.flag("parents") == "true",
        [value for key, value in item.flags if key == "exclude"],
    )
    unpacking = item.word == "ADD" and item.flag("unpack") != "false"
    named, at = _names(work, current, item)
    origin = item.flag("from") or ""
    if origin:
        origin = needs.origin(work.wishes.recipe, origin, item)
    owner_text = work.expand(current, item, item.flag("chown") or "")
    mode_text = work.expand(current, item, item.flag("chmod") or "")
    known: list[tuple[str, str]] = [
        (
            "what is copied where",
            json.dumps([item.word, named, at, owner_text, mode_text, parents, excluded, unpacking]),
        ),
    ]
    bodies = {
        heredoc.mark: work.expand(current, item, heredoc.body, quotes=False)
        if heredoc.expand
        else heredoc.body
        for heredoc in item.heredocs
    }
    other = work.stage_of(origin, state.index, item) if origin else None
    found: dict[str, list[str]] = {}
    downloaded: dict[str, str] = {}
    taken: dict[str, str] = {}
    if other is not None and excluded:
        raise NotSupported(f"`COPY --from` with `--exclude` ({work.place(item)})")
    if other is not None:
        known.append((f"the stage `{origin}`", other.key))
    else:
        for path in named:
            if path in bodies:
                known.append((f"the text `{path}`", bodies[path]))
            elif item.word == "ADD" and origins.is_repository(path):
                raise NotSupported(
                    f"`ADD` of a git repository ({work.place(item)})",
                    remedy="clone it in a RUN, or before the build",
                )
            elif item.word == "ADD" and origins.is_address(path):
                if item.flag("unpack") == "true":
                    raise NotSupported(f"`ADD --unpack` of an address ({work.place(item)})")
                downloaded[path], taken[path] = origins.fetched(work, path, item)
                known.append((f"the address `{path}`", taken[path]))
            else:
                found[path] = contexts.find(work.wishes.context, path)
                if excluded:
                    found[path] = [
                        one for one in found[path] if not _without(work, one, excluded).ignores(one or ".")
                    ]
                elif not found[path]:
                    raise work.missing(path, item)
                if len(found[path]) > 1 and not at.endswith("/"):
                    raise origins.several(work, item, at)
                for one in found[path]:
                    context = _without(work, one, excluded) if excluded else None
                    name = " ".join([one or ".", *(f"--exclude={text}" for text in excluded)])
                    taken[name] = work.digest(one, item, context)
                    known.append((f"`{name}`", taken[name]))
        record.took(work.job, state, taken)

    def carry() -> None:
        root = layers.of_stage(work.job, state)
        owner = None if origin else (0, 0)
        if owner_text:
            owner = users.owner(root, owner_text, work.place(item))
        mode = _mode(mode_text, work.place(item)) if mode_text else None
        copies: list[Copy] = []
        # What an archive holds keeps owners and times as it has them.
        unpacked: list[Copy] = []
        for path in named:
            if other is not None:
                copies += origins.of_stage(work, other, path, at, item, parents=parents)
            elif path in bodies:
                name = next(heredoc.name for heredoc in item.heredocs if heredoc.mark == path)
                text = bodies[path].encode("utf-8", "surrogateescape")
                copies.append(origins.of_text(work, name, text, at))
            elif path in downloaded:
                copies.append(origins.of_address(work, path, downloaded[path], at))
            else:
                for one in found[path]:
                    archive = origins.of_archive(work, one, at, item) if unpacking else None
                    target = origins.below(at, one, path) if parents else at
                    if archive is not None:
                        unpacked.append(archive)
                    else:
                        copies.append(origins.of_context(work, one, target, item, excluded))
        time = None if origin else state.epoch
        whole = [replace(copy, owner=owner, mode=mode, time=time) for copy in copies]
        kept = owner if owner_text else None
        whole += [replace(copy, owner=kept, mode=mode) for copy in unpacked]
        work.put(state, tuple(whole))

    work.step(current, item, tuple(known), carry)


def _without(work: Work, path: str, excluded: list[str]) -> contexts.Context:
    context = work.wishes.context
    return contexts.without(context, contexts.resolve(context.root, path), excluded)


def _names(work: Work, current: Current, item: Instruction) -> tuple[list[str], str]:
    """The sources, and the destination as an absolute path that ends in `/` where it has to be a directory."""
    file = work.wishes.recipe.file
    written = list(item.json) if item.json else words.split(item.rest, file.escape, file.name, item.line)
    paths = [work.expand(current, item, word) if not word.startswith("<<") else word for word in written]
    if len(paths) < 2:
        raise BuildError(f"{work.place(item)}: {item.word} needs a source and a destination")
    *named, last = paths
    at = configuration.joined(current.config.workdir, last)
    if last.endswith("/") or last in (".", "..") or item.flag("parents") == "true":
        at = at.rstrip("/") + "/"
    if len(named) > 1 and not at.endswith("/"):
        raise BuildError(
            f"{work.place(item)}: the destination of several sources is a directory",
            remedy=f"write `{last}/`",
        )
    return named, at


def _mode(text: str, place: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and all(digit in "01234567" for digit in text):
        return int(text, 8)
    raise BuildError(f"{place}: `--chmod={text[:20]}` is no mode", why="expected one such as 755")
