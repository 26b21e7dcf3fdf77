"""Instances as they are recorded: where, whose, and whether they still run. The records are plain files that peers' tools read.

    <user directory>/instances/app/<host>/<user>/<name>/<name>.json
    <user directory>/instances/logs/<host>/<user>/<name>.{out,err}

A name belongs to whoever has made its directory, which appears complete, by one rename, with a claim of the starting process in
it; the record joins it once the container stands. Claims and records of processes that are gone are *stale*, and are taken away by
whoever needs the name or lists it. A process is told by its number, its start and the boot, so that a number used again is no
mistake. Locks help where there are any, and are not relied on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soliton.errors import SolitonError

#: What names are made of; never `.` or `..`.
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST_NAME = 200
_LARGEST_RECORD = 1 << 20
#: How often it is looked, and how many seconds apart, whether who is about to end has ended. On a machine that is not busy once will do.
_LOOKS, _STEP = 6000, 0.01
#: Not in any name, so what is in the making or on its way out is never taken for an instance.
_PRIVATE = "~"


@dataclass(frozen=True)
class Process:
    """A process of this boot: a number alone is soon somebody else's."""

    pid: int
    start: int
    boot: str

    def lives(self) -> bool:
        return process(self.pid) == self

    def signal(self, number: int) -> bool:
        """Sends a signal to this process and to no other; False if it is gone."""
        import signal

        try:
            with opened(self) as fd:
                signal.pidfd_send_signal(fd, number)
        except (ProcessLookupError, SolitonError):
            return False
        return True


@dataclass(frozen=True)
class Instance:
    """One record.

    pid: process 1 of the container. monitor: the process outside that watches over it.
    cgroup: the path of the control group made for its limits, below the mount of cgroups; None if none was made.
    fakeroot, contain, home: of the start, for those who join. init: the image's own is process 1. sharens: held for `--sharens`.
    door, token: where its namespaces are handed out, and to whom (launch/doors.py).
    foreign: recorded by another program.
    """

    name: str
    user: str
    image: str
    pid: int
    monitor: Process | None
    log_out: str = ""
    log_err: str = ""
    ip: str = ""
    userns: bool = True
    cgroup: str | None = None
    fakeroot: bool = False
    contain: bool = False
    init: bool = False
    home: str = "/"
    sharens: bool = False
    door: str = ""
    token: str = ""
    foreign: bool = False
    monitor_pid: int = 0

    def lives(self) -> bool:
        if self.monitor is not None:
            return self.monitor.lives()
        try:
            with open(f"/proc/{self.monitor_pid}/cmdline", "rb") as words:
                return words.read(64).startswith((b"Apptainer instance", b"Singularity instance"))
        except OSError:
            return False


def boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def process(pid: int) -> Process | None:
    """The process that has this number now, unless it has ended."""
    fields = stat_fields(pid)
    if not fields or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]), boot())


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, so that the first is field 3; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


@contextlib.contextmanager
def opened(wanted: Process) -> Iterator[int]:
    """A pidfd of this very process. Raises SolitonError if it is gone."""
    fd = None
    try:
        fd = os.pidfd_open(wanted.pid)
        if not wanted.lives():
            raise ProcessLookupError
        yield fd
    except ProcessLookupError:
        raise SolitonError(f"process {wanted.pid} is gone") from None
    finally:
        if fd is not None:
            os.close(fd)


def check_name(name: str) -> None:
    """Raises SolitonError unless `name` may be the name of an instance."""
    if not name or not set(name) <= _LETTERS or name in (".", "..") or len(name) > _LONGEST_NAME:
        raise SolitonError(
            f"`{name}` is not a valid instance name",
            why=f"names have letters, digits, `.`, `_` and `-`, and at most {_LONGEST_NAME} of them",
        )


@dataclass(frozen=True)
class Place:
    """Where a user's instances of this host are recorded. records, logs: directories, which need not exist yet."""

    user: str
    records: str
    logs: str

    @staticmethod
    def below(top: str, host: str, user: str) -> Place:
        records, logs = (os.path.join(top, "instances", kind, host, user) for kind in ("app", "logs"))
        return Place(user, records, logs)

    def make(self) -> None:
        for folder in (self.records, self.logs):
            _make(folder)

    def log_paths(self, name: str) -> tuple[str, str]:
        """(output, errors)"""
        return os.path.join(self.logs, f"{name}.out"), os.path.join(self.logs, f"{name}.err")

    def names(self) -> list[str]:
        try:
            entries = os.listdir(self.records)
        except OSError:
            return []
        return sorted(name for name in entries if set(name) <= _LETTERS)

    def read(self, name: str) -> Instance | None:
        """The record of this name; None if there is none that can be read."""
        path = os.path.join(self.records, name, f"{name}.json")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                return _from_json(name, json.loads(file.read(_LARGEST_RECORD)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def find(self, name: str) -> Instance | None:
        """The living instance of this name; a stale record is taken away."""
        instance = self.read(name)
        if instance is None:
            if os.path.isdir(os.path.join(self.records, name)):
                self._heal(name)
            return None
        if instance.lives():
            return instance
        if not instance.foreign:
            self._heal(name)
        return None

    def all(self) -> list[Instance]:
        self._sweep()
        found = [self.find(name) for name in self.names()]
        return [instance for instance in found if instance is not None]

    def _sweep(self) -> None:
        """Takes away what processes that were killed had in the making."""
        try:
            entries = os.listdir(self.records)
        except OSError:
            return
        for entry in entries:
            folder = os.path.join(self.records, entry)
            if _PRIVATE in entry and (owner := self._claimant(folder)) is not None and not owner.lives():
                shutil.rmtree(folder, ignore_errors=True)

    def claim(self, name: str, *, patient: bool = False) -> Claim:
        """Makes a name this process's own. Raises SolitonError if it is somebody else's already.

        patient: who has it is about to end, and is waited for.
        """
        self.make()
        owner = process(os.getpid())
        assert owner is not None
        fresh = os.path.join(self.records, f".{name}{_PRIVATE}{secrets.token_hex(6)}")
        os.mkdir(fresh, 0o700)
        try:
            with open(os.path.join(fresh, ".claim"), "w", encoding="ascii") as file:
                json.dump([owner.pid, owner.start, owner.boot], file)
            for _ in range(_LOOKS if patient else 100):
                try:
                    os.rename(fresh, os.path.join(self.records, name))
                    return Claim(self, name)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                taken = self.find(name) is not None
                if patient:
                    time.sleep(_STEP)
                    continue
                if taken:
                    raise already(name)
                if self._is_claimed(name):
                    raise SolitonError(
                        f"instance `{name}` is being started by another process", remedy="choose another name"
                    )
            raise SolitonError(
                f"the name `{name}` cannot be taken",
                why=f"`{os.path.join(self.records, name)}` is in the way and cannot be removed",
            )
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _is_claimed(self, name: str) -> bool:
        owner = self._claimant(os.path.join(self.records, name))
        return owner is not None and owner.lives()

    def _claimant(self, folder: str) -> Process | None:
        try:
            with open(os.path.join(folder, ".claim"), encoding="ascii") as file:
                pid, start, boot = json.loads(file.read(1000))
                return Process(int(pid), int(start), str(boot))
        except (OSError, ValueError, TypeError):
            return None

    def _is_stale(self, name: str, folder: str) -> bool:
        owner = self._claimant(folder)
        if owner is not None and owner.lives():
            return False
        instance = self.read(name) if folder == os.path.join(self.records, name) else None
        return instance is None or not instance.lives()

    def _heal(self, name: str) -> None:
        """Takes a stale directory away. Of two that do so at once, or one that meets a fresh claim, none does harm."""
        with self._locked():
            folder = os.path.join(self.records, name)
            token = _identity(folder)
            if token is None or not self._is_stale(name, folder) or _identity(folder) != token:
                return
            aside = os.path.join(self.records, f".{name}{_PRIVATE}{secrets.token_hex(6)}")
            try:
                os.rename(folder, aside)
            except OSError:
                return
            if _identity(aside) != token:
                # Between looking and moving somebody else healed it and took the name: it is theirs.
                with contextlib.suppress(OSError):
                    os.rename(aside, folder)
                    return
            shutil.rmtree(aside, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps others of this host out meanwhile, where the file system can do that."""
        try:
            fd = os.open(self.records, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def release(self, name: str) -> None:
        """Removes a name that is this process's own, or whose processes have been seen to end."""
        shutil.rmtree(os.path.join(self.records, name), ignore_errors=True)


@dataclass(frozen=True)
class Claim:
    place: Place
    name: str

    def record(self, instance: Instance) -> None:
        """Makes the instance known. The record appears complete."""
        folder = os.path.join(self.place.records, self.name)
        partial = os.path.join(folder, f".record{_PRIVATE}")
        with open(partial, "x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(_to_json(instance))
        os.rename(partial, os.path.join(folder, f"{self.name}.json"))
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, ".claim"))

    def release(self) -> None:
        self.place.release(self.name)


def _make(folder: str) -> None:
    """Makes a directory and those above it that are missing, for this user alone."""
    if os.path.isdir(folder):
        return
    _make(os.path.dirname(folder))
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)


def already(name: str) -> SolitonError:
    return SolitonError(
        f"instance `{name}` already exists",
        remedy=f"stop it with `instance stop {name}`, or choose another name",
    )


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


#: Under this key of the configuration, which is opaque to peers, are soliton's own facts.
_OWN = "soliton"


def _to_json(instance: Instance) -> str:
    monitor = instance.monitor
    assert monitor is not None
    own = {
        "start": monitor.start,
        "boot": monitor.boot,
        "fakeroot": instance.fakeroot,
        "contain": instance.contain,
        "init": instance.init,
        "home": instance.home,
        "cgroup": instance.cgroup,
        "door": instance.door,
        "token": instance.token,
    }
    return json.dumps(
        {
            "pid": instance.pid,
            "ppid": monitor.pid,
            "name": instance.name,
            "user": instance.user,
            "image": instance.image,
            "config": b64encode(json.dumps({_OWN: own}).encode("ascii")).decode("ascii"),
            "userns": instance.userns,
            "cgroup": instance.cgroup is not None,
            "ip": instance.ip,
            "logErrPath": instance.log_err,
            "logOutPath": instance.log_out,
            "checkpoint": "",
            "sharensMode": instance.sharens,
        }
    )


def _from_json(name: str, record: dict[str, Any]) -> Instance:
    try:
        own = json.loads(b64decode(record.get("config") or "")).get(_OWN)
    except (ValueError, AttributeError):
        own = None
    monitor_pid = int(record["ppid"])
    common: dict[str, Any] = {
        "name": name,
        "user": str(record["user"]),
        "image": str(record["image"]),
        "pid": int(record["pid"]),
        "monitor_pid": monitor_pid,
        "log_out": str(record.get("logOutPath", "")),
        "log_err": str(record.get("logErrPath", "")),
        "ip": str(record.get("ip", "")),
        "userns": bool(record.get("userns")),
        "sharens": bool(record.get("sharensMode")),
    }
    if not isinstance(own, dict):
        return Instance(monitor=None, foreign=True, **common)
    return Instance(
        monitor=Process(monitor_pid, int(own["start"]), str(own["boot"])),
        cgroup=None if own["cgroup"] is None else str(own["cgroup"]),
        fakeroot=bool(own["fakeroot"]),
        contain=bool(own["contain"]),
        init=bool(own.get("init")),
        home=str(own["home"]),
        door=str(own["door"]),
        token=str(own["token"]),
        **common,
    )
