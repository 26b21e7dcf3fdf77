"""A Debian (or Ubuntu) from its packages, by the host's debootstrap in the builder's namespaces.

debootstrap prepares its target with device nodes, which no user can make. The core mounts a minimal /dev there beforehand
and debootstrap is told that it is in a container, where it takes what is there.
"""

from __future__ import annotations

import os
import re
import shutil

from soliton.build import plans
from soliton.build.bootstrap.base import Base, Request
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import Dev, DirectoryRoot, DirectSurface

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
_SUITE = re.compile(r"[a-z][a-z0-9.-]*", re.IGNORECASE)


def bootstrap(request: Request) -> Base:
    search = request.environment.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    program = shutil.which("debootstrap", path=search)
    if program is None:
        raise BuildError(
            "`debootstrap` is not on this machine",
            why=f"{request.name}:{request.header.line} says `Bootstrap: debootstrap`",
            remedy="have the Debian package debootstrap installed, or start from `docker://debian`",
        )
    root = request.workspace.folder(request.folder, "base", mode=0o755)
    for folder in ("dev", "proc", "sys"):
        os.mkdir(f"{root}/{folder}", 0o755)
    host = architecture.host_architecture()
    argv = command(request, program, _DEBIAN.get(host, host), root)
    request.execute(
        plans.on_host(
            request.scene_of(DirectoryRoot(root), DirectSurface()),
            argv,
            root,
            request.cwd,
            mounts=(Dev(minimal=True, origin="debootstrap"),),
            more={"container": "lxc", "PATH": search, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
        )
    )
    return Base(DirectoryRoot(root), is_image=False, architecture=host)


def command(request: Request, program: str, machine: str, target: str) -> tuple[str, ...]:
    """argv of debootstrap for the header. Raises BuildError for names that are none."""
    header = request.header
    suite = header.get("osversion")
    if not _SUITE.fullmatch(suite):
        raise BuildError(
            f"{request.name}:{header.line_of('osversion')}: `{suite[:60]}` is not the name of a release",
            why="expected a name such as `bookworm`",
        )
    words = f"{header.get('include')} {request.environment.get('INCLUDE', '')}"
    packages = ",".join(filter(None, re.split(r"[\s,]+", words)))
    if packages and not _PACKAGES.fullmatch(packages):
        raise BuildError(
            f"{request.name}:{header.line_of('include')}: `{packages[:60]}` are not names of packages",
            why="expected names separated by blanks or commas",
        )
    mirror = re.sub(r"%\{OSVERSION\}", lambda _: suite, header.get("mirrorurl"), flags=re.IGNORECASE)
    if mirror and not _MIRROR.match(mirror):
        raise BuildError(
            f"{request.name}:{header.line_of('mirrorurl')}: `{mirror[:60]}` is not the address of a mirror",
            why="expected http://…, https://… or a directory",
        )
    return (
        program,
        "--variant=minbase",
        f"--include={','.join(filter(None, ('apt', packages)))}",
        f"--arch={machine}",
        suite,
        target,
        *((mirror,) if mirror else ()),
    )
