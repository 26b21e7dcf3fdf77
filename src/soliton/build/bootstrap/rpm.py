"""Fedora, Red Hat and their kin from packages, by the host's dnf or yum.

The header becomes a configuration file of one or two repositories, and nothing of the host's own configuration counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from soliton.build.bootstrap import packages, rpm_database
from soliton.build.bootstrap.base import Base, Request
from soliton.build.plans import STEP_FOLDER
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot

#: What every such system has; the rest comes as a dependency or by `Include`.
ALWAYS = ("/etc/redhat-release", "coreutils")
_SETTING = re.compile(r"[a-z][a-z0-9_.*-]*=\S*", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """mirror, update: addresses, the second may be empty. key: of the packages' signatures, empty: not checked."""

    mirror: str
    update: str
    release: str
    packages: tuple[str, ...]
    settings: tuple[str, ...]
    key: str


def bootstrap(request: Request) -> Base:
    names = ("dnf", "yum") if request.header.agent == "dnf" else ("yum", "dnf")
    program = packages.program(request, names, "dnf")
    wanted = read_header(request)
    root = packages.start(request)
    home = rpm_database.home(request)
    file = request.workspace.place(request.folder, "repositories.conf")
    with open(file, "w", encoding="utf-8") as out:
        out.write(configuration(wanted))
    packages.run(request, command(program, file, root, wanted), root, {"HOME": home})
    rpm_database.settle(request, root)
    return Base(DirectoryRoot(root), is_image=False, architecture=architecture.host_architecture())


def read_header(request: Request) -> Wanted:
    """The header's values. Raises BuildError for what is none."""
    header = request.header
    settings = tuple(header.get("setopt").split())
    for setting in settings:
        if not _SETTING.fullmatch(setting):
            raise BuildError(
                f"{request.name}:{header.line_of('setopt')}: `{setting[:60]}` is not a setting",
                why="expected `name=value`, several separated by blanks",
            )
    key = packages.key(request)
    return Wanted(
        packages.address(request, "mirrorurl"),
        packages.address(request, "updateurl"),
        packages.release(request),
        (*ALWAYS, *packages.packages(request)),
        settings,
        f"file://{key}" if key.startswith("/") else key,
    )


def configuration(wanted: Wanted) -> str:
    """The configuration of the package manager: these repositories and no others."""
    check = [f"gpgcheck={int(bool(wanted.key))}", *([f"gpgkey={wanted.key}"] if wanted.key else [])]
    lines = [
        "[main]",
        f"cachedir={STEP_FOLDER}/cache",
        f"logdir={STEP_FOLDER}/log",
        "reposdir=/dev/null",
        "varsdir=/dev/null",
        "pluginconfpath=/dev/null",
        "plugins=0",
        "keepcache=0",
        "exactarch=1",
        "obsoletes=1",
        "metadata_expire=1m",
    ]
    for name, url in (("base", wanted.mirror), ("updates", wanted.update)):
        if url:
            lines += ["", f"[{name}]", f"name=Linux $releasever - $basearch ({name})", f"baseurl={url}"]
            lines += ["enabled=1", *check]
    return "\n".join(lines) + "\n"


def command(program: str, file: str, root: str, wanted: Wanted) -> tuple[str, ...]:
    """argv of dnf or yum."""
    return (
        program,
        "--config",
        file,
        "--installroot",
        root,
        f"--releasever={wanted.release or '0'}",
        *(f"--setopt={setting}" for setting in wanted.settings),
        "--assumeyes",
        "install",
        *wanted.packages,
    )
