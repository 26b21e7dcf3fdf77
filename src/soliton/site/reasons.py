"""Why something is forbidden here: what the core reports, as a sentence, a cause and a remedy.

Looks at the machine only after a failure. The table is ordered: the first rule that fits speaks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from soliton.errors import LaunchError


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def explain(failure: Mapping[str, Any]) -> LaunchError:
    """failure: code, call, errno, path and detail, as the core tells them."""
    code = str(failure.get("code") or "")
    number = int(failure.get("errno") or 0)
    path = failure.get("path")
    detail = failure.get("detail")
    call = str(failure.get("call") or "")
    reason = os.strerror(number) if number else (detail or "")
    named = f"`{path}`" if path else "it"
    rule = _RULES.get(code)
    if rule is not None:
        return rule(call, number, named, reason, str(detail or ""))
    place = f" at `{path}`" if path else ""
    why = ": ".join(part for part in (call, reason if not detail else f"{reason} ({detail})".strip()) if part)
    return LaunchError(f"the container could not be started{place}", why=why or None)


def _userns(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    what = "this machine does not let you make a user namespace"
    if number == errno.ENOSPC:
        return LaunchError(
            what,
            why=f"the limit is reached: user.max_user_namespaces = {_read('/proc/sys/user/max_user_namespaces')}",
            remedy="ask the administrator for `sysctl user.max_user_namespaces=15000`",
        )
    if _read("/proc/sys/user/max_user_namespaces") == "0":
        return LaunchError(
            what,
            why="user.max_user_namespaces is 0",
            remedy="ask the administrator for `sysctl user.max_user_namespaces=15000`",
        )
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return LaunchError(
            what,
            why="kernel.unprivileged_userns_clone is 0",
            remedy="ask the administrator for `sysctl kernel.unprivileged_userns_clone=1`",
        )
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return LaunchError(
            what,
            why="AppArmor forbids it: kernel.apparmor_restrict_unprivileged_userns is 1",
            remedy="ask the administrator for an AppArmor profile for soliton that allows `userns`",
        )
    if number == errno.EPERM:
        return LaunchError(
            what,
            why="a seccomp filter forbids it, or this is a chroot: most likely you are inside another container",
            remedy="start the outer container with user namespaces allowed (for Docker: `--security-opt seccomp=unconfined`)",
        )
    if number == errno.ENOSYS or number == errno.EINVAL:
        return LaunchError(what, why="this kernel is built without user namespaces (CONFIG_USER_NS)")
    return LaunchError(what, why=f"{call}: {reason} {detail}".strip())


def _fuse_missing(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        "the image cannot be mounted: there is no /dev/fuse here",
        why="the kernel module `fuse` is not loaded, or an outer container does not pass the device on",
        remedy="ask for `modprobe fuse` (or `--device /dev/fuse`), or run with `--unsquash`",
    )


def _fuse_denied(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        "the image cannot be mounted: /dev/fuse may not be used",
        why=f"{call}: {reason}",
        remedy="ask the administrator for `chmod 666 /dev/fuse`, or run with `--unsquash`",
    )


def _bind_source(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ENOENT:
        return LaunchError(f"the bind source {named} does not exist", remedy="make it, or leave the bind out")
    return LaunchError(f"the bind source {named} cannot be used", why=reason)


def _bind_target(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        f"{named} cannot be made in the container, so nothing can be mounted there",
        why=" ".join(part for part in (reason, detail) if part),
        remedy="with `--writable` a mount point has to exist in the image; make it there first",
    )


def _idmap(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        "your subordinate ids cannot be mapped",
        why=detail or f"{call}: {reason}",
        remedy="the package `uidmap` and an entry for you in /etc/subuid and /etc/subgid are needed",
    )


def _overlay(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        "the kernel refuses an overlay here",
        why=f"{call}: {reason} {detail}".strip(),
        remedy="for builds choose another `--tmpdir` on a local file system; for runs try `--underlay`",
    )


def _image(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(f"the image {named} cannot be used", why=detail or f"{call}: {reason}")


def _mount(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ENOSPC:
        return LaunchError(
            "the container's mounts cannot be made",
            why="the limit is reached: fs.mount-max, or user.max_mnt_namespaces",
            remedy="ask the administrator to raise it",
        )
    place = f" at {named}" if named != "it" else ""
    return LaunchError(
        f"the container's mounts cannot be made{place}", why=f"{call}: {reason} {detail}".strip()
    )


def _copy_source(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(f"{named} cannot be copied into the container", why=detail or reason)


def _network(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    why = ": ".join(part for part in (call, detail or reason) if part)
    return LaunchError(
        "the container's network could not be connected",
        why=f"{named}: {why}" if named != "it" else why,
        remedy=_tun_remedy() or "use `--network none` for a loopback only; `-d` shows more",
    )


def _tun_remedy() -> str | None:
    if not os.path.exists("/dev/net/tun"):
        return (
            "there is no /dev/net/tun here: ask the administrator for `modprobe tun`, or use `--network none`"
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "you may not use /dev/net/tun: ask the administrator for `chmod 666 /dev/net/tun`"
    return None


def _netns(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.EPERM:
        return LaunchError(
            f"the network namespace {named} cannot be joined",
            why="it belongs to a user namespace that is not yours",
            remedy="only root may join it; your own containers' ones you may",
        )
    return LaunchError(f"the network namespace {named} cannot be joined", why=detail or reason)


_RULES = {
    "network": _network,
    "netns": _netns,
    "userns": _userns,
    "fuse-missing": _fuse_missing,
    "fuse-denied": _fuse_denied,
    "bind-source": _bind_source,
    "bind-target": _bind_target,
    "idmap": _idmap,
    "overlay": _overlay,
    "image": _image,
    "mount": _mount,
    "copy-source": _copy_source,
}
