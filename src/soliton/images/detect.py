"""What kind of image a path is, and where its root file system lies: the first thing every command asks.

Content decides, never the name. Order, as the peers have it: directory, SIF, squashfs, ext3; then the archives
that can be made into an image. The cost is one read of the file's first 32 KiB whatever its size, and a truncated
file is told from the sizes it records, without mounting it. On the start path of `exec`: imports stay few; what
is only needed to explain a refusal is in `images.lookalike`. This module does not convert, mount or print.
"""

from __future__ import annotations

import errno
import os
import stat

from soliton.errors import ImageError, NotSupported
from soliton.images import sif as _sif
from soliton.images.sif import Descriptor, Sif
from soliton.images.squashfs import SUPERBLOCK_SIZE, check_superblock
from soliton.launch.plan import DirectoryRoot, ExtRoot, ImageRoot
from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["sif", "squashfs", "ext3", "sandbox", "oci-layout", "oci-archive", "docker-archive"]

#: Enough for the header and the table of any SIF made today, in one read.
HEAD_SIZE = 32768
#: The part of a file in which a SIF shows itself.
SNIFFED = 2048
_LAUNCH_WORD = b" run-singularity"


@record
class Image:
    """A recognised image.

    path: absolute. root: what a container can be started from; None where that takes another step first, and then
    `require_root` says which. architecture: OCI name, None where the image does not record it. sif: structure of a SIF.
    layers: squashfs overlay partitions, lowest first, that lie over the root. writable: the ext3 overlay partition.
    ext: the root where that is an ext3 file system, which runs but is not looked into.
    encryption: how the root partition is encrypted. status: of the file when it was looked at.
    """

    path: str
    kind: Kind
    root: ImageRoot | DirectoryRoot | None
    status: os.stat_result
    architecture: str | None = None
    sif: Sif | None = None
    layers: tuple[ImageRoot, ...] = ()
    writable: Descriptor | None = None
    encryption: Literal["luks", "gocryptfs"] | None = None
    ext: ExtRoot | None = None

    @property
    def seen(self) -> tuple[int, int]:
        """What tells this file or directory from another one that takes its place."""
        return _seen(self.status)

    def runnable(self) -> ImageRoot | DirectoryRoot | ExtRoot:
        """What a container can be started from, or the reason why there is nothing."""
        return self.ext if self.ext is not None else self.require_root()

    def require_root(self) -> ImageRoot | DirectoryRoot:
        """The root, or the reason why this image cannot be started or read as it is."""
        if self.root is not None:
            return self.root
        raise _refusal(self)


def open_image(path: str, *, shown: str | None = None) -> Image:
    """Recognises the image at `path`.

    shown: the name to use in messages, as the user typed it. Raises ImageError: no such image, permission denied,
    empty, truncated, damaged, or not an image at all.
    """
    shown = shown if shown is not None else path
    if "\0" in path:
        raise ImageError("no such image", why="its path holds a NUL byte")
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _directory(absolute(path), status)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"`{shown}` is not an image", why=f"it is {_special(status.st_mode)}")
        # A named pipe that has taken its place meanwhile would keep us waiting.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise replaced(shown)
            head = os.pread(fd, HEAD_SIZE, 0)
            return _file(fd, head, absolute(path), shown, status)
        finally:
            os.close(fd)
    except OSError as error:
        raise _unreadable(error, shown) from None


def replaced(shown: str) -> ImageError:
    return ImageError(f"`{shown}` was replaced while it was being looked at", remedy="run the command again")


def absolute(path: str) -> str:
    """Absolute form of a path. Links stay, unless `..` makes their meaning matter."""
    if ".." in path.split("/"):
        folder, name = os.path.split(path)
        return (
            os.path.realpath(path)
            if name in ("", ".", "..")
            else os.path.join(os.path.realpath(folder), name)
        )
    return os.path.abspath(path)


def _directory(path: str, status: os.stat_result) -> Image:
    layout = all(os.path.lexists(f"{path}/{name}") for name in ("oci-layout", "index.json"))
    if layout:
        return Image(path, "oci-layout", None, status)
    return Image(path, "sandbox", DirectoryRoot(path, _seen(status)), status)


def _file(fd: int, head: bytes, path: str, shown: str, status: os.stat_result) -> Image:
    if not head:
        raise ImageError(
            f"`{shown}` is empty",
            why="a copy, download or build of it never got to its first byte",
            remedy="copy or pull the image again",
        )
    if _sif.MAGIC in head[:SNIFFED]:
        return _from_sif(fd, head, path, shown, status)
    shift = _launch_line(head)
    if head[shift : shift + 4] == b"hsqs":
        size = status.st_size - shift
        check_superblock(head[shift : shift + SUPERBLOCK_SIZE], size, shown)
        return Image(path, "squashfs", ImageRoot(path, shift, size, seen=_seen(status)), status)
    if looks_like_ext3(head[shift:]):
        ext = ExtRoot(path, shift, status.st_size - shift, seen=_seen(status))
        return Image(path, "ext3", None, status, ext=ext)
    from soliton.images import lookalike

    archive = lookalike.archive_kind(path, head)
    if archive is not None:
        return Image(path, archive, None, status)
    raise lookalike.not_an_image(shown, head, status.st_size)


def _seen(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def _launch_line(head: bytes) -> int:
    """Length of the launch line that old squashfs and ext3 images begin with."""
    place = head[:SNIFFED].find(_LAUNCH_WORD)
    return place + len(_LAUNCH_WORD) + 1 if place > 0 else 0


def looks_like_ext3(head: bytes) -> bool:
    """Whether a file system begins here that the peers accept as ext3: a journal, and nothing ext4 invented."""
    if head[1080:1082] != b"\x53\xef" or len(head) < 1128:
        return False
    compatible, incompatible, read_only = (
        int.from_bytes(head[1024 + at : 1024 + at + 4], "little") for at in (92, 96, 100)
    )
    return bool(compatible & 0x4) and not incompatible & ~0x16 and not read_only & ~0x7


def _from_sif(fd: int, head: bytes, path: str, shown: str, status: os.stat_result) -> Image:
    sif = _sif.read(fd, shown, head)
    primary = sif.primary
    if primary is None:
        return Image(path, "sif", None, status, sif.architecture, sif)
    partition = primary.partition
    assert partition is not None
    root: ImageRoot | None = None
    ext: ExtRoot | None = None
    encryption: Literal["luks", "gocryptfs"] | None = None
    if partition.fs == _sif.FS_SQUASHFS:
        root = _squashfs_partition(fd, path, primary, shown, "its root partition", status)
    elif partition.fs == _sif.FS_LUKS_SQUASHFS:
        encryption = "luks"
    elif partition.fs == _sif.FS_GOCRYPTFS:
        encryption = "gocryptfs"
    elif partition.fs == _sif.FS_EXT3:
        if not looks_like_ext3(_sif.read_exactly(fd, primary.offset, min(primary.size, SNIFFED), shown)):
            raise ImageError(
                f"`{shown}` is a damaged image", why="its root partition is not the ext3 it says it is"
            )
        ext = ExtRoot(path, primary.offset, primary.size, seen=_seen(status))
    else:
        raise ImageError(
            f"`{shown}` has a root partition of a kind that nobody can run",
            why=f"file system type {partition.fs}",
        )
    layers: list[ImageRoot] = []
    writable: Descriptor | None = None
    for item in sif.objects:
        overlay = item.partition
        if overlay is None or overlay.role != _sif.PART_OVERLAY or item.group != primary.group:
            continue
        if overlay.fs == _sif.FS_SQUASHFS:
            layers.append(_squashfs_partition(fd, path, item, shown, f"overlay {item.id}", status))
        elif overlay.fs == _sif.FS_EXT3 and writable is None:
            writable = item
    return Image(path, "sif", root, status, sif.architecture, sif, tuple(layers), writable, encryption, ext)


def _squashfs_partition(
    fd: int, path: str, item: Descriptor, shown: str, part: str, status: os.stat_result
) -> ImageRoot:
    superblock = os.pread(fd, SUPERBLOCK_SIZE, item.offset)
    check_superblock(superblock, item.size, shown, part)
    return ImageRoot(path, item.offset, item.size, seen=_seen(status))


def _refusal(image: Image) -> ImageError | NotSupported:
    if image.encryption is not None:
        return NotSupported(
            "running encrypted images",
            why=f"the root file system of `{image.path}` is encrypted ({image.encryption})",
        )
    if image.kind == "ext3" or (image.sif is not None and image.sif.primary is not None):
        return NotSupported("looking into ext3 images", why=f"the root file system of `{image.path}` is ext3")
    if image.sif is not None and image.sif.is_oci:
        return NotSupported(
            "running OCI-SIF images",
            why=f"`{image.path}` holds OCI blobs and no root partition",
            remedy="build a plain SIF of it with the program that made it, or pull it again from its registry",
        )
    if image.sif is not None:
        return ImageError(
            f"`{image.path}` has no root file system",
            why="none of its data objects is a primary partition",
            remedy=f"see what it holds with `sif list {image.path}`",
        )
    what = {
        "oci-layout": ("an OCI layout", "oci"),
        "oci-archive": ("an OCI archive", "oci-archive"),
        "docker-archive": ("an archive of `docker save`", "docker-archive"),
    }
    described, scheme = what[image.kind]
    return ImageError(
        f"`{image.path}` cannot be run as it is",
        why=f"it is {described}, which has to be made into an image first",
        remedy=f"`build image.sif {scheme}:{image.path}`",
    )


def _special(mode: int) -> str:
    for test, words in (
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return words
    return "neither a file nor a directory"


def _unreadable(error: OSError, shown: str) -> ImageError:
    if error.errno == errno.ENOENT:
        if os.path.islink(shown):
            return ImageError(
                f"no such image: `{shown}`", why="it is a link to something that does not exist"
            )
        scheme, colon, rest = shown.partition("://")
        remedy = None
        if not colon and shown.partition(":")[2] and "/" not in shown.partition(":")[0]:
            remedy = f"if it is in a registry, write `docker://{shown}`"
        elif colon and rest:
            remedy = f"`{scheme}://` is not a source of images that is known here"
        return ImageError(f"no such image: `{shown}`", remedy=remedy)
    if error.errno == errno.ENOTDIR:
        return ImageError(f"no such image: `{shown}`", why="a part of the path is not a directory")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ImageError(
            f"`{shown}` cannot be read: permission denied",
            why="neither the file's mode nor that of the directories above lets you in",
            remedy="ask its owner, or pull a copy of your own",
        )
    if error.errno == errno.ESTALE:
        return ImageError(
            f"`{shown}` cannot be read: it was replaced on the file server", remedy="run the command again"
        )
    return ImageError(f"`{shown}` cannot be read", why=error.strerror)
