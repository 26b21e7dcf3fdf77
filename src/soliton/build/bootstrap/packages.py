"""What the agents that call a package manager of the host have in common: finding it, and reading the header.

The package manager runs on the host, in the builder's user namespace, and installs into a directory of the workspace. What a
header says goes onto its command line, so every value is checked to be no option.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping

from soliton.build import epoch, plans
from soliton.build.bootstrap.base import Request
from soliton.build.workspace import Workspace
from soliton.errors import BuildError
from soliton.launch.plan import Dev, DirectoryRoot, DirectSurface, Environment, Mount, Plan, Process

#: Of other distributions than Debian: also groups (`@core`), paths (`/etc/redhat-release`) and versions (`gcc>=12`).
_PACKAGE = re.compile(r"[A-Za-z0-9@/_][A-Za-z0-9@/_.+:~^=<>*()-]*")
_ADDRESS = re.compile(r"(?:https?|ftp|file)://\S+|/\S*")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+~-]*")


def search_path(environment: Mapping[str, str]) -> str:
    """PATH, and where programs of the administrator are."""
    return environment.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def program(request: Request, names: Iterable[str], package: str) -> str:
    """The first of these programs that is installed. package: what Debian calls it. Raises BuildError."""
    search = search_path(request.environment)
    wanted = list(names)
    for name in wanted:
        found = shutil.which(name, path=search)
        if found is not None:
            return found
    agent = request.header.agent
    raise BuildError(
        " and ".join(f"`{name}`" for name in wanted)
        + (" is" if len(wanted) == 1 else " are")
        + " not on this machine",
        why=f"{request.name}:{request.header.line} says `Bootstrap: {agent}`, which has it make the root",
        remedy=f"have it installed (Debian package {package}), or start from an image of that distribution",
    )


def release(request: Request) -> str:
    """`OSVersion`, which may be missing unless an address needs it."""
    header = request.header
    version = header.get("osversion")
    if version and not _RELEASE.fullmatch(version):
        raise BuildError(
            f"{request.name}:{header.line_of('osversion')}: `{version[:60]}` is not the name of a release",
            why="expected something like `9` or `15.6`",
        )
    return version


def address(request: Request, keyword: str) -> str:
    """The value of a keyword as an address, `%{OSVERSION}` replaced; a path becomes file://. Empty if there is none."""
    header = request.header
    text = header.get(keyword)
    if not text:
        return ""
    place = f"{request.name}:{header.line_of(keyword)}"
    version = release(request)
    if re.search(r"%\{OSVERSION\}", text, re.IGNORECASE) and not version:
        raise BuildError(
            f"{place}: `%{{OSVERSION}}` has no value", why="the header has no line `OSVersion: …`"
        )
    text = re.sub(r"%\{OSVERSION\}", lambda _: version, text, flags=re.IGNORECASE)
    if not _ADDRESS.fullmatch(text):
        raise BuildError(
            f"{place}: `{text[:80]}` is not the address of a package repository",
            why="expected http://…, https://…, ftp://…, file:///… or a directory",
        )
    return f"file://{text}" if text.startswith("/") else text


def packages(request: Request) -> tuple[str, ...]:
    """`Include`, and the variable INCLUDE behind it: names separated by blanks or commas."""
    header = request.header
    words = re.split(r"[\s,]+", f"{header.get('include')} {request.environment.get('INCLUDE', '')}")
    found = tuple(filter(None, words))
    for word in found:
        if not _PACKAGE.fullmatch(word):
            raise BuildError(
                f"{request.name}:{header.line_of('include')}: `{word[:60]}` is not the name of a package",
                why="expected names separated by blanks or commas",
            )
    return found


def key(request: Request) -> str:
    """Where the key is that signatures of packages are checked with: an https:// address or a path; empty if none is named."""
    named = request.environment.get("GPG", "")
    if named and not named.startswith(("https://", "/")):
        raise BuildError(
            f"`{named[:80]}` cannot be trusted as a key for packages",
            why="the variable GPG names the key that signatures are checked with",
            remedy="give an https:// address or an absolute path",
        )
    return named


def start(request: Request) -> str:
    """An empty root for a package manager: its directory, with what it expects to be there."""
    root = request.workspace.folder(request.folder, "base", mode=0o755)
    for name in ("dev", "proc", "sys"):
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", 0o755)
    return root


def run(request: Request, argv: tuple[str, ...], root: str, variables: Mapping[str, str]) -> None:
    """The package manager, as root of the builder's namespaces, with a minimal /dev in the root it fills."""
    scene = request.scene_of(DirectoryRoot(root), DirectSurface())
    mounts: tuple[Mount, ...] = (Dev(minimal=True, origin=request.header.agent),)
    # rpm writes down when it has installed a package.
    time = epoch.EARLIEST if request.scene.epoch is None else request.scene.epoch
    more = {"PATH": search_path(request.environment), "SOURCE_DATE_EPOCH": str(time), **variables}
    request.execute(plans.on_host(scene, argv, root, request.cwd, mounts=mounts, more=more))


def inside(request: Request, root: str, argv: tuple[str, ...]) -> str:
    """What a program of the new root prints, run there as the builder's root."""
    return request.capture(
        Plan(
            identity=request.scene.identity,
            root=DirectoryRoot(root),
            surface=DirectSurface(),
            mounts=(Dev(minimal=True, origin=request.header.agent),),
            process=Process(
                "exec",
                argv,
                Environment(scripts=False),
                cwd=("/",),
                umask=0o022,
                capabilities="all",
                emulate_root=request.scene.single_id,
            ),
            namespaces=("pid",),
            name=argv[0],
            reporter=request.scene.reporter,
        )
    )


def private_home(workspace: Workspace, folder: str) -> str:
    """A home for programs that would otherwise read or write the user's."""
    return workspace.folder(folder, "home")
