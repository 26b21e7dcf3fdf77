"""Where COPY, ADD and binds take files from, as copies for the core: a stage, the context, a text, an address, an archive."""

from __future__ import annotations

import bz2
import os
import re
import secrets
import shutil
import stat
from collections.abc import Sequence

from soliton import core
from soliton.build import layers, sources
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile import downloads
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.work import Work
from soliton.build.job import StageState
from soliton.errors import BuildError
from soliton.launch.plan import Copy, DirectoryRoot, ImageRoot, Root

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def is_address(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def is_repository(path: str) -> bool:
    """Whether BuildKit would clone it."""
    address = path.partition("#")[0].partition("?")[0]
    return path.startswith(("git@", "git://", "ssh://")) or (is_address(path) and address.endswith(".git"))


def of_stage(
    work: Work, other: StageState, path: str, at: str, item: Instruction, *, parents: bool = False
) -> list[Copy]:
    """What a path or a pattern means in another stage."""
    root = layers.of_stage(work.job, other)
    clean = os.path.normpath("/" + path)
    kinds = _matching(root, clean)
    if not kinds:
        raise BuildError(f"{work.place(item)}: there is no `{path}` in `{item.flag('from')}`")
    if len(kinds) > 1 and not at.endswith("/"):
        raise several(work, item, at)
    copies = []
    for name, kind in kinds.items():
        target = below(at, name, path) if parents else at
        source = sources.literal(name)
        if kind == "directory":
            copies.append(
                Copy(f"{source.rstrip('/')}/.", target.rstrip("/") or "/", follow=False, from_root=root)
            )
        else:
            copies.append(Copy(source, target, follow=False, from_root=root))
    return copies


def _matching(root: Root, path: str) -> dict[str, str]:
    """The paths that a pattern means inside a root, each with its kind."""
    found = {"/": "directory"}
    for name in filter(None, path.split("/")):
        here = [folder.rstrip("/") for folder, kind in found.items() if kind == "directory"]
        if re.search(r"[*?\[\\]", name):
            wanted = contexts.pattern(name)
            listed = core.read_files(root, [f"{folder}/*" for folder in here], limit=0) if here else {}
            listed = {one: file for one, file in listed.items() if wanted.fullmatch(one.rpartition("/")[2])}
        else:
            listed = core.read_files(root, [f"{folder}/{name}" for folder in here], limit=0) if here else {}
        found = {one: file.kind for one, file in sorted(listed.items()) if file.kind != "missing"}
    return found


def below(at: str, found: str, written: str) -> str:
    """`--parents`: where a source goes that keeps its directories, those behind `/./` if that is in it."""
    before, pivot, _ = written.partition("/./")
    path = found.strip("/")
    if pivot:
        path = os.path.relpath("/" + path, os.path.normpath("/" + before))
    return f"{at.rstrip('/')}/{path}"


def several(work: Work, item: Instruction, at: str) -> BuildError:
    return BuildError(
        f"{work.place(item)}: the destination of several sources is a directory", remedy=f"write `{at}/`"
    )


def of_context(work: Work, path: str, at: str, item: Instruction, excluded: Sequence[str] = ()) -> Copy:
    """A source inside the context, which the core looks up inside the context again. excluded: patterns of `--exclude`."""
    context = work.wishes.context
    if excluded:
        context = contexts.without(context, contexts.resolve(context.root, path), excluded)
    place = contexts.resolve(context.root, path)
    whole = os.path.join(context.root, place)
    if not os.path.lexists(whole):
        raise work.missing(path, item)
    if not os.path.isdir(whole):
        return Copy(sources.literal("/" + place), at, follow=False, from_root=DirectoryRoot(context.root))
    if contexts.is_partial(context, place):
        folder = work.job.workspace.place(f"context-{secrets.token_hex(4)}")
        contexts.without_ignored(context, place, folder)
        return Copy("/.", at.rstrip("/") or "/", follow=False, from_root=DirectoryRoot(folder))
    source = sources.literal(f"/{place}".rstrip("/")) + "/."
    return Copy(source, at.rstrip("/") or "/", follow=False, from_root=DirectoryRoot(context.root))


def of_text(work: Work, name: str, data: bytes, at: str, mode: int = 0o644) -> Copy:
    folder = work.job.workspace.folder(f"made-{secrets.token_hex(4)}", mode=0o755)
    with open(os.path.join(folder, name), "xb") as file:
        file.write(data)
    os.chmod(os.path.join(folder, name), mode)
    return Copy(sources.literal(f"/{name}"), at, follow=False, from_root=DirectoryRoot(folder))


def of_address(work: Work, url: str, file: str, at: str) -> Copy:
    """file: what has been fetched."""
    name = url.split("?", 1)[0].rstrip("/").rpartition("/")[2] or "index"
    folder = work.job.workspace.folder(f"made-{secrets.token_hex(4)}", mode=0o755)
    shutil.copyfile(file, os.path.join(folder, name))
    os.chmod(os.path.join(folder, name), 0o600)
    return Copy(sources.literal(f"/{name}"), at, follow=False, from_root=DirectoryRoot(folder))


def fetched(work: Work, url: str, item: Instruction) -> tuple[str, str]:
    """What is at an address now: a file, and its digest, which `--checksum` has to be."""
    job = work.job
    folder = (
        job.workspace.place("downloads") if job.cache is None else os.path.join(job.cache.root, "downloads")
    )
    wanted = item.flag("checksum") or ""
    file, digest = downloads.fetch(url, folder, wanted, work.place(item))
    if wanted and wanted != digest:
        raise BuildError(f"{work.place(item)}: {url} is not what it should be", why=f"its digest is {digest}")
    return file, digest


def of_archive(work: Work, path: str, at: str, item: Instruction) -> Copy | None:
    """ADD unpacks archives: what is in one, made an image by the core, which nothing leads out of; None for what is none."""
    root = _unpacked(work, path, item)
    return None if root is None else Copy("/.", at.rstrip("/") or "/", follow=False, from_root=root)


def _unpacked(work: Work, path: str, item: Instruction) -> ImageRoot | None:
    context, workspace = work.wishes.context, work.job.workspace
    place = contexts.resolve(context.root, path)
    whole = os.path.join(context.root, place)
    if not place.endswith(_ARCHIVES) or not stat.S_ISREG(os.lstat(whole).st_mode):
        return None
    name = f"archive-{secrets.token_hex(4)}"
    if place.endswith((".bz2", ".tbz2")):
        plain = workspace.place(f"{name}.tar")
        try:
            with bz2.open(whole) as source, open(plain, "xb") as copied:
                shutil.copyfileobj(source, copied)
        except (OSError, EOFError) as error:
            raise BuildError(f"{work.place(item)}: `{path}` cannot be unpacked", why=str(error)) from None
        whole = plain
    try:
        return layers.of_archive(work.job, whole, workspace.place(f"{name}.squashfs"))
    except core.CoreError as error:
        raise BuildError(f"{work.place(item)}: `{path}` cannot be unpacked", why=error.what) from None
