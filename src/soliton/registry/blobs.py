"""Layers on their way from a registry into the cache: resumed, verified while they arrive, readable meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

from soliton import messages
from soliton.errors import RegistryError, SolitonError
from soliton.images.cache import Cache, Partial
from soliton.registry.client import Client, Interrupted, digest_mismatch

if TYPE_CHECKING:
    from soliton.progress import Task

#: Before the name of a file whose digest nobody says, where a digest has its algorithm.
NO_DIGEST = "net"
#: Broken connections in a row, without a byte in between, after which a download is given up.
_ATTEMPTS = 6
_READ = 1 << 20


class Download:
    """One layer. `run` fetches it; `feed` passes it on as it arrives. Each in a thread of its own."""

    def __init__(self, client: Client, cache: Cache, digest: str, size: int, what: str) -> None:
        self.client, self.cache = client, cache
        self.digest, self.size, self.what = digest, size, what
        self.task: Task | None = None
        self._changed = threading.Condition()
        self._available = 0
        self._path: str | None = None
        self._failure: BaseException | None = None
        self._cancelled = False

    def path(self) -> str:
        return self.cache.blob(self.digest)

    def run(self) -> None:
        """Fetches the layer, or finds it in the cache. A failure is told to whoever reads."""
        try:
            self._run()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def _advance(self, path: str, available: int) -> None:
        with self._changed:
            if self._cancelled:
                raise Cancelled
            self._path, self._available = path, available
            self._changed.notify_all()

    def _run(self) -> None:
        partial = Partial(self.cache, self.digest)
        if partial.claim():
            self._fetch(partial)
        self._advance(self.cache.blob(self.digest), self.size)
        if self.task:
            self.task.update(completed=self.size)

    def _fetch(self, partial: Partial) -> None:
        algorithm, _, expected = self.digest.partition(":")
        if algorithm == NO_DIGEST:
            algorithm, expected = "sha256", ""
        state = hashlib.new(algorithm)
        fd = os.open(partial.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            at = self._hash_what_is_there(fd, state)
            if at:
                messages.verbose(f"{self.what}: going on from byte {at}")
            failures = 0
            while at < self.size:
                before = at
                try:
                    with self.client.blob(self.digest, at) as (begins, chunks):
                        if begins != at:
                            # The registry knows no ranges: from the beginning, then.
                            os.ftruncate(fd, 0)
                            at, state = 0, hashlib.new(algorithm)
                        for chunk in chunks:
                            at += len(chunk)
                            if at > self.size:
                                raise self._wrong_size(partial, at)
                            _write(fd, chunk, at - len(chunk))
                            state.update(chunk)
                            self._advance(partial.path, at)
                            if self.task:
                                self.task.update(completed=at)
                except Interrupted as error:
                    messages.verbose(f"{self.what}: {error}")
                if at < self.size:
                    failures = 0 if at > before else failures + 1
                    if failures >= _ATTEMPTS:
                        raise RegistryError(
                            f"the download of {self.what} keeps breaking off",
                            why=f"it has {at} of {self.size} bytes",
                            remedy="what has arrived is kept: run the same command again",
                        )
                    time.sleep(min(0.2 * 2**failures, 10))
        finally:
            os.close(fd)
        if expected and state.hexdigest() != expected:
            partial.discard()
            raise digest_mismatch(self.what, self.digest, f"{algorithm}:{state.hexdigest()}")
        partial.complete()

    def _hash_what_is_there(self, fd: int, state: hashlib._Hash) -> int:
        at = 0
        while chunk := os.pread(fd, _READ, at):
            at += len(chunk)
            if at > self.size:
                os.ftruncate(fd, 0)
                return 0
            state.update(chunk)
        if at == self.size:
            # Complete but never renamed: let the comparison decide, but do not ask for an empty range.
            self._advance(self.cache.blob(self.digest), 0)
        return at

    def _wrong_size(self, partial: Partial, size: int) -> SolitonError:
        partial.discard()
        return RegistryError(
            f"{self.what} is larger than announced", why=f"{size} bytes and more, expected {self.size}"
        )

    def feed(self, pipe: int) -> None:
        """Writes the layer into a pipe as it arrives. Raises what made the download fail."""
        at = 0
        fd: int | None = None
        try:
            while at < self.size:
                with self._changed:
                    while self._available <= at and self._failure is None and not self._cancelled:
                        self._changed.wait()
                    if self._cancelled:
                        raise Cancelled
                    if self._failure is not None:
                        raise self._failure
                    available, path = self._available, self._path
                if fd is None:
                    assert path is not None
                    fd = _open(path, self.path())
                while at < available:
                    at += os.sendfile(pipe, fd, at, min(available - at, 1 << 20))
            self.wait()
        finally:
            if fd is not None:
                os.close(fd)

    def wait(self) -> None:
        """Returns when the layer is whole and verified. Raises what made the download fail."""
        with self._changed:
            while self._failure is None and not self._cancelled:
                if self._path == self.path() and self._available == self.size:
                    return
                self._changed.wait()
            if self._failure is not None:
                raise self._failure
            raise Cancelled


def download_to_the_end(client: Client, cache: Cache, key: str, what: str, task: Task) -> None:
    """Fetches a file whose size and digest nobody says: all that the answer brings, from the beginning each time.

    Whether that is all of it, what is in the file has to tell: a server may end it by closing the connection.
    """
    partial = Partial(cache, key)
    if not partial.claim():
        return
    for failures in range(_ATTEMPTS):
        time.sleep(min(0.2 * 2**failures, 10) if failures else 0)
        fd = os.open(partial.path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            with client.blob(key, 0) as (_, chunks):
                at = 0
                for chunk in chunks:
                    _write(fd, chunk, at)
                    at += len(chunk)
                    task.update(completed=at)
            partial.complete()
            return
        except Interrupted as error:
            messages.verbose(f"{what}: {error}")
        finally:
            os.close(fd)
    raise RegistryError(
        f"the download of {what} keeps breaking off",
        why="it cannot be gone on with, as the server does not say how large it is",
        remedy="run the same command again, or fetch the file by other means",
    )


class Cancelled(Exception):
    """Somebody else has failed, or the user has had enough."""


def _open(path: str, final: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Renamed in between.
        return os.open(final, os.O_RDONLY | os.O_CLOEXEC)


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view = view[count:]
        at += count
