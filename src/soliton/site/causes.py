"""Why a machine forbids something: from what the kernel answered and what its settings are to a cause and two remedies.

`soliton doctor` and the explanation of a launch that failed tell the same from here. Pure: settings are read by the caller.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

#: The text of a file of /proc or /sys, stripped; None where it cannot be read.
Reader = Callable[[str], str | None]

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
MAX_USER = "/proc/sys/user/max_user_namespaces"
MAX_MOUNT = "/proc/sys/user/max_mnt_namespaces"


@dataclass(frozen=True)
class Cause:
    """why: a clause. user, admin: what each of them can do, imperative; None where there is nothing."""

    why: str
    user: str | None = None
    admin: str | None = None


def read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(1 << 16).strip()
    except OSError:
        return None


def _limit(setting: str, value: str | None) -> str:
    """Each user namespace has its own, and is held to those of all around it."""
    if value is not None and value.isdigit() and int(value) >= 1 << 30:
        return f"{setting} of a container around this one"
    return f"{setting} = {value}"


def _sysctl(setting: str) -> str:
    return f"`sysctl {setting}`, and the same line in /etc/sysctl.d for the time after a reboot"


def userns(number: int, read: Reader = read) -> Cause:
    """A refused user namespace. number: the errno."""
    if read(MAX_USER) == "0":
        return Cause("user.max_user_namespaces is 0", admin=_sysctl("user.max_user_namespaces=15000"))
    if number == errno.ENOSPC:
        return Cause(
            f"the limit is reached: {_limit('user.max_user_namespaces', read(MAX_USER))}",
            user="end containers that you do not need",
            admin=_sysctl("user.max_user_namespaces=15000"),
        )
    if read(CLONE) == "0":
        return Cause(
            "kernel.unprivileged_userns_clone is 0", admin=_sysctl("kernel.unprivileged_userns_clone=1")
        )
    if read(APPARMOR) == "1":
        return Cause(
            "AppArmor forbids it: kernel.apparmor_restrict_unprivileged_userns is 1",
            admin="`soliton doctor --apparmor-profile > /etc/apparmor.d/soliton && apparmor_parser -r /etc/apparmor.d/soliton`",
        )
    if number == errno.EPERM:
        return Cause(
            "a seccomp filter forbids it, or this is a chroot: most likely you are inside another container",
            user="start the outer container with user namespaces allowed (for Docker: `--security-opt seccomp=unconfined`)",
        )
    if number in (errno.ENOSYS, errno.EINVAL):
        return Cause("this kernel is built without user namespaces (CONFIG_USER_NS)", admin="another kernel")
    return Cause(os.strerror(number) if number else "the kernel gave no reason")


def mountns(number: int, read: Reader = read) -> Cause:
    if number == errno.ENOSPC or read(MAX_MOUNT) == "0":
        return Cause(
            f"the limit is reached: {_limit('user.max_mnt_namespaces', read(MAX_MOUNT))}",
            user="end containers that you do not need",
            admin=_sysctl("user.max_mnt_namespaces=15000"),
        )
    if number in (errno.EPERM, errno.EACCES) and read(APPARMOR) == "1":
        return userns(number, read)
    return Cause(os.strerror(number) if number else "the kernel gave no reason")


def refused_namespaces(number: int, read: Reader = read) -> tuple[str, Cause]:
    """User and mount namespace are asked for at once: which of the two it was, as the finding of `soliton doctor` is called, and why."""
    if number == errno.ENOSPC and read(MAX_USER) != "0" and read(MAX_MOUNT) == "0":
        return "mountns", mountns(number, read)
    return "userns", userns(number, read)


def fuse(number: int) -> Cause:
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Cause(
            "there is no /dev/fuse: the kernel module `fuse` is not loaded, or an outer container does not pass it on",
            user="run with `--unsquash`; of an outer container ask for `--device /dev/fuse`",
            admin="`modprobe fuse`",
        )
    if number in (errno.EACCES, errno.EPERM):
        return Cause(
            f"/dev/fuse may not be used: {os.strerror(number)}",
            user="run with `--unsquash`",
            admin="`chmod 666 /dev/fuse`",
        )
    return Cause(f"/dev/fuse cannot be used: {os.strerror(number)}", user="run with `--unsquash`")


def overlay(number: int, detail: str) -> Cause:
    return Cause(
        f"the kernel refuses an overlay in a user namespace: {detail or os.strerror(number)}",
        user="runs make missing mount points by binds instead; `--writable-tmpfs` and builds need the overlay",
        admin="a kernel of 5.11 or newer with the module `overlay`",
    )
