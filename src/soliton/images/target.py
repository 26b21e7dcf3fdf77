"""A new image file that appears under its name complete, or not at all.

While it is written the file has no name (O_TMPFILE), so that not even SIGKILL leaves anything behind; on file systems
that cannot do that it is a hidden `.NAME.partial-…` beside the target, removed if anything goes wrong. What makes the
target impossible is said before the work starts, not after an hour of it. This module knows nothing of formats.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from soliton.core import CoreError
from soliton.errors import SolitonError, TargetError
from soliton.site import paths
from soliton.undisturbed import undisturbed

#: File systems without O_TMPFILE answer with one of these.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
#: File systems without hard links answer link(2) with one of these.
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}


@dataclass(frozen=True)
class NewFile:
    """fd: open for reading and writing, at the start of an empty file. path: the name it will get, absolute.
    readable: a path under which programs of the same user can open it meanwhile, as long as this process lives.
    """

    fd: int
    path: str

    @property
    def readable(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"


@contextlib.contextmanager
def new_image(path: str, *, force: bool = False, mode: int = 0o755) -> Iterator[NewFile]:
    """A file to write; when the block ends without an exception it becomes `path`.

    force: an existing file is replaced. mode: before the umask. The content is on disk before the name appears. An interruption
    while the name appears counts when it is there: whole, as ever. For /dev/null it is written in the temporary directory, and gets no name.
    Raises TargetError: the target exists, is a directory, cannot be written; no space, quota, file size limit.
    """
    final = os.path.abspath(path)
    check(path, force=force)
    folder, name = os.path.split(final)
    if nowhere := is_nowhere(final):
        folder = paths.temporary(os.environ)
        path = os.path.join(folder, name)
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explain(error, path) from None
    fd, partial = -1, None
    try:
        try:
            with undisturbed():
                fd, partial = _create(directory, name, mode, path)
            with explaining(path):
                yield NewFile(fd, final)
                if nowhere:
                    return
                os.fsync(fd)
                with undisturbed():
                    partial = _publish(directory, fd, partial, name, force, path)
        finally:
            if fd >= 0:
                os.close(fd)
            if partial is not None:
                with contextlib.suppress(OSError):
                    os.unlink(partial, dir_fd=directory)
        # The name itself; some file systems refuse this, and then there is nothing more to do.
        with contextlib.suppress(OSError):
            os.fsync(directory)
    finally:
        os.close(directory)


def check(path: str, *, force: bool = False) -> None:
    """Raises TargetError if a file cannot become `path`; to be asked before any long work."""
    if not os.path.basename(path):
        raise TargetError(f"`{path}` is not the name of a file")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(error, path) from None
    if stat.S_ISDIR(status.st_mode):
        raise TargetError(
            f"`{path}` is a directory",
            why="an image is a single file",
            remedy="name the file, or move it away",
        )
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode) and not is_nowhere(path):
        raise TargetError(f"`{path}` exists and is not an ordinary file")
    if not force:
        raise exists(path)


def is_nowhere(path: str) -> bool:
    """Whether it is /dev/null: the image is made for what that shows, and to fill the cache."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def exists(path: str) -> TargetError:
    return TargetError(f"`{path}` exists already", remedy="use `--force` to replace it")


@contextlib.contextmanager
def explaining(path: str) -> Iterator[None]:
    """Failures to write, here or in the core, become TargetError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise explain(error, path) from None
        raise
    except CoreError as error:
        if error.code == "no-space":
            raise explain(OSError(errno.EFBIG if _limited(path) else errno.ENOSPC, ""), path) from None
        if error.code == "quota":
            raise explain(OSError(errno.EDQUOT, ""), path) from None
        raise


def _limited(path: str) -> bool:
    """Whether a file that found no space met the limit on file sizes: there is one, and there is room."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        there = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return False
    return there.f_bavail * there.f_frsize > limit


def explain(error: OSError, path: str) -> SolitonError:
    """What a failed system call on the target or its directory means."""
    folder = os.path.dirname(os.path.abspath(path))
    what = f"`{path}` cannot be written"
    match error.errno:
        case errno.ENOENT:
            return TargetError(what, why=f"there is no directory `{folder}`", remedy="make it first")
        case errno.ENOTDIR:
            return TargetError(what, why=f"a part of `{folder}` is not a directory")
        case errno.EACCES | errno.EPERM:
            return TargetError(
                what, why=f"permission denied in `{folder}`", remedy="choose a place that belongs to you"
            )
        case errno.EROFS:
            return TargetError(what, why=f"`{folder}` is mounted read-only", remedy="choose another place")
        case errno.ENOSPC:
            return TargetError(
                what,
                why=f"no space is left on the file system of `{folder}`",
                remedy="make room there or choose another place; nothing was left behind",
            )
        case errno.EDQUOT:
            return TargetError(
                what,
                why=f"your quota on the file system of `{folder}` is used up",
                remedy="make room there or choose another place; nothing was left behind",
            )
        case errno.EFBIG:
            return TargetError(
                what,
                why="the file would be larger than the limit on file sizes",
                remedy="see `ulimit -f`, or choose another file system",
            )
        case errno.ENAMETOOLONG:
            return TargetError("the name of the target is too long", why=path)
        case errno.EEXIST:
            return exists(path)
        case _:
            return TargetError(what, why=error.strerror)


def _create(directory: int, name: str, mode: int, path: str) -> tuple[int, str | None]:
    """(descriptor, name in the directory or None for a file without a name)."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if os.access("/proc/self/fd", os.X_OK):  # through which a file without a name gets one
        try:
            return os.open(".", flags | os.O_TMPFILE, mode, dir_fd=directory), None
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise explain(error, path) from None
    partial = _partial(name)
    try:
        return os.open(
            partial, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=directory
        ), partial
    except OSError as error:
        raise explain(error, path) from None


def _partial(name: str) -> str:
    # A name may have 255 bytes; the decorated one may not have more.
    stem = os.fsencode(name)[:200].decode("utf-8", "ignore")
    return f".{stem}.partial-{secrets.token_hex(6)}"


def _publish(directory: int, fd: int, partial: str | None, name: str, force: bool, path: str) -> str | None:
    """Gives the file its name. Returns the partial name if that is still there."""
    placeholder = False
    try:
        if partial is None and not force:
            _link(directory, f"/proc/self/fd/{fd}", name)
            return None
        if partial is None:
            partial = _partial(name)
            _link(directory, f"/proc/self/fd/{fd}", partial)
        if not force:
            try:
                _link(directory, partial, name)
                return partial
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
            # No hard links here: an exclusively made placeholder keeps others from being overwritten.
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=directory))
            placeholder = True
        os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
        return None
    except OSError as error:
        for leftover in (partial, name if placeholder else None):
            if leftover is not None:
                with contextlib.suppress(OSError):
                    os.unlink(leftover, dir_fd=directory)
        raise explain(error, path) from None


def _link(directory: int, source: str, name: str) -> None:
    # With directory descriptors Python calls linkat(2) and follows /proc/self/fd to the file without a name.
    os.link(source, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
