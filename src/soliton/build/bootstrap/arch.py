"""Arch Linux from its packages, by the host's pacman.

`ConfURL` is the pacman.conf of the new system, which names its repositories. Signatures are checked as it says, with the keys
of the distributions that the host has packages of (archlinux-keyring).
"""

from __future__ import annotations

import os
import re
import shutil

from soliton.build.bootstrap import packages
from soliton.build.bootstrap.base import Base, Request
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot

#: What pacman itself comes with.
DEFAULT = "https://gitlab.archlinux.org/archlinux/packaging/packages/pacman/-/raw/main/pacman.conf"
ALWAYS = ("base",)
#: More than any pacman.conf has.
LARGEST = 1 << 20
_KEYRINGS = "/usr/share/pacman/keyrings"
_INCLUDE = re.compile(r"^\s*Include\s*=\s*(\S+)", re.MULTILINE)


def bootstrap(request: Request) -> Base:
    machine = architecture.host_architecture()
    program = packages.program(request, ("pacman",), "pacman-package-manager")
    url = packages.address(request, "confurl") or DEFAULT
    wanted = packages.packages(request)
    text = _fetch(url)
    _check(text, url)
    root = packages.start(request)
    home = packages.private_home(request.workspace, request.folder)
    file = request.workspace.place(request.folder, "pacman.conf")
    with open(file, "w", encoding="utf-8", errors="surrogateescape") as out:
        out.write(text)
    for folder in ("var", "var/lib", "var/lib/pacman"):
        os.mkdir(f"{root}/{folder}")
        os.chmod(f"{root}/{folder}", 0o755)
    keys = request.workspace.folder(request.folder, "gnupg")
    variables = {"HOME": home}
    key_program = shutil.which("pacman-key", path=packages.search_path(request.environment))
    if key_program and os.path.isdir(_KEYRINGS) and os.listdir(_KEYRINGS):
        for action in ("--init", "--populate"):
            command = (key_program, "--config", file, "--gpgdir", keys, action)
            packages.run(request, command, root, variables)
    cache = request.workspace.folder(request.folder, "pacman")
    argv = (
        program, "--root", root, "--dbpath", f"{root}/var/lib/pacman", "--config", file, "--cachedir", cache,
        "--gpgdir", keys, "--logfile", f"{cache}/pacman.log", "--hookdir", f"{root}/usr/share/libalpm/hooks",
        "--noconfirm", "--noprogressbar", "--sync", "--refresh", "--needed", *ALWAYS, *wanted,
    )  # fmt: skip
    packages.run(request, argv, root, variables)
    return Base(DirectoryRoot(root), is_image=False, architecture=machine)


def _fetch(url: str) -> str:
    """The text at an address, which may be a file here."""
    if url.startswith("file://"):
        try:
            with open(url.removeprefix("file://"), "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise BuildError(f"`{url}` cannot be read", why=error.strerror) from None
    else:
        from soliton.build.bootstrap.download import download

        data = download(url, LARGEST, "pacman.conf")
    if len(data) > LARGEST:
        raise BuildError(f"`{url}` is too large to be a pacman.conf")
    return data.decode("utf-8", "surrogateescape")


def _check(text: str, url: str) -> None:
    """Raises BuildError for what pacman would tell less well."""
    if "[" not in text:
        raise BuildError(f"`{url}` is not a pacman.conf", why="it has no sections")
    for path in _INCLUDE.findall(text):
        if not os.path.exists(path) and "*" not in path:
            raise BuildError(
                f"`{url}` includes `{path}`, which this machine does not have",
                why="the list of mirrors comes with the distribution",
                remedy="name mirrors in a pacman.conf of your own (`Server = …`) and give that as `ConfURL`",
            )
