"""What a build took, found and was told, gathered while it runs: for its lock and its provenance.

A step notes what it takes from the host in its stage (`took_base`, `took_files`), where a build that is held to a lock is
compared at once; `found` puts it together when the image is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from soliton import messages
from soliton.build import digests, lockfile, provenance, sources
from soliton.build.definition import Files
from soliton.build.header import Header
from soliton.build.job import Job, StageState
from soliton.build.lockfile import Lock, LockedBase
from soliton.errors import BuildError
from soliton.images import packages, sif_write
from soliton.images.survey import survey
from soliton.launch.plan import DirectoryRoot, ImageRoot

_CHUNK = 1 << 20


class FileDigest(threading.Thread):
    """The digest of a file, computed while the build goes on."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._digest = ""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self._digest = digests.of_file(self._path)

    def __call__(self) -> str:
        self.join()
        return self._digest


def name_of_base(header: Header) -> str:
    """A header's base as one word: `docker://debian:12`, `localimage:base.sif`, `debootstrap:bookworm`."""
    agent, source = header.agent, header.get("from") or header.get("osversion")
    if agent != "docker":
        return f"{agent}:{source}"
    words = (header.get("registry"), header.get("namespace"), source.removeprefix("docker:").lstrip("/"))
    return "docker://" + "/".join(word.strip("/") for word in words if word)


def pinned(job: Job, state: StageState) -> str:
    """The digest that the stage's base is held to, empty if to none."""
    locked = job.settings.held_to
    if locked is None:
        return ""
    base = locked.base(state.index + 1)
    name = name_of_base(state.stage.told)
    if base is None or base.source != name:
        raise _differs(job, [f"base `{name}` of stage {state.index + 1} is not in the lock"])
    return base.digest


def took_base(job: Job, state: StageState) -> None:
    """Notes the base that the stage has started from."""
    base, root = state.started, state.started.root
    if base.digest:
        digest = base.digest
        state.base_digest = lambda: digest
    elif isinstance(root, ImageRoot) and base.is_image:
        state.base_digest = FileDigest(root.path)
    elif base.is_image and (job.settings.lock or job.settings.held_to is not None):
        whole = _of_tree(root.path)
        state.base_digest = lambda: whole
    if job.settings.held_to is not None:
        only = lockfile.narrowed(job.settings.held_to, base=state.index + 1)
        told = lockfile.differences(only, lockfile.narrowed(_inputs(job, [state]), base=state.index + 1))
        if told:
            raise _differs(job, told)


def took(job: Job, state: StageState, digests_of: Mapping[str, str]) -> None:
    """Notes what an instruction takes from outside: name → digest."""
    state.taken.update(digests_of)
    held = job.settings.held_to
    if held is not None and (told := lockfile.file_differences(held, digests_of)):
        raise _differs(job, told)


def took_files(job: Job, state: StageState, files: Files) -> None:
    """Notes the files of the host that a section copies, before it does."""
    held = job.settings.held_to
    told = []
    for transfer in files.transfers:
        for path in sources.find(transfer, job.settings.cwd, job.definition.name):
            # What cannot be read is told by the copy.
            with contextlib.suppress(OSError):
                whole = os.path.join(job.settings.cwd, path)
                state.taken[path] = job.cache.digest(whole) if job.cache else digests.of_path(whole)
                if held is not None and held.files.get(path) != state.taken[path]:
                    told += lockfile.file_differences(held, {path: state.taken[path]})
    if told:
        raise _differs(job, told)


def found(job: Job, stages: Sequence[StageState], root: ImageRoot | DirectoryRoot) -> Lock:
    """The lock of this build. root: the finished image, or what it is made of."""
    inputs = _inputs(job, stages)
    listed, notes = packages.find(root, survey(root, contents=False, endings=packages.DIGESTED))
    for note in notes:
        messages.warning(f"{note}: its packages are not in the lock")
    return lockfile.with_packages(inputs, listed)


def check(job: Job, lock: Lock) -> None:
    """Raises BuildError if the whole differs from the lock it is held to; warns where only tool or recipe do."""
    held = job.settings.held_to
    assert held is not None
    if held.tool != lock.tool:
        messages.warning(f"the lock was written by {held.tool}, this is {lock.tool}: the bytes may differ")
    if held.recipe[1] != lock.recipe[1]:
        messages.warning(f"`{lock.recipe[0]}` has changed since it was locked")
    told = lockfile.differences(held, lock)
    if told:
        raise _differs(job, told)


def objects(
    job: Job, stages: Sequence[StageState], lock_text: str, fd: int, root: ImageRoot
) -> tuple[sif_write.NewObject, ...]:
    """What the SIF keeps of all this, behind its root file system, which lies in `fd`."""
    lock = lock_text.encode("utf-8")
    lock_digest = f"sha256:{hashlib.sha256(lock).hexdigest()}" if lock else ""
    arguments = job.settings.arguments
    if job.settings.force and stages[-1].force_matters:
        arguments = replace(arguments, options={**arguments.options, "force": True})
    root_digest = _of_part(fd, root.offset, root.size)
    statement = provenance.statement(_inputs(job, stages), arguments, root_digest, lock_digest)
    kept = [sif_write.generic_json(provenance.LOCK_OBJECT, lock)] if lock else []
    return (*kept, sif_write.generic_json(provenance.OBJECT, statement))


def _inputs(job: Job, stages: Sequence[StageState]) -> Lock:
    # A stage that starts from another one has no base of its own.
    started = [state for state in stages if state.base is not None]
    based = [state for state in started if state.stage.header.agent != "stage"]
    text = job.definition.text.encode("utf-8", "surrogateescape")
    return Lock(
        recipe=(os.path.basename(job.definition.name), f"sha256:{hashlib.sha256(text).hexdigest()}"),
        epoch=started[-1].epoch,
        architecture=started[-1].architecture,
        bases=tuple(
            LockedBase(state.index + 1, name_of_base(state.stage.told), state.base_digest())
            for state in based
        ),
        files={path: digest for state in started for path, digest in state.taken.items()},
    )


def _differs(job: Job, told: Sequence[str]) -> BuildError:
    remedy = "`soliton build --lock` records what is there now"
    if not job.settings.held_packages:
        remedy = "call it in the directory that has the files of that time"
    return lockfile.differs(told, job.settings.held_by, remedy)


def _of_part(fd: int, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0:
        part = os.pread(fd, min(size, _CHUNK), offset)
        if not part:
            break
        digest.update(part)
        offset += len(part)
        size -= len(part)
    return f"sha256:{digest.hexdigest()}"


def _of_tree(path: str) -> str:
    try:
        return digests.of_path(path)
    except OSError as error:
        raise BuildError(f"`{path}` cannot be read for its digest", why=error.strerror) from None
