"""`soliton doctor`: what of this machine helps or hinders containers, each finding with what to do about it.

Facts are gathered first (`look`), findings are a pure function of them (`findings`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soliton import core
from soliton.site import causes, paths
from soliton.site import config as configuration
from soliton.site import host as hosts

Status = Literal["ok", "note", "problem"]

#: Less room than this for temporary files or images is said.
LITTLE_ROOM = 2 << 30
_SETTINGS = (causes.APPARMOR, causes.CLONE, causes.MAX_USER, causes.MAX_MOUNT)


@dataclass(frozen=True)
class Finding:
    """status: `problem`: containers cannot run, or not as asked; `note`: something works less well, or not at all that only some need.

    name: one word. what: one clause. user, admin: what each can do.
    """

    name: str
    status: Status
    what: str
    user: str | None = None
    admin: str | None = None


@dataclass(frozen=True)
class Folder:
    """A directory that soliton writes to. free: bytes. noexec: programs in it cannot be executed."""

    path: str
    writable: bool
    free: int
    noexec: bool
    nodev: bool = False


@dataclass(frozen=True)
class Facts:
    """probe: what the core tried, by name: ok, errno, call, detail. settings: files of /proc with their text.

    tables: whether the user has ranges in /etc/subuid and /etc/subgid. programs: where helpers were found.
    controllers: of the user's control group that are delegated, None where there is no cgroup v2 hierarchy to write in.
    """

    probe: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, str | None]
    root: bool
    subordinate: hosts.SubordinateIds | None
    tables: tuple[bool, bool]
    programs: Mapping[str, str | None]
    controllers: tuple[str, ...] | None
    devices: frozenset[str]
    nvidia: str | None
    temporary: Folder
    cache: Folder
    runtime: str | None
    slurm_job: str | None
    configuration: str | None


def look() -> Facts:
    """Takes the facts of this machine. Nothing is changed; what is tried is tried in a child that is thrown away."""
    environment = os.environ
    facts = hosts.look()
    problem, config = None, configuration.DEFAULTS
    try:
        config = configuration.current().config
    except Exception as error:
        problem = str(error)
    names = ("newuidmap", "newgidmap", "pasta", "slirp4netns", "mpirun", "srun", "nvidia-smi", "rocminfo")
    programs = {name: None if problem else hosts.program(name) for name in names}
    home = paths.home_of_caller(environment)
    return Facts(
        probe={k: v for k, v in core.converse("probe", {}).items() if isinstance(v, dict)},
        settings={path: causes.read(path) for path in _SETTINGS},
        root=facts.privileged,
        subordinate=None if problem else hosts.subordinate_ids(facts.uid, facts.name),
        tables=(_listed("/etc/subuid", facts), _listed("/etc/subgid", facts)),
        programs=programs,
        controllers=_controllers(facts.uid),
        devices=frozenset(p for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dri") if os.path.exists(p)),
        nvidia=causes.read("/proc/driver/nvidia/version"),
        temporary=_folder(paths.temporary(environment, configured=config.tmp_dir)),
        cache=_folder(paths.cache(environment, home, configured=config.cache_dir)),
        runtime=environment.get("XDG_RUNTIME_DIR"),
        slurm_job=environment.get("SLURM_JOB_ID"),
        configuration=problem,
    )


def _listed(table: str, host: hosts.Host) -> bool:
    try:
        with open(table, encoding="utf-8", errors="replace") as lines:
            return any(line.split(":")[0] in (host.name, str(host.uid)) for line in lines)
    except OSError:
        return False


def _controllers(uid: int) -> tuple[str, ...] | None:
    """Of the control group in which this user may make groups: systemd's for the user, else the process's own."""
    own = next(
        (
            line.partition("::")[2]
            for line in (causes.read("/proc/self/cgroup") or "").splitlines()
            if line.startswith("0::")
        ),
        None,
    )
    places = [f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service"]
    if own is not None:
        places.append(f"/sys/fs/cgroup{own}".rstrip("/"))
    for place in places:
        if os.access(f"{place}/cgroup.procs", os.W_OK) and os.access(place, os.W_OK):
            return tuple((causes.read(f"{place}/cgroup.controllers") or "").split())
    return None


def _folder(path: str) -> Folder:
    """The directory, or the nearest above it that exists: where it would be made."""
    there = path
    while not os.path.isdir(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    try:
        state = os.statvfs(there)
        return Folder(
            path,
            os.access(there, os.W_OK | os.X_OK),
            state.f_bavail * state.f_frsize,
            bool(state.f_flag & os.ST_NOEXEC),
            bool(state.f_flag & os.ST_NODEV),
        )
    except OSError:
        return Folder(path, False, 0, False)


def findings(facts: Facts) -> list[Finding]:
    """What these facts mean, the most important first."""
    found = [*_kernel(facts), *_identity(facts), *_places(facts), *_rest(facts)]
    order = {"problem": 0, "note": 1, "ok": 2}
    return sorted(found, key=lambda finding: order[finding.status])


def _tried(facts: Facts, name: str) -> tuple[bool, int, str]:
    outcome = facts.probe.get(name, {})
    return bool(outcome.get("ok")), int(outcome.get("errno") or 0), str(outcome.get("detail") or "")


def _bad(name: str, status: Status, what: str, cause: causes.Cause) -> Finding:
    return Finding(name, status, f"{what}: {cause.why}", cause.user, cause.admin)


def _kernel(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    ok, number, detail = _tried(facts, "userns")
    if not ok:
        cause = causes.userns(number, facts.settings.get)
        found.append(_bad("userns", "problem", "user namespaces cannot be made", cause))
        # Whatever else was tried needs one.
        return found
    found.append(Finding("userns", "ok", "user namespaces can be made"))
    ok, number, detail = _tried(facts, "mountns")
    if not ok:
        cause = causes.mountns(number, facts.settings.get)
        found.append(_bad("mountns", "problem", "nothing can be mounted in a user namespace", cause))
        return found
    found.append(Finding("mountns", "ok", "file systems can be mounted in one"))
    ok, number, detail = _tried(facts, "fuse")
    if ok:
        found.append(Finding("fuse", "ok", "image files can be mounted"))
    else:
        found.append(_bad("fuse", "problem", "image files cannot be mounted", causes.fuse(number)))
    ok, number, detail = _tried(facts, "overlay")
    if ok:
        found.append(Finding("overlay", "ok", "the kernel's overlay works for you"))
    else:
        found.append(_bad("overlay", "note", "no overlay", causes.overlay(number, detail)))
    ok, number, detail = _tried(facts, "procfs_in_pidns")
    if ok:
        found.append(Finding("pidns", "ok", "PID namespaces with a /proc of their own work"))
    else:
        found.append(
            Finding(
                "pidns",
                "note",
                f"no /proc of its own for a PID namespace: {os.strerror(number)}",
                "of an outer container ask for an unmasked /proc (for Docker: `--security-opt systempaths=unconfined`)",
            )
        )
    ok, number, detail = _tried(facts, "seccomp")
    if not ok:
        found.append(
            Finding("seccomp", "note", "no seccomp filters: builds cannot imitate the calls of root", None, "a kernel with CONFIG_SECCOMP_FILTER")
        )  # fmt: skip
    return found


def _identity(facts: Facts) -> list[Finding]:
    if facts.root:
        return []
    if facts.subordinate is not None:
        first, count = facts.subordinate.users
        return [Finding("subids", "ok", f"you have {count} subordinate ids from {first} on")]
    missing = [
        name
        for name, there in (
            ("newuidmap", facts.programs.get("newuidmap")),
            ("newgidmap", facts.programs.get("newgidmap")),
            ("an entry in /etc/subuid", facts.tables[0]),
            ("an entry in /etc/subgid", facts.tables[1]),
        )
        if not there
    ]
    return [
        Finding(
            "subids",
            "note",
            f"no subordinate ids: {', '.join(missing) or 'a range of at least 65535'} is missing",
            "you can do without: builds imitate other users, and `--fakeroot` has root alone",
            "install `uidmap` (RHEL: `shadow-utils`, SUSE: `shadow`) and run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`",
        )
    ]


def _places(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    if facts.configuration:
        first, *more = facts.configuration.split("\n")
        found.append(Finding("configuration", "problem", first, more[-1] if more else None))
    for name, folder, option in (
        ("scratch", facts.temporary, "TMPDIR"),
        ("cache", facts.cache, "SOLITON_CACHEDIR"),
    ):
        if not folder.writable:
            found.append(
                Finding(name, "problem", f"`{folder.path}` cannot be written", f"set {option} to a directory that you can write")
            )  # fmt: skip
        elif folder.free < LITTLE_ROOM:
            found.append(
                Finding(name, "note", f"`{folder.path}` has {folder.free >> 20} MiB left", f"set {option} to a place with more room, or run `soliton cache clean`")
            )  # fmt: skip
        else:
            found.append(Finding(name, "ok", f"`{folder.path}` has {folder.free >> 30} GiB left"))
    if facts.temporary.noexec:
        found.append(
            Finding("noexec", "note", f"programs in `{facts.temporary.path}` cannot be executed (noexec)", "for builds and `--unsquash` set TMPDIR to another place")
        )  # fmt: skip
    return found


def _rest(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    needed = {"cpu", "memory", "pids"}
    if facts.controllers is None:
        found.append(
            Finding("cgroups", "note", "no control group is delegated to you: limits of resources cannot be set", "log in by a session of systemd, or use the limits of the batch system", "`loginctl enable-linger USER`")
        )  # fmt: skip
    elif needed - set(facts.controllers):
        missing = ", ".join(sorted(needed - set(facts.controllers)))
        found.append(
            Finding("cgroups", "note", f"your control group lacks {missing}", None, "in a drop-in of user@.service: `Delegate=cpu cpuset io memory pids`")
        )  # fmt: skip
    else:
        found.append(Finding("cgroups", "ok", "a control group is delegated to you"))
    network = facts.programs.get("pasta") or facts.programs.get("slirp4netns")
    if network:
        found.append(Finding("network", "ok", f"{network} can connect a container's own network"))
    else:
        found.append(
            Finding("network", "note", "neither pasta nor slirp4netns is here: `--net` has no way out", None, "install `passt`")
        )  # fmt: skip
    if facts.nvidia and "/dev/nvidiactl" not in facts.devices:
        found.append(
            Finding("gpu", "note", "an NVIDIA driver is loaded, but there is no /dev/nvidiactl", "in a job ask for a GPU", "`nvidia-modprobe -c 0`")
        )  # fmt: skip
    elif facts.nvidia:
        found.append(Finding("gpu", "ok", f"an NVIDIA driver is loaded, version {_driver(facts.nvidia)}"))
    elif "/dev/kfd" in facts.devices:
        found.append(Finding("gpu", "ok", "an AMD GPU is here"))
    if facts.programs.get("mpirun"):
        found.append(Finding("mpi", "ok", f"MPI of the host: {facts.programs['mpirun']}"))
    if facts.programs.get("srun"):
        job = f", job {facts.slurm_job}" if facts.slurm_job else ""
        found.append(Finding("slurm", "ok", f"Slurm: {facts.programs['srun']}{job}"))
    return found


def _driver(text: str) -> str:
    words = text.split()
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "?")


def apparmor_profile(program: str) -> str:
    """A profile that lets this installation make user namespaces where AppArmor keeps unknown programs from it."""
    if any(character in program for character in '"\n\\{}[]*?^,'):
        raise ValueError(program)
    return f"""\
# Lets soliton make user namespaces. It confines nothing: what a container may is decided by the kernel's permissions.
# Put it into /etc/apparmor.d/soliton, then: apparmor_parser -r /etc/apparmor.d/soliton
abi <abi/4.0>,
include <tunables/global>

profile soliton "{program}" flags=(unconfined) {{
  userns,
  include if exists <local/soliton>
}}
"""
