"""A userland of one static program: the host's busybox, or the one that `MirrorURL` names.

Its applets become links where busybox itself wants them (`/bin/ls`, `/usr/bin/env`, …). The program tells them when it is run
in the new root, confined like every other step. Same program, same tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from soliton.build import emulation
from soliton.build.bootstrap.base import Base, Request
from soliton.build.bootstrap.download import download
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot, Environment, Plan, Proc, Process, ReadOnlySurface

#: More than twice the largest static busybox there is.
MAX_SIZE = 16 << 20
#: Of files that are not the program: a time that is the same in every build.
TIME = 0
_APPLET = re.compile(r"(?:bin|sbin|usr/bin|usr/sbin)/[A-Za-z0-9\[_.+-]{1,64}|linuxrc")
_FOLDERS = ("bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "root", "home", "var", "var/tmp", "tmp")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
}


def bootstrap(request: Request) -> Base:
    url = request.header.get("mirrorurl")
    version = request.header.get("osversion")
    if url:
        program = download(
            re.sub(r"%\{OSVERSION\}", lambda _: version, url, flags=re.IGNORECASE), MAX_SIZE, "busybox"
        )
    else:
        program = _of_host(request.environment)
    made_for = _made_for(request, program, url or "the host's busybox")
    root = request.workspace.folder(request.folder, "base", mode=0o755)
    for folder in _FOLDERS:
        os.mkdir(f"{root}/{folder}", 0o755)
        os.chmod(f"{root}/{folder}", 0o1777 if folder.endswith("tmp") else 0o755)
    for name, text in _FILES.items():
        _write(f"{root}/{name}", text.encode(), 0o644)
    _write(f"{root}/bin/busybox", program, 0o755)
    for path in applets(_list(request, root, made_for)):
        target = os.path.relpath("/bin/busybox", os.path.dirname(f"/{path}"))
        os.symlink(target, f"{root}/{path}")
        os.utime(f"{root}/{path}", (TIME, TIME), follow_symlinks=False)
    for folder in ("", *_FOLDERS):
        os.utime(f"{root}/{folder}", (TIME, TIME))
    return Base(DirectoryRoot(root), is_image=False, architecture=made_for)


def applets(listing: str) -> list[str]:
    """The paths in what `busybox --list-full` prints, without leading slash, but busybox itself."""
    found = (line.strip().lstrip("/") for line in listing.splitlines())
    return sorted({path for path in found if _APPLET.fullmatch(path)} - {"bin/busybox"})


def _of_host(environment: Mapping[str, str]) -> bytes:
    folders = environment.get("PATH", "").split(":")
    for folder in [*folders, "/bin", "/usr/bin", "/usr/local/bin"]:
        path = os.path.join(folder, "busybox") if folder else ""
        if path and os.path.isfile(path):
            with open(path, "rb") as file:
                program = file.read(MAX_SIZE + 1)
            if len(program) <= MAX_SIZE and architecture.is_static(program):
                return program
    raise BuildError(
        "there is no static `busybox` on this machine to start from",
        why="`Bootstrap: busybox` without `MirrorURL` takes the host's",
        remedy="install the Debian package busybox-static, or give `MirrorURL`",
    )


def _made_for(request: Request, program: bytes, origin: str) -> str:
    """For which architecture the program is, that it has to run for."""
    made_for = architecture.from_elf(program[:64])
    if made_for is None or len(program) > MAX_SIZE or not architecture.is_static(program):
        raise BuildError(f"{origin} is not a static program for Linux")
    if request.machine and made_for != request.machine:
        raise BuildError(
            f"{origin} is for {made_for} and not for {request.machine}",
            remedy="`MirrorURL` names one for that machine",
        )
    if not emulation.possible(made_for, request.environment):
        raise BuildError(
            f"{origin} cannot run here", why=emulation.why_not(made_for), remedy=emulation.remedy()
        )
    return made_for


def _list(request: Request, root: str, made_for: str) -> str:
    """What the program says its applets are, run in the new root: it may come from anywhere."""
    plan = Plan(
        identity=request.scene.identity,
        root=DirectoryRoot(root),
        surface=ReadOnlySurface(),
        mounts=() if architecture.runnable(made_for) else (Proc(origin="busybox"),),
        process=Process("exec", ("/bin/busybox", "--list-full"), Environment(scripts=False), cwd=("/",)),
        namespaces=("pid",),
        name="busybox",
        reporter=request.scene.reporter,
    )
    return request.capture(emulation.furnished(plan, made_for, "busybox", request.environment))


def _write(path: str, data: bytes, mode: int) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
    os.utime(path, (TIME, TIME))
