"""Who uses a file, and what kind of file system a place is on: to name what is in the way."""

from __future__ import annotations

import fcntl
import os
import struct
import time

from soliton.errors import LaunchError

#: What the server of an image is called while it only writes the last of what was changed (core/src/ext/lock.rs).
_FINISHING = "soliton-finish"
#: The lock in the directory of an overlay (launch/stack.py).
_LOCK_OF_DIRECTORY = ".soliton-lock"
#: How often it is looked whether anybody else goes away, and how many seconds apart. Not how long: where the machine stood still
#: nobody could go.
_LOOKS, _STEP = 100, 0.01


def wait_for_range(path: str, start: int, length: int, *, write: bool) -> bool:
    """Whether a range of a file can be locked now or in a moment. The lock itself is the core's to take."""
    try:
        fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError:
        return True  # Said better by whoever needs it open.
    try:
        looks = 0
        request = _range(start, length, write=write)
        while True:
            # Asked first, for who has finished meanwhile has given the lock back.
            patient = looks < _LOOKS or _is_finishing(path)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
                return True
            except (BlockingIOError, PermissionError):
                pass
            except OSError:
                return True  # No locks here.
            if not patient:
                return False
            looks += 1
            time.sleep(_STEP)
    finally:
        os.close(fd)


def has_locks(path: str) -> bool:
    """Whether a file, made if it is missing, can be locked by anybody at all."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return True  # Said better by whoever needs it open.
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(0, 0, write=True))
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _range(start: int, length: int, *, write: bool) -> bytes:
    """The kernel's `struct flock` for a range in bytes (fcntl(2)); a length of 0 reaches to the end."""
    return struct.pack("hhqqi4x", fcntl.F_WRLCK if write else fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)


def _is_finishing(path: str) -> bool:
    wanted = os.stat(path)
    return any(
        _text(f"/proc/{number}/comm").strip() == _FINISHING and _locks(number, wanted)
        for number in os.listdir("/proc")
        if number.isdigit()
    )


def in_use(path: str, *, write: bool) -> LaunchError:
    """What to say where somebody else uses an image, or the directory of an overlay, which is known by its lock."""
    who = holder(path)
    folder, name = os.path.split(path)
    is_directory = name == _LOCK_OF_DIRECTORY
    if who is None and is_directory:
        who = _written_in(path)
    shown, what = (folder, "it") if is_directory else (path, "the image")
    return LaunchError(
        f"`{shown}` is in use" + (" for writing" if is_directory or not write else ""),
        why=f"by {who}" if who else "by a container of another user or on another machine",
        remedy="wait for its end" + (f", or use {what} read-only, with `:ro`" if write else ""),
    )


def _written_in(lock: str) -> str | None:
    """The process and machine that whoever has a lock wrote into it."""
    pid, _, host = _text(lock)[:300].strip().partition(" ")
    if not pid.isdigit() or not host.replace("-", "").replace(".", "").isalnum():
        return None
    return f"process {pid} on {host}"


def holder(path: str) -> str | None:
    """The container (or other program) of this user's, on this machine, that holds a lock of the file."""
    try:
        wanted = os.stat(path)
    except OSError:
        return None
    for number in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        if int(number) != os.getpid() and _locks(number, wanted):
            # The server of an image is the child of what was started in the container.
            served = _text(f"/proc/{number}/comm").startswith("soliton-")
            return _described(_parent(number) if served else number) or _described(number)
    return None


def _locks(number: str, wanted: os.stat_result) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{number}/fd")
    except OSError:
        return False  # Another user's, or gone.
    for fd in descriptors:
        try:
            there = os.stat(f"/proc/{number}/fd/{fd}")
        except OSError:
            continue  # Closed meanwhile.
        if os.path.samestat(there, wanted) and "lock:" in _text(f"/proc/{number}/fdinfo/{fd}"):
            return True
    return False


def _parent(number: str) -> str:
    return next(
        (
            line.split()[1]
            for line in _text(f"/proc/{number}/status").splitlines()
            if line.startswith("PPid:")
        ),
        "0",
    )


def _described(number: str) -> str | None:
    words = _text(f"/proc/{number}/cmdline").replace("\0", " ").strip()
    if int(number) <= 1:
        return None
    return f"process {number}" + (f" (`{words[:60]}`)" if words else "")


def file_system(path: str) -> str | None:
    """The type of the file system that a path is on, as the kernel names it."""
    found: tuple[int, str] | None = None
    place = os.path.realpath(path)
    for line in _text("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        top = fields.split()[4].replace("\\040", " ")
        if (place == top or place.startswith(top.rstrip("/") + "/")) and (
            found is None or len(top) >= found[0]
        ):
            found = (len(top), rest.split()[0])
    return found[1] if found else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""
