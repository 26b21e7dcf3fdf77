"""The cache: blobs by digest, finished images by what they were made from, and what tags meant last time.

Private to the user, written by rename, correct without locks: a blob that is being written bears its writer's name,
so others wait for it while the writer lives and take over what it left if it does not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from soliton.errors import TargetError
from soliton.site import config as configuration
from soliton.site import paths
from soliton.undisturbed import passing_file

#: A writer on another host that has not written for so long is taken for dead.
STALE = 120.0

Kind = Literal["blob", "image", "partial", "step", "mount", "library", "shub", "oras", "net"]

#: Where an image was one file already, by the scheme of its name.
_FINISHED: dict[str, Kind] = {
    "library": "library",
    "shub": "shub",
    "oras": "oras",
    "http": "net",
    "https": "net",
}


class CacheEntry(NamedTuple):
    """name: of the file. size in bytes, changed in Unix seconds."""

    name: str
    kind: Kind
    size: int
    changed: float
    path: str


@dataclass(frozen=True)
class Cache:
    root: str

    @property
    def blobs(self) -> str:
        return os.path.join(self.root, "blobs", "sha256")

    @property
    def images(self) -> str:
        return os.path.join(self.root, "images")

    @property
    def tags(self) -> str:
        return os.path.join(self.root, "tags")

    @property
    def steps(self) -> str:
        """Results of build steps, see `build.step_cache`."""
        return os.path.join(self.root, "steps")

    def blob(self, digest: str) -> str:
        """Where the blob with this digest is, or would be."""
        return os.path.join(self.blobs, digest.replace("sha256:", "").replace(":", "-"))

    def image(self, key: str) -> str:
        return os.path.join(self.images, f"{key}.sif")

    def prepare(self) -> None:
        """Makes the directories. Raises TargetError where that is impossible."""
        try:
            for folder in (self.root, os.path.dirname(self.blobs), self.blobs, self.images, self.tags):
                os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise TargetError(
                f"the cache `{self.root}` cannot be used",
                why=error.strerror,
                remedy="set SOLITON_CACHEDIR to a directory that you can write",
            ) from None

    def put(self, digest: str, data: bytes) -> None:
        """Stores a small blob whose digest has been checked."""
        final = self.blob(digest)
        partial = f"{final}.partial-{_owner()}-put"
        with passing_file(partial):
            with open(partial, "wb") as out:
                out.write(data)
            os.rename(partial, final)

    def get(self, digest: str) -> bytes | None:
        """A small blob, compared with its digest again."""
        try:
            with open(self.blob(digest), "rb") as file:
                data = file.read(16 << 20)
        except OSError:
            return None
        return data if "sha256:" + hashlib.sha256(data).hexdigest() == digest else None

    def remember_tag(self, reference: str, platform: str, digest: str) -> None:
        path = os.path.join(self.tags, _tag_key(reference, platform))
        partial = f"{path}.{_owner()}"
        with contextlib.suppress(OSError), passing_file(partial):
            with open(partial, "w", encoding="utf-8") as out:
                json.dump({"reference": reference, "platform": platform, "digest": digest}, out)
            os.rename(partial, path)

    def known_tag(self, reference: str, platform: str) -> str | None:
        """The digest that the tag meant when it was last asked for."""
        try:
            with open(os.path.join(self.tags, _tag_key(reference, platform)), encoding="utf-8") as file:
                digest = json.load(file)["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return digest if isinstance(digest, str) else None

    def entries(self) -> Iterator[CacheEntry]:
        """Everything that takes space, by name."""
        whole = self._whole()
        kinds: tuple[tuple[str, Kind], ...] = (
            (self.blobs, "blob"),
            (self.images, "image"),
            (os.path.join(self.steps, "layers"), "step"),
            (os.path.join(self.steps, "mounts"), "mount"),
        )
        for folder, kind in kinds:
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    path = os.path.join(folder, name)
                    with contextlib.suppress(OSError):
                        status = os.lstat(path)
                        now: Kind = "partial" if ".partial-" in name or name.startswith(".") else kind
                        if now == "blob":
                            now = whole.get(name, now)
                        yield CacheEntry(name, now, status.st_size, status.st_mtime, path)

    def _whole(self) -> dict[str, Kind]:
        """Blobs that are images as they came: their names, and where they came from."""
        found: dict[str, Kind] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(self.tags):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                    with open(os.path.join(self.tags, name), encoding="utf-8") as file:
                        record = json.load(file)
                    kind = _FINISHED.get(record["reference"].partition(":")[0])
                    if kind is not None:
                        found[os.path.basename(self.blob(record["digest"]))] = kind
        return found


def of_user() -> Cache:
    """The caller's cache; nothing is created yet."""
    home = paths.home_of_caller(os.environ)
    return Cache(paths.cache(os.environ, home, configured=configuration.current().config.cache_dir))


def _tag_key(reference: str, platform: str) -> str:
    return hashlib.sha256(f"{reference} {platform}".encode()).hexdigest()


def _owner() -> str:
    return f"{os.uname().nodename}-{os.getpid()}.{_begun(os.getpid())}"


def _begun(pid: int) -> str:
    """When a process was started, which tells it from a later one of its number; empty if nobody knows."""
    from soliton.launch.instance import stat_fields

    fields = stat_fields(pid)
    return fields[19] if fields else ""


class Partial:
    """A blob being written. Use `claim`: either the blob is there already, or the caller is its one writer."""

    def __init__(self, cache: Cache, digest: str) -> None:
        self.final = cache.blob(digest)
        self.path = f"{self.final}.partial-{_owner()}"

    def claim(self) -> bool:
        """True: write to `path` (which may hold the beginning already). False: the blob is complete.

        Waits while another living process writes it.
        """
        while True:
            if os.path.exists(self.final):
                return False
            others = self._others()
            living = [name for name in others if _is_alive(name)]
            if not living:
                for name in others:
                    # Whoever renames first goes on with what the dead writer left.
                    try:
                        os.rename(name, self.path)
                        break
                    except OSError:
                        continue
                else:
                    os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                rivals = [name for name in self._others() if _is_alive(name)]
                if not rivals or min(rivals) > self.path:
                    return True
                with contextlib.suppress(OSError):
                    if os.path.getsize(self.path) == 0:
                        os.unlink(self.path)
            time.sleep(0.1)

    def _others(self) -> list[str]:
        folder, prefix = os.path.split(f"{self.final}.partial-")
        try:
            names = os.listdir(folder)
        except OSError:
            return []
        found = (os.path.join(folder, name) for name in sorted(names) if name.startswith(prefix))
        return [name for name in found if name != self.path and not name.endswith("-put")]

    def complete(self) -> None:
        os.rename(self.path, self.final)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def _is_alive(path: str) -> bool:
    """Whether the writer of a partial file still writes."""
    host, _, process = path.rpartition(".partial-")[2].rpartition("-")
    pid, _, begun = process.partition(".")
    if host == os.uname().nodename and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except OSError as error:
            if error.errno != errno.EPERM:
                return False
        return not begun or _begun(int(pid)) in ("", begun)
    try:
        return time.time() - os.stat(path).st_mtime < STALE
    except OSError:
        return False
