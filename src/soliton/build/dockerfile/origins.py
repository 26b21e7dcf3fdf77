"""Where COPY, ADD and binds take files from, as copies for the core: a stage, the context, a text, an address, an archive."""

from __future__ import annotations

import bz2
import hashlib
import os
import secrets
import shutil
import stat

from soliton import core
from soliton.build import layers, sources
from soliton.build.bootstrap.download import download
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.work import Work
from soliton.build.job import StageState
from soliton.errors import BuildError
from soliton.launch.plan import Copy, DirectoryRoot, ImageRoot

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: Bytes that ADD takes from an address.
LARGEST_DOWNLOAD = 1 << 30


def is_address(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def of_stage(work: Work, other: StageState, path: str, at: str) -> Copy:
    root = layers.of_stage(work.job, other)
    clean = os.path.normpath("/" + path)
    kind = core.read_files(root, [clean], limit=0)[clean].kind if clean != "/" else "directory"
    if kind == "directory":
        return Copy(f"{clean.rstrip('/')}/.", at.rstrip("/") or "/", follow=False, from_root=root)
    return Copy(clean, at, follow=False, from_root=root)


def of_context(work: Work, path: str, at: str, item: Instruction) -> Copy:
    """A source inside the context, which the core looks up inside the context again."""
    context = work.wishes.context
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


def of_address(work: Work, url: str, at: str, item: Instruction) -> Copy:
    data = download(url, LARGEST_DOWNLOAD, "a file")
    wanted = item.flag("checksum")
    actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if wanted and wanted != actual:
        raise BuildError(f"{work.place(item)}: {url} is not what it should be", why=f"its digest is {actual}")
    name = url.split("?", 1)[0].rstrip("/").rpartition("/")[2]
    return of_text(work, name or "index", data, at, 0o600)


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
