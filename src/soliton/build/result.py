"""The result of a build under its name, whole or not at all: a SIF or a sandbox, tested, with its lock and its provenance."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence

from soliton.build import assemble, lockfile, record
from soliton.build.assemble import Contents
from soliton.build.job import Job, StageState
from soliton.build.session import Request
from soliton.build.workspace import hold, remove, sweep
from soliton.images import sif_write
from soliton.images.target import new_image
from soliton.launch.plan import DirectoryRoot, ImageRoot
from soliton.record import replace
from soliton.undisturbed import undisturbed

#: What is done with the finished image before it gets its name; the descriptors go along to the core.
Tests = Callable[[ImageRoot | DirectoryRoot, tuple[int, ...]], None]


def write(
    job: Job,
    request: Request,
    stages: Sequence[StageState],
    parts: Contents,
    tests: Tests = lambda root, fds: None,
) -> None:
    """stages: those that went in, the image's own last."""
    if request.sandbox:
        with _new_directory(request.target, force=request.replace) as made:
            frozen = assemble.freeze_parts(job, stages[-1], parts)
            lock = _lock(job, stages, frozen)
            assemble.unpack(frozen, made)
            _fix_modes(made, everything=request.fix_perms)
            tests(DirectoryRoot(made), ())
            _write_lock(request, lock)
        return
    sif = sif_write.plan_sif(parts.objects)
    with new_image(request.target, force=request.replace) as file:
        root = assemble.write_sif(job, parts, assemble.packing(job, parts), file, sif=sif)
        tests(root, (file.fd,))
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


def _lock(job: Job, stages: Sequence[StageState], root: ImageRoot) -> str:
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


@contextlib.contextmanager
def _new_directory(final: str, *, force: bool) -> Iterator[str]:
    """A directory beside `final` that becomes it when the block ends without an exception."""
    folder, name = os.path.split(final)
    prefix = f".{name[:200]}.partial-"
    sweep(folder, prefix, None)
    made = os.path.join(folder, f"{prefix}{secrets.token_hex(6)}")
    held = None
    try:
        with undisturbed():
            os.mkdir(made, 0o700)
            held = hold(made)
        yield made
        assemble.replace_directory(made, final, force=force)
    finally:
        with undisturbed():
            if os.path.lexists(made):
                remove(made, None)
        if held is not None:
            os.close(held)


def _fix_modes(directory: str, *, everything: bool) -> None:
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
