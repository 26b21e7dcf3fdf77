"""A look at everything besides the image that a container is put together from: overlays, the image's own ones, and
images that are bound from, and at whether others are using it. Makes the directories of a writable overlay; nothing else is changed.
"""

from __future__ import annotations

import errno
import os
import stat

from soliton import messages
from soliton.errors import ImageError, LaunchError, SolitonError
from soliton.images import sif as _sif
from soliton.images.detect import looks_like_ext3, open_image, replaced
from soliton.images.squashfs import check_superblock
from soliton.launch.binds import ImageBind
from soliton.launch.mounts import asked_binds
from soliton.launch.plan import DataBind, DirectoryRoot, ExtRoot, ImageRoot, StackRoot, UpperSurface
from soliton.launch.stack import LOCK, UPPER, WORK, Over, parse_overlay
from soliton.record import replace
from soliton.site.holders import has_locks, in_use, wait_for_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from soliton.images.detect import Image
    from soliton.images.sif import Descriptor
    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest
    from soliton.launch.stack import Layer
    from soliton.site.host import Host


def require_free(plan: Plan) -> None:
    """Waits for who is about to let go of what a plan locks; raises LaunchError if somebody goes on using it."""
    roots = plan.root.layers if isinstance(plan.root, StackRoot) else (plan.root,)
    upper = plan.surface if isinstance(plan.surface, UpperSurface) else None
    bound = (mount.root for mount in plan.mounts if isinstance(mount, DataBind))
    for used in (*roots, upper and upper.image, *bound):
        if isinstance(used, ExtRoot) and not wait_for_range(
            used.path, used.offset, used.size, write=used.writable
        ):
            raise in_use(used.path, write=used.writable)
    if upper is not None and upper.lock is not None:
        _require_free_directory(upper.lock)


def _require_free_directory(lock: str) -> None:
    """The directory of an overlay has one container at a time as its writer."""
    if not wait_for_range(lock, 0, 0, write=True):
        raise in_use(lock, write=True)
    if not has_locks(lock):
        messages.verbose(
            f"`{os.path.dirname(lock)}` is on a file system without locks: see to it that only one container writes there"
        )
    elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
        messages.verbose(
            f"without /dev/fuse `{os.path.dirname(lock)}` cannot be kept locked: see to it that only one container writes there"
        )


def look(
    request: ActionRequest, image: Image, host: Host, allow: Callable[[Image], None] | None = None
) -> Over:
    """allow: raises an error for an image, of overlays or to be bound from, that the site forbids. Raises SolitonError for what is not there, not an overlay, or writable twice."""
    layers: list[Layer] = list(image.layers)
    upper: UpperSurface | None = None
    origin = ""
    if image.writable is not None:
        own = _ext(image, image.writable)
        if request.writable:
            upper, origin = _inside(own), image.path
        else:
            layers.append(replace(own, inside=UPPER))
    if request.writable and request.overlay and image.kind in ("sandbox", "ext3"):
        raise SolitonError(
            "`--writable` and `--overlay` exclude each other",
            why=f"`{request.image}` itself would be written, below what is laid over it",
        )
    for text in request.overlay:
        path, read_only = parse_overlay(text)
        for layer in _overlay(path, read_only, allow, lenient=request.program != "soliton"):
            if not isinstance(layer, UpperSurface):
                layers.append(layer)
            elif upper is not None:
                raise SolitonError(
                    f"`{path}` cannot be a second writable layer besides `{origin}`",
                    why="what is written can go to one place only",
                    remedy=f"use one of them read-only: `--overlay {path}:ro`",
                )
            else:
                upper, origin = layer, path
    return Over(tuple(layers), upper, origin, _data_images(request, host, allow))


def _ext(image: Image, item: Descriptor) -> ExtRoot:
    return ExtRoot(image.path, item.offset, item.size, seen=image.seen)


def _inside(image: ExtRoot) -> UpperSurface:
    return UpperSurface(UPPER, WORK, replace(image, writable=True))


def _overlay(
    path: str, read_only: bool | None, allow: Callable[[Image], None] | None, *, lenient: bool
) -> list[Layer | UpperSurface]:
    """lenient: an image that may not be written is only read, as by the peers."""
    image = open_image(path)
    if allow is not None:
        allow(image)
    if image.kind in ("sandbox", "oci-layout"):
        return [_directory(image, path, read_only)]
    if image.kind == "squashfs" and isinstance(image.root, ImageRoot):
        _refuse_writing(path, read_only, "it is squashfs")
        return [image.root]
    if image.kind == "ext3" and image.ext is not None:
        return [_image(image.ext, path, read_only, lenient=lenient)]
    if image.kind == "sif" and (image.layers or image.writable):
        found: list[Layer | UpperSurface] = list(image.layers)
        if image.writable is None:
            _refuse_writing(path, read_only, "it holds no ext3 overlay")
        else:
            found.append(_image(_ext(image, image.writable), path, read_only, lenient=lenient))
        return found
    raise ImageError(
        f"`{path}` cannot be laid over an image",
        why="an overlay is a directory, an ext3 or squashfs image, or a SIF that holds one of these as its overlay",
        remedy="make one with `overlay create`",
    )


def _refuse_writing(path: str, read_only: bool | None, why: str) -> None:
    if read_only is False:
        raise ImageError(f"the overlay `{path}` cannot be written", why=why, remedy=f"use `{path}:ro`")


def _image(image: ExtRoot, path: str, read_only: bool | None, *, lenient: bool) -> Layer | UpperSurface:
    if read_only:
        return replace(image, inside=UPPER)
    try:
        os.close(os.open(image.path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EROFS and read_only is None:
            messages.warning(f"the overlay `{path}` is on a read-only file system and only read")
            return replace(image, inside=UPPER)
        if error.errno == errno.EACCES and read_only is None and lenient:
            messages.warning(f"the overlay `{path}` may not be written by you and is only read")
            return replace(image, inside=UPPER)
        raise ImageError(
            f"the overlay `{path}` cannot be written", why=error.strerror, remedy=f"use `{path}:ro`"
        ) from None
    return _inside(image)


def _directory(image: Image, shown: str, read_only: bool | None) -> Layer | UpperSurface:
    path = image.path
    upper, work = os.path.join(path, UPPER), os.path.join(path, WORK)
    if not read_only:
        try:
            for folder in (upper, work):
                _make(folder)
            return UpperSurface(upper, work, lock=os.path.join(path, LOCK), seen=_seen_in(image, UPPER))
        except OSError as error:
            if error.errno != errno.EROFS or read_only is False:
                raise LaunchError(
                    f"the overlay `{shown}` cannot be written",
                    why=f"`{os.path.basename(error.filename or upper)}` in it: {error.strerror}",
                    remedy=f"use `--overlay {shown}:ro`, or a directory that belongs to you",
                ) from None
            messages.warning(f"the overlay `{shown}` is on a read-only file system and only read")
    # A tree without this layout is a layer as it is.
    seen = _seen_in(image, UPPER)
    return DirectoryRoot(path, image.seen) if seen is None else DirectoryRoot(upper, seen)


def _seen_in(image: Image, name: str) -> tuple[int, int] | None:
    """A directory in the one that was looked at; None if there is none of that name."""
    folder = os.open(image.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(folder), image.status):
            raise replaced(image.path)
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            # A link could lead what is written anywhere.
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def _data_images(
    request: ActionRequest, host: Host, allow: Callable[[Image], None] | None
) -> dict[tuple[str, int | None], Layer]:
    wanted: dict[tuple[str, int | None], bool] = {}
    for bind in asked_binds(request, host):
        if isinstance(bind, ImageBind):
            wanted[bind.image] = wanted.get(bind.image, False) or not bind.read_only
    return {
        (path, id): data_image(path, id, writable=writable, allow=allow)
        for (path, id), writable in wanted.items()
    }


def data_image(
    path: str, id: int | None, *, writable: bool, allow: Callable[[Image], None] | None = None
) -> Layer:
    """The file system in an image that is to be bound from; one of ext3 is open for writing if it can be."""
    try:
        image = open_image(path)
    except ImageError as error:
        raise LaunchError(
            f"the bind source `{path}` cannot be used", why=str(error), remedy=error.remedy
        ) from None
    if allow is not None:
        allow(image)
    root: Layer | None = None
    if image.sif is not None:
        root = _partition(image, id)
    elif id is not None:
        raise ImageError(f"`{path}` has no data object {id}", why="only a SIF has numbered ones")
    elif isinstance(image.root, ImageRoot) or image.kind == "sandbox":
        root = image.root
    else:
        root = image.ext
    if root is None:
        raise ImageError(
            f"nothing can be bound out of `{path}`",
            why="it is neither squashfs nor ext3 nor a SIF with such data",
        )
    if isinstance(root, ExtRoot) and writable and os.access(path, os.W_OK):
        return replace(root, writable=True)
    return root


def _partition(image: Image, id: int | None) -> Layer:
    assert image.sif is not None
    item = next((item for item in image.sif.objects if _is_meant(item, id)), None)
    if item is None or item.partition is None:
        what = "a data partition" if id is None else f"a partition with the number {id}"
        raise ImageError(
            f"`{image.path}` has no {what[2:]}", remedy=f"see what it holds with `sif list {image.path}`"
        )
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not os.path.samestat(os.fstat(fd), image.status):
            raise replaced(image.path)
        if item.partition.fs == _sif.FS_SQUASHFS:
            check_superblock(os.pread(fd, 96, item.offset), item.size, image.path, f"data object {item.id}")
            return ImageRoot(image.path, item.offset, item.size, seen=image.seen)
        if item.partition.fs == _sif.FS_EXT3 and looks_like_ext3(os.pread(fd, 2048, item.offset)):
            return _ext(image, item)
    finally:
        os.close(fd)
    raise ImageError(f"data object {item.id} of `{image.path}` is neither squashfs nor ext3")


def _is_meant(item: Descriptor, id: int | None) -> bool:
    if id is not None:
        return item.id == id
    return item.partition is not None and item.partition.role == _sif.PART_DATA
