"""From a stage's layers to an image: one merge, streamed into a SIF, a plain squashfs or a sandbox.

above       the definition's scripts, labels, the definition itself          a tar of our own
steps       what the steps wrote                                             layers of the step cache, an overlay's upper directory
scripts     `/.singularity.d` for a base that has none                       a tar of our own
base        as it is; a squashfs gives its blocks verbatim
skeleton    /proc, /tmp, links at the root, for a base that has none         a tar of our own
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from soliton import core, messages
from soliton.build import layers, plans, stage, tree
from soliton.build.compression import Packing
from soliton.build.definition import Stage
from soliton.build.job import Job, Layer, StageState
from soliton.build.squashing import Work, settle, squash
from soliton.errors import TargetError
from soliton.images import labels, metadata, metadata_layer, sif_write, target
from soliton.images.target import NewFile
from soliton.launch.plan import DirectoryRoot, ImageRoot
from soliton.undisturbed import undisturbed

#: How stages are kept that only other stages read: quickly.
_FROZEN = Packing(compressor="lz4")


@dataclass(frozen=True)
class Contents:
    """What an image will hold. objects: of a SIF, before its root partition."""

    layers: tuple[Layer, ...]
    exclude: tuple[str, ...]
    objects: tuple[sif_write.NewObject, ...]
    architecture: str
    epoch: int


def contents(job: Job, state: StageState) -> Contents:
    """The layers of a stage whose steps are done."""
    base = state.started
    stack_now = layers.of_stage(job, state)
    # A base of nothing does not say; what the steps have brought may.
    state.architecture = state.architecture or job.settings.architecture or stage.of_programs(stack_now)
    after = tree.after(stack_now, base)
    finished = finish(job, state, after)
    dropped: list[str] = []
    if state.temporary is not None:
        dropped = sorted(stage.temporary_names(job, state) - state.temporary)
    return of_parts(
        job,
        state,
        finished.above,
        metadata.sif_objects(job.definition.text, finished.tree, base.oci_config),
        (*finished.removed, *dropped),
    )


def of_parts(
    job: Job,
    state: StageState,
    above: Sequence[metadata_layer.Entry],
    objects: tuple[sif_write.NewObject, ...],
    removed: Sequence[str] = (),
) -> Contents:
    """Base, results of steps, and over them what the image says of itself."""
    base = state.started
    below: list[Layer] = [layers.record(base.root)]
    if isinstance(base.root, DirectoryRoot):
        below[0]["owners"] = layers.owners(job)
        if not base.is_image:
            below[0]["clamp"] = state.epoch
    without = layers.left_out(job)
    if not base.is_image:
        below.insert(0, _tar(job, state, "skeleton", metadata.skeleton()))
        below.append(_tar(job, state, "scripts", metadata.base()))
    elif base.bare:
        # What the image has stands.
        missing = metadata.skeleton(), metadata.supplement()
        below[:0] = [_tar(job, state, f"missing-{number}", entries) for number, entries in enumerate(missing)]
    stack = (
        *below,
        *layers.records(job, state, list(without)),
        _tar(job, state, "above", above),
    )
    return Contents(
        layers=stack,
        exclude=(plans.STEP_FOLDER, *removed),
        objects=objects,
        architecture=state.architecture,
        epoch=state.epoch,
    )


def finish(job: Job, state: StageState, after: dict[str, bytes]) -> metadata.Finished:
    """What the definition says about the finished image, over what is there; notes go to the user."""
    facts = labels.BuildFacts(
        time=state.epoch,
        architecture=state.architecture,
        header=state.stage.told.keywords if job.update is None or job.settings.force else {},
        has_help=bool(_text(job, state.stage, "help")),
        source=state.started.source,
    )
    sections = _sections(job, state.stage)
    finished = metadata.finish(sections, after, facts, force=job.settings.force)
    state.force_matters = finished != metadata.finish(sections, after, facts, force=not job.settings.force)
    for note in finished.notes:
        messages.warning(note)
    return finished


def write_sif(
    job: Job, parts: Contents, packing: Packing, file: NewFile, *, sif: sif_write.Layout
) -> ImageRoot:
    """The root file system into `file` at the place the SIF has for it; the SIF is completed by `sif_write.finish`."""
    size = squash(job, _work(parts), packing, file.fd, sif.partition_offset, file.path)
    # Inside a user namespace our /proc/PID/fd is closed, but what a child inherits is its own.
    return ImageRoot(f"/proc/self/fd/{file.fd}", sif.partition_offset, size)


def freeze(job: Job, state: StageState) -> ImageRoot:
    """A stage as a plain squashfs in the workspace."""
    return freeze_parts(job, state, contents(job, state))


def freeze_parts(job: Job, state: StageState, parts: Contents) -> ImageRoot:
    path = job.workspace.place(state.folder, "frozen.squashfs")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = squash(job, _work(parts), settle(_FROZEN, parts.layers, own=False), fd, 0, path)
    finally:
        os.close(fd)
    return ImageRoot(path, 0, size, "caller" if job.single_id else "stored")


def packing(job: Job, parts: Contents) -> Packing:
    """How the final image is packed: as the user says, else as its base is, whose blocks can then stay as they are."""
    return settle(job.settings.packing, parts.layers, own=True)


def _work(parts: Contents) -> Work:
    return Work(parts.layers, parts.exclude, parts.epoch)


def unpack(image: ImageRoot, directory: str) -> None:
    """An image as a sandbox: every file the caller's."""
    core.converse(
        "unsquash",
        {
            "image": {"path": image.path, "offset": image.offset, "size": image.size},
            "target": directory,
            "identity": None,
        },
    )


def replace_directory(made: str, final: str, *, force: bool) -> None:
    """Gives a finished sandbox its name; an earlier one goes only when the new one is there."""
    old = None
    with undisturbed():
        if os.path.lexists(final):
            if not force:
                raise target.exists(final)
            old = f"{made}.old"
            os.rename(final, old)
        try:
            os.rename(made, final)
        except OSError as error:
            if old is not None:
                os.rename(old, final)
            raise TargetError(f"`{final}` cannot be written", why=error.strerror) from None
        if old is not None:
            if os.path.isdir(old) and not os.path.islink(old):
                from soliton.build.workspace import remove

                remove(old, None)
            else:
                os.unlink(old)


def _tar(job: Job, state: StageState, name: str, entries: Sequence[metadata_layer.Entry]) -> Layer:
    path = job.workspace.place(state.folder, f"{name}.tar")
    with open(path, "wb") as file:
        file.write(metadata_layer.layer(entries, time=state.epoch))
    return {"kind": "tar", "fd": None, "path": path}


def _sections(job: Job, stage: Stage) -> metadata.Sections:
    return metadata.Sections(
        definition=job.definition.text,
        environment=_text(job, stage, "environment"),
        runscript=_script(job, stage, "runscript"),
        startscript=_script(job, stage, "startscript"),
        test=_script(job, stage, "test"),
        help=_text(job, stage, "help"),
        labels=labels.parse(_text(job, stage, "labels")),
    )


def _text(job: Job, stage: Stage, name: str) -> str:
    """A section as images keep it: without the line ends at its end."""
    if not job.settings.choice.wants(name):
        return ""
    return (stage.body(name) or "").rstrip("\n")


def _script(job: Job, stage: Stage, name: str) -> metadata.Script | None:
    section = stage.section(name)
    if section is None or not job.settings.choice.wants(name):
        return None
    return metadata.Script(section.body.rstrip("\n"), section.arguments)
