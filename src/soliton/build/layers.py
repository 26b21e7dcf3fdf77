"""A stage as a stack: its base, the results of its steps, and the directory that is written now.

Every step writes to a directory of its own, which becomes a layer of the cache (`keep`), or of this build only, and lies under
the next step. So a step sees the same, and the image has the same bytes, whether steps have just run or were found.
"""

from __future__ import annotations

import os
from typing import Any

from soliton import messages
from soliton.build import bookkeeping, compression, plans, squashing, step_cache, traces
from soliton.build.job import Job, Layer, StageState
from soliton.errors import TargetError
from soliton.images import squashfs
from soliton.launch.plan import DirectoryRoot, ImageRoot, StackRoot
from soliton.record import replace

#: Results of steps that are mounted one by one; every so many of the lowest are joined first. What names them to the kernel
#: has 255 bytes, and each costs every later step a mount.
MOST = 40


def with_ids(job: Job, root: DirectoryRoot | ImageRoot) -> DirectoryRoot | ImageRoot:
    """A root of a single id can only be shown files that are its own."""
    if isinstance(root, DirectoryRoot):
        return root
    return replace(root, ids="caller" if job.single_id else "stored")


def is_updated(job: Job, state: StageState) -> bool:
    """Whether the stage is an existing sandbox, which is written itself."""
    return job.update is not None and state.index == len(job.definition.stages) - 1


def of_stage(job: Job, state: StageState) -> ImageRoot | DirectoryRoot | StackRoot:
    """The stage as it is now."""
    if job.update is not None and is_updated(job, state):
        return DirectoryRoot(job.update)
    base = with_ids(job, state.started.root)
    upper = () if state.upper is None else (DirectoryRoot(state.upper),)
    stack = (base, *_mounted(job, state), *upper)
    return base if len(stack) == 1 else StackRoot(stack)


def _mounted(job: Job, state: StageState) -> list[ImageRoot]:
    """The results of steps as few enough layers. The image is made of the single ones."""
    while len(state.layers) - state.joined_count > MOST:
        end = state.joined_count + MOST
        below = [] if state.joined is None else [state.joined]
        state.joined = _join(job, state, [*below, *state.layers[state.joined_count : end]])
        state.joined_count = end
    rest = state.layers[state.joined_count :]
    return rest if state.joined is None else [state.joined, *rest]


def _join(job: Job, state: StageState, single: list[ImageRoot]) -> ImageRoot:
    """Several layers as one that hides and shows the same, kept as they are."""
    parts: list[Layer] = [{**record(layer), "whiteouts": "keep"} for layer in single]
    folders = {os.path.dirname(layer.path) for layer in single}
    if job.cache is not None and folders == {job.cache.layers}:
        key = step_cache.key_of(tuple(("a layer", os.path.basename(layer.path)) for layer in single))
        try:
            path = job.cache.find(key) or _freeze(job, parts, key, state.epoch, packing(job, state))
            return image(job, path)
        except TargetError as error:
            _not_kept(error)
    path = job.workspace.place(state.folder, f"joined-{state.joined_count}.squashfs")
    return image(job, _aside(job, path, parts, state.epoch, packing(job, state)))


def image(job: Job, path: str) -> ImageRoot:
    """A layer of the cache."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        squashfs.check_superblock(file.read(squashfs.SUPERBLOCK_SIZE), size, path)
    return ImageRoot(path, 0, size, "caller" if job.single_id else "stored")


def take(job: Job, state: StageState, path: str) -> None:
    """A layer found in the cache goes over what there is; what has been prepared for the step is part of it."""
    state.layers.append(image(job, path))
    state.upper, state.maker = None, (0, 0)


def keep(job: Job, state: StageState, key: str) -> str:
    """What a step has written becomes a layer of the cache, and of the stage; the file it is in."""
    assert job.cache is not None and state.upper is not None
    try:
        path = _freeze(job, [_written(job, state)], key, state.epoch, packing(job, state))
    except TargetError as error:
        _not_kept(error)
        return keep_aside(job, state)
    take(job, state, path)
    return path


def _not_kept(error: TargetError) -> None:
    """The cache is a help, not a condition."""
    messages.warning(f"a result of a step is not kept: {error.why or error.what}")


def keep_aside(job: Job, state: StageState) -> str:
    """What a step has written becomes a layer of this build only; the file it is in."""
    assert state.upper is not None
    path = job.workspace.place(state.folder, f"written-{len(state.layers)}.squashfs")
    take(job, state, _aside(job, path, [_written(job, state)], state.epoch, packing(job, state)))
    return path


def _aside(job: Job, path: str, parts: list[Layer], time: int, how: compression.Packing) -> str:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _squash(job, parts, time, how, fd, path)
    finally:
        os.close(fd)
    return path


def of_archive(job: Job, archive: str, path: str) -> ImageRoot:
    """A tar, plain or compressed, as an image at `path`. Raises CoreError for a damaged or hostile one."""
    part: Layer = {"kind": "tar", "fd": None, "path": archive, "owners": "kept" if job.single_id else "own"}
    return image(job, _aside(job, path, [part], 0, compression.Packing("lz4", None, 131072)))


def _written(job: Job, state: StageState) -> Layer:
    assert state.upper is not None
    if not job.settings.keep_logs:
        bookkeeping.settle(state.upper, state.epoch)
    return {
        "kind": "directory",
        "path": state.upper,
        "whiteouts": "keep",
        # Compiled Python and the like are put right here; what the image leaves out is left out at the end.
        "clamp": state.epoch,
        "owners": "kept" if job.single_id else "own",
        "notes": plans.notes_of(state.upper),
        "maker": state.maker,
    }


def keep_directory(job: Job, directory: str, key: str, time: int) -> str:
    """A base made of packages, as a layer of the cache; without a cache, of this build only."""
    if not job.settings.keep_logs:
        bookkeeping.settle(directory, time)
    whole: Layer = {
        "kind": "directory",
        "path": directory,
        "whiteouts": "none",
        "clamp": time,
        # Here already: the image takes the blocks of this layer as they are.
        "without": [*left_out(job), *traces.OF_HOST],
        "owners": owners(job),
    }
    how = _settled(job.settings.packing, None)
    if job.cache is not None and key:
        try:
            return _freeze(job, [whole], key, time, how)
        except TargetError as error:
            _not_kept(error)
    return _aside(job, f"{directory}.squashfs", [whole], time, how)


def records(job: Job, state: StageState, without: list[str]) -> list[Layer]:
    """The stage's layers above its base, for `squash`. without: see `traces`."""
    common: dict[str, Any] = {
        "whiteouts": "overlay",
        "without": without,
        "owners": owners(job),
    }
    how = packing(job, state)
    # The image takes their large files as they are packed.
    packed = {"compressor": how.compressor, "level": how.level, "block_size": how.block_size}
    found: list[Layer] = [{**record(layer), **common, "packed": packed} for layer in state.layers]
    if state.upper is not None:
        found.append({"kind": "directory", "path": state.upper, "clamp": state.epoch, **common})
    return found


def left_out(job: Job) -> tuple[str, ...]:
    """Patterns of what steps write and the image does not hold."""
    return () if job.settings.keep_logs else traces.TRACES


def owners(job: Job) -> str:
    """A root of one id cannot give a file to anybody: what it wanted is recorded beside the file."""
    return "below" if job.single_id else "own"


def record(root: ImageRoot | DirectoryRoot) -> Layer:
    """A base, for `squash`."""
    if isinstance(root, DirectoryRoot):
        return {"kind": "directory", "path": root.path, "whiteouts": "none"}
    return {"kind": "squashfs", "path": root.path, "offset": root.offset, "size": root.size}


def packing(job: Job, state: StageState) -> compression.Packing:
    """As the image will be packed, so that its blocks can be taken as they are."""
    return _settled(job.settings.packing, record(state.started.root))


def _settled(wish: compression.Packing, base: Layer | None) -> compression.Packing:
    return squashing.settle(wish, [] if base is None else [base], own=True)


def _freeze(job: Job, parts: list[Layer], key: str, time: int, how: compression.Packing) -> str:
    assert job.cache is not None
    with job.cache.new(key) as fd:
        _squash(job, parts, time, how, fd, os.path.join(job.cache.layers, key))
    path = job.cache.path_of(key)
    messages.debug(f"kept as {path}")
    return path


def _squash(job: Job, parts: list[Layer], time: int, how: compression.Packing, fd: int, shown: str) -> None:
    work = squashing.Work(tuple(parts), (plans.STEP_FOLDER,), time)
    squashing.squash(job, work, how, fd, 0, shown, "Keeping the result")
