"""openSUSE and SUSE Linux Enterprise from packages, by the host's zypper.

The repositories of the header become those of the new system too. What has to be registered to be installed (`Product`) is
registered by SUSEConnect, which only SUSE's own machines have.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil

from soliton.build.bootstrap import packages, rpm_database
from soliton.build.bootstrap.base import Base, Request
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot

#: What every such system has.
ALWAYS = ("aaa_base",)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._/+-]*")


def bootstrap(request: Request) -> Base:
    program = packages.program(request, ("zypper",), "zypper")
    repositories = read_repositories(request)
    registering = read_registration(request)
    wanted = packages.packages(request)
    root = packages.start(request)
    home = rpm_database.home(request)
    cache = request.workspace.folder(request.folder, "zypp")
    variables = {"HOME": home, "ZYPP_LOCKFILE_ROOT": cache, "ZYPP_LOGFILE": f"{cache}/zypper.log"}
    for argv in register(request, registering, root) if registering else ():
        packages.run(request, argv, root, variables)
    common = (
        program, "--root", root, "--cache-dir", cache, "--non-interactive", "--gpg-auto-import-keys",
        *(("--releasever", version) if (version := packages.release(request)) else ()),
    )  # fmt: skip
    for name, url in repositories:
        packages.run(request, (*common, "addrepo", "--check", url, name), root, variables)
    packages.run(request, (*common, "refresh"), root, variables)
    install = ("install", "--auto-agree-with-licenses", "--download-in-advance", "--no-recommends")
    packages.run(request, (*common, *install, *ALWAYS, *wanted), root, variables)
    rpm_database.settle(request, root)
    # It has part of its cache below the same path in the new root; with it go directories that came to be for it alone.
    here, parent = shlex.quote(cache), shlex.quote(os.path.dirname(cache))
    packages.inside(
        request, root, ("/bin/sh", "-c", f"rm -rf {here}; cd / && rmdir -p .{parent} 2>/dev/null || :")
    )
    return Base(DirectoryRoot(root), is_image=False, architecture=architecture.host_architecture())


def read_repositories(request: Request) -> list[tuple[str, str]]:
    """(name, address) of each repository: `MirrorURL`, `UpdateURL`, `OtherURL0`, …"""
    found = []
    others = sorted(
        (entry.keyword for entry in request.header.entries if re.fullmatch(r"otherurl\d+", entry.keyword)),
        key=lambda keyword: int(keyword.removeprefix("otherurl")),
    )
    for keyword, name in (("mirrorurl", "repo-oss"), ("updateurl", "repo-update")):
        if url := packages.address(request, keyword):
            found.append((name, url))
    for keyword in others:
        if url := packages.address(request, keyword):
            found.append((f"repo-{keyword.removeprefix('otherurl')}", url))
    if not found and not request.header.get("product"):
        raise BuildError(
            f"{request.name}:{request.header.line}: `Bootstrap: zypper` names no repository",
            why="it needs `MirrorURL`, `OtherURL0` or, with a subscription, `Product`",
        )
    return found


def read_registration(request: Request) -> dict[str, str]:
    """The header's words about a subscription, checked; empty if there are none."""
    header = request.header
    found = {}
    for keyword in ("product", "user", "regcode", "registerurl", "productpgp", "modules"):
        value = header.get(keyword)
        if not value:
            continue
        words = re.split(r"[\s,]+", value) if keyword == "modules" else [value]
        for word in words:
            if keyword in ("registerurl", "productpgp"):
                good = word.startswith(("https://", "http://", "/"))
            else:
                good = _WORD.fullmatch(word) is not None
            if not good:
                raise BuildError(
                    f"{request.name}:{header.line_of(keyword)}: `{word[:60]}` is not what can stand here",
                    why="expected an address" if keyword.endswith(("url", "pgp")) else "expected a name",
                )
        found[keyword] = value
    if not found:
        return {}
    if "product" not in found or "regcode" not in found:
        missing = "Product" if "product" not in found else "Regcode"
        raise BuildError(
            f"{request.name}:{header.line}: a registration needs `{missing}`",
            why="the header has " + ", ".join(f"`{name}`" for name in found),
        )
    if "/" not in found["product"] and not packages.release(request):
        raise BuildError(
            f"{request.name}:{header.line_of('product')}: the version of `{found['product']}` is not said",
            why="a registration is for a product of one version",
            remedy="add a line `OSVersion: …`",
        )
    return found


def register(request: Request, words: dict[str, str], root: str) -> list[tuple[str, ...]]:
    """The commands that register the new system."""
    program = shutil.which("SUSEConnect", path=packages.search_path(request.environment))
    if program is None:
        raise BuildError(
            "`SUSEConnect` is not on this machine",
            why=f"{request.name}:{request.header.line_of('product')} asks for a product that has to be registered",
            remedy="build on SUSE Linux Enterprise, or start from SUSE's container images",
        )
    machine = os.uname().machine
    version = packages.release(request)
    product = words["product"] if "/" in words["product"] else f"{words['product']}/{version}/{machine}"
    common: tuple[str, ...] = (program, "--root", root)
    if "registerurl" in words:
        common += ("--url", words["registerurl"])
    commands: list[tuple[str, ...]] = []
    if "productpgp" in words:
        rpmkeys = packages.program(request, ("rpmkeys",), "rpm")
        commands.append((rpmkeys, "--root", root, "--import", words["productpgp"]))
    who = ("--email", words["user"]) if "user" in words else ()
    commands.append((*common, "--product", product, *who, "--regcode", words["regcode"]))
    for module in filter(None, re.split(r"[\s,]+", words.get("modules", ""))):
        name = module if "/" in module else f"{module}/{version}/{machine}"
        commands.append((*common, "--product", name))
    return commands
