"""Results of build steps, kept under what they were made from, and why one of them is or is not there.

    <cache>/steps/layers/KEY        what a step wrote, as a squashfs with the marks of an overlay in it
    <cache>/steps/images/KEY        which files a whole build has made (a finished image is not kept a second time)
    <cache>/steps/recipes/NAME      what the steps of a recipe were made from when it was last built
    <cache>/steps/logs/NAME.log     what the step that failed has printed
    <cache>/steps/mounts/NAME       what `RUN --mount=type=cache` shows
    <cache>/steps/digests/NAME      digest of a file, as long as it is the same file
    <cache>/steps/downloads/NAME    what ADD has fetched
    <cache>/steps/locks/KEY         held by the build that makes this result now

A key is the digest of its ingredients, one of which is the key of the step before. Everything is written beside its
name and renamed, so that any number of builds may share a cache; a layer in use, or being written, is held by a shared lock,
where the file system has locks, and by its age where it has not. Behind a layer stand its key and a digest of both: one that a
crash, a disk or somebody else has changed is made again. Nothing here knows what a step is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from soliton import messages
from soliton.build import digests
from soliton.errors import UsageError
from soliton.images.target import explaining
from soliton.undisturbed import passing_file, undisturbed

#: Changes when the same ingredients would give another result, or a compressor other bytes: images take blocks of layers as they are.
VERSION = 3
#: How much is kept where SOLITON_STEP_CACHE_SIZE does not say otherwise, in bytes.
DEFAULT_SIZE = 20 << 30
#: A layer is not removed for want of room so soon after its last use, where locks cannot tell, in seconds.
RECENT = 86400.0
#: A digest is remembered only of a file that has rested so long, in nanoseconds: clocks of file systems are coarse.
RESTED = 2_000_000_000
#: Files larger than this are worth remembering.
WORTH_REMEMBERING = 1 << 20
#: What is being written and has not been touched for so long is nobody's any more, in seconds.
ABANDONED = 3600.0
#: Behind a layer: this, its key, and the digest of everything before.
_SEAL = b"soliton step "
_DIGEST_SIZE = 32
#: Whatever is there in place of a layer keeps nobody waiting, and leads nowhere.
_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

#: (what it is, its value), in the order in which people should hear of a difference.
Ingredients = tuple[tuple[str, str], ...]


def key_of(ingredients: Ingredients) -> str:
    """The key of a step's result."""
    text = json.dumps([VERSION, *ingredients], ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def size_limit(environment: Mapping[str, str]) -> int:
    """Bytes that layers may take: SOLITON_STEP_CACHE_SIZE, as `500M` or `20G`."""
    text = environment.get("SOLITON_STEP_CACHE_SIZE", "").strip().lower().removesuffix("b").removesuffix("i")
    if not text:
        return DEFAULT_SIZE
    unit = _UNITS.get(text[-1], 1)
    digits = text[:-1] if unit != 1 else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise UsageError(
            f"SOLITON_STEP_CACHE_SIZE is `{text[:40]}`, which is no size",
            remedy="give a number with K, M, G or T",
        )
    return int(digits) * unit


@dataclass(frozen=True)
class StepCache:
    """root: the directory `steps` of the user's cache. limit: bytes of all layers. anew: nothing is taken from it."""

    root: str
    limit: int = DEFAULT_SIZE
    anew: bool = False
    _held: list[int] = field(default_factory=list, compare=False)

    @property
    def layers(self) -> str:
        return os.path.join(self.root, "layers")

    def prepare(self) -> None:
        """Makes the directories. Raises OSError, also where somebody else could write to them."""
        for name in ("layers", "images", "recipes", "digests", "logs", "locks"):
            folder = os.path.join(self.root, name)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            status = os.stat(folder)
            if status.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to somebody else", folder)
            if status.st_mode & 0o022:
                raise PermissionError(errno.EPERM, "others can write to it", folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it is not writable", folder)

    def find(self, key: str) -> str | None:
        """The file with a step's result, held until `release`; None if there is none, or everything is to be made anew."""
        if self.anew:
            return None
        path = os.path.join(self.layers, key)
        while True:
            try:
                fd = os.open(path, _TO_READ)
            except OSError:
                return None
            _share(fd)
            if _is_still(path, fd):
                break
            os.close(fd)  # somebody has just made room, or has made it anew
        self._held.append(fd)
        if not _is_sealed(fd, key):
            messages.warning(f"the kept result {path} is damaged, so the step is done again")
            with contextlib.suppress(OSError):
                if _is_still(path, fd):
                    os.unlink(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path if _is_still(path, fd) else None

    @contextlib.contextmanager
    def new(self, key: str) -> Iterator[int]:
        """A file to write a step's result to; it gets its name if the block ends without an exception, and is held.

        Raises TargetError where there is no room.
        """
        partial = os.path.join(self.layers, f".{key[:16]}.partial-{secrets.token_hex(6)}")
        fd = -1
        try:
            with explaining(partial):
                with undisturbed():
                    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                # Held from the beginning: nobody who makes room takes it for a leftover.
                _share(fd)
                yield fd
                _seal(fd, key)
                os.rename(partial, os.path.join(self.layers, key))
            self._held.append(os.dup(fd))
        finally:
            with undisturbed(), contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            if fd >= 0:
                os.close(fd)

    def path_of(self, key: str) -> str:
        """Where the result is that has just been written by `new`."""
        return os.path.join(self.layers, key)

    @contextlib.contextmanager
    def making(self, key: str, waits: Callable[[], None]) -> Iterator[None]:
        """While the block runs, no other build makes this result. waits: called if another one does, until it has ended.

        The lock goes with its holder, however that ends. Where the file system has none, both make it.
        """
        path = os.path.join(self.root, "locks", key)
        fd = None
        try:
            while fd is None:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waits()
                    fcntl.flock(fd, fcntl.LOCK_EX)
                if not _is_still(path, fd):  # its holder has ended and taken it away
                    os.close(fd)
                    fd = None
        except OSError as error:
            messages.debug(f"{path}: no lock: {error}")
        try:
            yield
        finally:
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                os.close(fd)

    def release(self) -> None:
        """At the end of a build: its layers may go."""
        while self._held:
            os.close(self._held.pop())

    def trim(self) -> None:
        """Removes what was used longest ago until everything together is not larger than the limit, and what killed builds left."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.layers) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if not entry.name.startswith("."):
                        found.append((status.st_mtime, status.st_size, entry.path))
                    elif time.time() - status.st_mtime > ABANDONED:
                        _removed(entry.path, status.st_mtime)
        total = sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if total <= self.limit:
                return
            if _removed(path, used):
                total -= size
                messages.debug(f"{path} has gone to make room")

    def digest(self, path: str) -> str:
        """`digests.of_path`, remembered for large files as long as they are the same. Raises OSError."""
        status = os.stat(path)
        if not os.path.isfile(path) or status.st_size < WORTH_REMEMBERING:
            return digests.of_path(path)
        here = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        name = hashlib.sha256(":".join(map(str, here)).encode()).hexdigest()
        place = os.path.join(self.root, "digests", name)
        with contextlib.suppress(OSError), open(place, encoding="ascii") as file:
            known = file.read(100).strip()
            if known.startswith("sha256:") and len(known) == 71:
                return known
        found = digests.of_file(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > RESTED:
            self._write(place, found)
        return found

    def made(self, key: str, path: str) -> None:
        """Notes that the file `path`, as it is, is what the build of this key makes."""
        self._write(os.path.join(self.root, "images", key), json.dumps(_identity(path)))

    def is_made(self, key: str, path: str) -> bool:
        """Whether `path` is still what the build of this key has made."""
        if self.anew:
            return False
        try:
            with open(os.path.join(self.root, "images", key), encoding="ascii") as file:
                return bool(json.load(file) == _identity(path))
        except (OSError, ValueError):
            return False

    def last(self, recipe: str) -> list[Ingredients]:
        """What the steps of a recipe were made from when it was last built."""
        try:
            with open(self._of_recipe(recipe), encoding="ascii") as file:
                return [tuple((str(name), str(value)) for name, value in step) for step in json.load(file)]
        except (OSError, ValueError, TypeError):
            return []

    def remember(self, recipe: str, steps: Sequence[Ingredients]) -> None:
        """Notes it; values as digests only, since a recipe may hold a secret."""
        self._write(self._of_recipe(recipe), json.dumps([list(veiled(step)) for step in steps]))

    def log(self, recipe: str) -> str:
        """Where the output of a recipe's step goes, empty now."""
        name = hashlib.sha256(recipe.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        path = os.path.join(self.root, "logs", f"{name}.log")
        with contextlib.suppress(OSError):
            os.unlink(path)
        return path

    def _of_recipe(self, recipe: str) -> str:
        name = hashlib.sha256(recipe.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self.root, "recipes", name)

    def _write(self, path: str, text: str) -> None:
        """A note that may fail: the cache is a help, not a condition."""
        partial = f"{path}.partial-{secrets.token_hex(6)}"
        with contextlib.suppress(OSError), passing_file(partial):
            with open(partial, "x", encoding="ascii") as file:
                file.write(text)
            os.rename(partial, path)


def veiled(step: Ingredients) -> Ingredients:
    """The same with digests in place of the values."""
    return tuple(
        (name, hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:32])
        for name, value in step
    )


def why(before: Sequence[Ingredients], number: int, now: Ingredients) -> str:
    """Why there is no result of a step: what differs from the last time. number: of the step, from 0 on.

    before: veiled.
    """
    now = veiled(now)
    if not before:
        return "this recipe has not been built before"
    if now in before:
        return "its result is no longer in the cache"
    if number >= len(before):
        return "there was no such step the last time"
    then = dict(before[number])
    # The step before it is named last: it explains itself.
    for name, value in now:
        if name != PARENT and then.get(name) != value:
            return f"{name} differs" if name in then else f"{name} is new"
    gone = [name for name in then if name not in dict(now)]
    if gone:
        return f"{gone[0]} is no longer there"
    return "a step before it has run"


#: The name of the ingredient that is the key of the step before.
PARENT = "the step before"


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _share(fd: int) -> None:
    """Locks a layer for as long as it is open, where the file system can. Waits for whoever is just removing it (`_removed`)."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH)


def _digest(fd: int, size: int, key: str) -> bytes:
    found = hashlib.sha256()
    at = 0
    while at < size:
        part = os.pread(fd, min(1 << 20, size - at), at)
        if not part:
            break
        found.update(part)
        at += len(part)
    found.update(_SEAL + key.encode())
    return found.digest()


def _seal(fd: int, key: str) -> None:
    size = os.fstat(fd).st_size
    data = _SEAL + key.encode() + _digest(fd, size, key)
    if os.pwrite(fd, data, size) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_sealed(fd: int, key: str) -> bool:
    """Whether a layer is this user's, whole, and the one of its key."""
    try:
        status = os.fstat(fd)
        length = len(_SEAL) + len(key) + _DIGEST_SIZE
        size = status.st_size - length
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or size < 0:
            return False
        return os.pread(fd, length, size) == _SEAL + key.encode() + _digest(fd, size, key)
    except OSError:
        return False


def _is_still(path: str, fd: int) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


def _removed(path: str, used: float) -> bool:
    """Removes a layer that no build holds; whether it did. It has the lock until then: who finds the layer now waits, and finds it gone."""
    try:
        fd = os.open(path, _TO_READ)
    except OSError:
        return False
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if time.time() - used <= RECENT:
                return False
        if not _is_still(path, fd):
            return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
