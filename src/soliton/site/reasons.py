"""Why something is forbidden here: what the core reports, as a sentence, a cause and a remedy.

Looks at the machine only after a failure. The table is ordered: the first rule that fits speaks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from soliton.errors import LaunchError
from soliton.site import causes

#: What the kernel says of a FUSE file system without a server, and the failures in which that is the image's.
_ABANDONED = (errno.ENOTCONN, errno.ECONNABORTED)
_OF_IMAGE = ("image", "mount", "overlay", "bind-target")


def explain(failure: Mapping[str, Any]) -> LaunchError:
    """failure: code, call, errno, path and detail, as the core tells them."""
    code = str(failure.get("code") or "")
    number = int(failure.get("errno") or 0)
    path = failure.get("path")
    detail = failure.get("detail")
    call = str(failure.get("call") or "")
    reason = os.strerror(number) if number else (detail or "")
    named = f"`{path}`" if path else "it"
    if number in _ABANDONED and code in _OF_IMAGE:
        return LaunchError(
            "the image was lost while its container was being started",
            why="the process that serves its files has ended",
            remedy="run the command again, which starts another",
        )
    rule = _RULES.get(code)
    if rule is not None:
        return rule(call, number, named, reason, str(detail or ""))
    place = f" at `{path}`" if path else ""
    why = ": ".join(part for part in (call, reason if not detail else f"{reason} ({detail})".strip()) if part)
    return LaunchError(f"the container could not be started{place}", why=why or None)


def _told(what: str, cause: causes.Cause, name: str) -> LaunchError:
    """A failure by its cause; the finding of `soliton doctor` with this name tells the same at length."""
    more = f"; `soliton doctor {name}` tells more"
    remedy = cause.user or (f"ask the administrator for {cause.admin}" if cause.admin else None)
    return LaunchError(what, why=cause.why, remedy=remedy and remedy + more)


def _userns(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    name, cause = causes.refused_namespaces(number)
    kind = {"userns": "user", "mountns": "mount"}[name]
    return _told(f"this machine does not let you make a {kind} namespace", cause, name)


def _fuse_missing(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return _told("the image cannot be mounted: there is no /dev/fuse here", causes.fuse(errno.ENOENT), "fuse")


def _fuse_denied(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return _told("the image cannot be mounted: /dev/fuse may not be used", causes.fuse(number), "fuse")


def _too_many(named: str) -> LaunchError:
    return LaunchError(
        f"there are too many binds: {named} cannot be opened besides the others",
        why="every bind needs an open file until the container is put together",
        remedy="raise the limit with `ulimit -n`, or bind a directory above",
    )


def _bind_source(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ENOENT:
        return LaunchError(f"the bind source {named} does not exist", remedy="make it, or leave the bind out")
    if number == errno.EMFILE:
        return _too_many(named)
    if number == errno.ELOOP:
        return LaunchError(f"the bind source {named} cannot be used", why="its links lead in a circle")
    return LaunchError(f"the bind source {named} cannot be used", why=reason)


def _bind_target(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ELOOP:
        return LaunchError(
            f"nothing can be mounted at {named} in the container",
            why="links of the image lead in a circle there",
        )
    if number == errno.EMFILE:
        return _too_many(named)
    if number in (errno.EISDIR, errno.ENOTDIR) and detail:
        return LaunchError(
            f"nothing can be mounted at {named} in the container", why=detail, remedy="choose another place"
        )
    return LaunchError(
        f"{named} cannot be made in the container, so nothing can be mounted there",
        why=": ".join(part for part in (reason, detail) if part),
        remedy="make it in that directory first, or choose another place"
        if detail
        else "with `--writable` a mount point has to exist in the image; make it there first",
    )


def _idmap(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        "your subordinate ids cannot be mapped",
        why=detail or f"{call}: {reason}",
        remedy="it takes newuidmap and newgidmap as root installs them (package uidmap, on RHEL shadow-utils) and your"
        " entries in /etc/subuid and /etc/subgid; `soliton doctor subids` tells more",
    )


def _overlay(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    why = f"{call}: {reason} {detail}".strip()
    if named == "it":
        return LaunchError(
            "the kernel refuses an overlay here",
            why=why,
            remedy="for builds choose another `--tmpdir` on a local file system; for runs try `--underlay`",
        )
    from soliton.site.holders import file_system

    if number == errno.EACCES or number == errno.EPERM:
        return LaunchError(
            f"the overlay {named} cannot be written", why=why, remedy="use it read-only, with `:ro`"
        )
    return LaunchError(
        f"the file system of {named} ({file_system(named.strip('`')) or 'unknown'}) cannot carry a writable overlay",
        why=why,
        remedy="put it on a local file system, or make an image there: `overlay create IMAGE`",
    )


def _locked(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    from soliton.site.holders import in_use

    return in_use(named.strip("`"), write=detail == "write")


def _image(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ESTALE:
        return LaunchError(
            f"the image {named} was replaced while it was being started",
            why="what is there now is not what was looked at before",
            remedy="run the command again",
        )
    image = "the image" if named == "it" else f"the image {named}"
    return LaunchError(f"{image} cannot be used", why=detail or f"{call}: {reason}")


def _mount(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if number == errno.ENOSPC:
        return LaunchError(
            "the container's mounts cannot be made",
            why="the limit is reached: fs.mount-max, or user.max_mnt_namespaces",
            remedy="ask the administrator to raise it",
        )
    place = f" at {named}" if named != "it" else ""
    if number in (errno.EPERM, errno.EACCES) and causes.read(causes.APPARMOR) == "1":
        # There a user namespace can be made, but nothing be done in it.
        return _told(f"the container's mounts cannot be made{place}", causes.mountns(number), "mountns")
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


def _outfit(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    return LaunchError(
        f"{named} could not set up the container",
        why=": ".join(part for part in (call, detail or reason) if part),
        remedy="`--nv` without `--nvccli` needs no such program",
    )


def _fusemount(call: str, number: int, named: str, reason: str, detail: str) -> LaunchError:
    if call in ("/dev/fuse", "fsopen"):
        return LaunchError(
            f"nothing can be mounted at {named}: /dev/fuse may not be used", why=causes.fuse(number).why
        )
    return LaunchError(
        f"the program {named} of `--fusemount` serves nothing",
        why=": ".join(part for part in (call, detail or reason) if part),
        remedy="a program of the type `host` is looked for on the host, one of the type `container` in the image",
    )


_RULES = {
    "fusemount": _fusemount,
    "outfit": _outfit,
    "network": _network,
    "netns": _netns,
    "userns": _userns,
    "fuse-missing": _fuse_missing,
    "fuse-denied": _fuse_denied,
    "bind-source": _bind_source,
    "bind-target": _bind_target,
    "idmap": _idmap,
    "overlay": _overlay,
    "locked": _locked,
    "image": _image,
    "mount": _mount,
    "copy-source": _copy_source,
}
