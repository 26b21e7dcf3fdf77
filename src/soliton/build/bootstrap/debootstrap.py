"""A Debian (or Ubuntu) from its packages, by the host's debootstrap in the builder's namespaces.

debootstrap prepares its target with device nodes, which no user can make. The core mounts a minimal /dev there
beforehand and debootstrap is told that it is in a container, where it takes what is there. Where only mmdebstrap is
installed, that does the work; it mounts devices itself, which a root of a single id cannot.

For another architecture debootstrap only unpacks; its second stage, in which the packages' programs run, is a step in the new root, with an
emulator as such steps have.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass

from soliton.build import emulation, plans
from soliton.build.bootstrap import packages
from soliton.build.bootstrap.base import Base, Request
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import Dev, DirectoryRoot, DirectSurface, Environment, Mount, Plan, Proc, Process

#: OCI name → Debian's.
_DEBIAN = {
    "386": "i386",
    "amd64": "amd64",
    "arm": "armhf",
    "arm64": "arm64",
    "loong64": "loong64",
    "mips64le": "mips64el",
    "ppc64le": "ppc64el",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
_PACKAGES = re.compile(r"[a-z0-9][a-z0-9+.-]*(,[a-z0-9][a-z0-9+.-]*)*")
_MIRROR = re.compile(r"(https?://|file:/|copy:/|ssh:/|/)")
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_SUITE = re.compile(r"[a-z][a-z0-9.-]*", re.IGNORECASE)


def bootstrap(request: Request) -> Base:
    search = packages.search_path(request.environment)
    program = shutil.which("debootstrap", path=search)
    second = shutil.which("mmdebstrap", path=search)
    machine = request.machine or architecture.host_architecture()
    foreign = not architecture.runnable(machine)
    if program is None and (second is None or request.scene.single_id or foreign):
        raise BuildError(
            "`debootstrap` is not on this machine",
            why=f"{request.name}:{request.header.line} says `Bootstrap: debootstrap`",
            remedy="have the Debian package debootstrap installed, or start from `docker://debian`",
        )
    wanted = read_header(request, machine)
    root = request.workspace.folder(request.folder, "base", mode=0o755)
    place = mount_point(root, wanted.mirror)
    variables = {"PATH": search, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    mounts: tuple[Mount, ...] = ()
    if program is not None:
        argv = debootstrap(program, wanted, place, foreign=foreign)
        variables["container"] = "lxc"
        mounts = (Dev(minimal=True, origin="debootstrap"),)
        for folder in ("dev", "proc", "sys"):
            request.workspace.folder(request.folder, "base", folder, mode=0o755)
    else:
        assert second is not None
        argv = mmdebstrap(second, wanted, place)
        variables["TMPDIR"] = request.workspace.folder(request.folder, "mmdebstrap", mode=0o755)
    scene = request.scene_of(DirectoryRoot(root), DirectSurface())
    request.execute(plans.on_host(scene, argv, place, request.cwd, mounts=mounts, more=variables))
    if foreign:
        request.execute(second_stage(request, root, machine))
    return Base(DirectoryRoot(root), is_image=False, architecture=machine)


def second_stage(request: Request, root: str, machine: str) -> Plan:
    """Where the packages' own programs run."""
    scene = request.scene
    variables = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "DEBIAN_FRONTEND": "noninteractive",
        "container": "lxc",
        **plans.same_everywhere(scene),
    }
    plan = Plan(
        identity=scene.identity,
        root=DirectoryRoot(root),
        surface=DirectSurface(),
        mounts=(Proc(origin="debootstrap"), Dev(minimal=True, origin="debootstrap")),
        process=Process(
            "exec",
            ("/debootstrap/debootstrap", "--second-stage"),
            Environment(fixed=variables, evaluate=False, scripts=False),
            cwd=("/",),
            umask=0o022,
            capabilities="all",
            emulate_root=scene.single_id,
            emulate_devices=scene.mapped and not scene.single_id,
        ),
        namespaces=("pid", "uts"),
        hostname=plans.HOSTNAME,
        name="debootstrap",
        reporter=scene.reporter,
    )
    return emulation.furnished(plan, machine, f"Debian's {machine}", request.environment)


def mount_point(root: str, mirror: str) -> str:
    """Where the root appears meanwhile: debootstrap cannot work in a directory whose name a shell would take apart."""
    if _PLAIN.fullmatch(root):
        return root
    # Only this one program sees it there.
    free = (place for place in ("/mnt", "/srv", "/media") if os.path.isdir(place) and place not in mirror)
    return next(free, root)


@dataclass(frozen=True)
class Wanted:
    """What the header asks for, checked. machine: as Debian calls it. mirror: empty is the program's own choice."""

    suite: str
    packages: tuple[str, ...]
    mirror: str
    machine: str


def debootstrap(program: str, wanted: Wanted, target: str, *, foreign: bool = False) -> tuple[str, ...]:
    """argv of debootstrap. foreign: of its first stage only."""
    return (
        program,
        *(("--foreign",) if foreign else ()),
        "--variant=minbase",
        f"--include={','.join(wanted.packages)}",
        f"--arch={wanted.machine}",
        wanted.suite,
        target,
        *((wanted.mirror,) if wanted.mirror else ()),
    )


def mmdebstrap(program: str, wanted: Wanted, target: str) -> tuple[str, ...]:
    """argv of mmdebstrap, where the other is missing. It mounts devices itself, for which it needs more than one id."""
    return (
        program,
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--skip=check/empty,check/qemu",
        f"--include={','.join(wanted.packages)}",
        f"--architectures={wanted.machine}",
        wanted.suite,
        target,
        *((wanted.mirror,) if wanted.mirror else ()),
    )


def read_header(request: Request, machine: str) -> Wanted:
    """The header's values. machine: OCI name. Raises BuildError for names that are none."""
    header = request.header
    suite = header.get("osversion")
    if not _SUITE.fullmatch(suite):
        raise BuildError(
            f"{request.name}:{header.line_of('osversion')}: `{suite[:60]}` is not the name of a release",
            why="expected a name such as `bookworm`",
        )
    words = f"{header.get('include')} {request.environment.get('INCLUDE', '')}"
    names = ",".join(filter(None, re.split(r"[\s,]+", words)))
    if names and not _PACKAGES.fullmatch(names):
        raise BuildError(
            f"{request.name}:{header.line_of('include')}: `{names[:60]}` are not names of packages",
            why="expected names separated by blanks or commas",
        )
    mirror = re.sub(r"%\{OSVERSION\}", lambda _: suite, header.get("mirrorurl"), flags=re.IGNORECASE)
    if mirror and not _MIRROR.match(mirror):
        raise BuildError(
            f"{request.name}:{header.line_of('mirrorurl')}: `{mirror[:60]}` is not the address of a mirror",
            why="expected http://…, https://… or a directory",
        )
    return Wanted(suite, ("apt", *filter(None, names.split(","))), mirror, _DEBIAN.get(machine, machine))
