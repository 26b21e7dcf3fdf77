"""Arch Linux from its packages, by the host's pacman.

`ConfURL` is the pacman.conf of the new system, which names its repositories. Signatures are checked as it says, with the keys
of the distributions that the host has packages of (archlinux-keyring), and with those in the file that the variable GPG names.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from soliton.build.bootstrap import packages
from soliton.build.bootstrap.base import Base, Request
from soliton.build.bootstrap.download import download
from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import DirectoryRoot
from soliton.undisturbed import passing_directory

#: What pacman itself comes with.
DEFAULT = "https://gitlab.archlinux.org/archlinux/packaging/packages/pacman/-/raw/main/pacman.conf"
ALWAYS = ("base",)
#: More than any pacman.conf has.
LARGEST = 1 << 20
#: Where keyrings are, of Arch's packages and of Debian's.
_KEYRINGS = ("/usr/share/pacman/keyrings", "/usr/share/keyrings")
#: The directory's part of the address of a socket, of which gpg makes several there.
_LONGEST = 80
_FINGERPRINT = re.compile(r"^fpr:(?:[^:]*:){8}([0-9A-F]{40,64}):", re.MULTILINE)
_INCLUDE = re.compile(r"^\s*Include\s*=\s*(\S+)", re.MULTILINE)


def bootstrap(request: Request) -> Base:
    machine = architecture.host_architecture()
    program = packages.program(request, ("pacman",), "pacman-package-manager")
    url = packages.address(request, "confurl") or DEFAULT
    wanted = packages.packages(request)
    key = packages.key(request)
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
    variables = {"HOME": home}
    cache = request.workspace.folder(request.folder, "pacman")
    with _keyring(request, root, variables) as keys:
        _trust(request, root, variables, file, keys, key)
        argv = (
            program, "--root", root, "--dbpath", f"{root}/var/lib/pacman", "--config", file, "--cachedir", cache,
            "--gpgdir", keys, "--logfile", f"{cache}/pacman.log", "--hookdir", f"{root}/usr/share/libalpm/hooks",
            "--noconfirm", "--noprogressbar", "--sync", "--refresh", "--needed", *ALWAYS, *wanted,
        )  # fmt: skip
        packages.run(request, argv, root, variables)
    return Base(DirectoryRoot(root), is_image=False, architecture=machine)


@contextlib.contextmanager
def _keyring(request: Request, root: str, variables: dict[str, str]) -> Iterator[str]:
    """An empty directory of keys. What serves them has ended afterwards."""
    with contextlib.ExitStack() as stack:
        keys = request.workspace.folder(request.folder, "gnupg")
        if len(os.fsencode(keys)) > _LONGEST:
            keys = stack.enter_context(passing_directory("soliton-keys-", "/tmp"))
        try:
            yield keys
        finally:
            end = shutil.which("gpgconf", path=packages.search_path(request.environment))
            if end and os.listdir(keys):
                packages.run(request, (end, "--homedir", keys, "--kill", "all"), root, variables)


def _trust(request: Request, root: str, variables: dict[str, str], file: str, keys: str, key: str) -> None:
    """Fills the keyring that signatures are checked with."""
    search = packages.search_path(request.environment)
    program = shutil.which("pacman-key", path=search)
    named = keyrings()
    if program is None or not (named or key):
        return

    def pacman_key(*arguments: str) -> None:
        packages.run(request, (program, "--config", file, "--gpgdir", keys, *arguments), root, variables)

    pacman_key("--init")
    if named:
        pacman_key("--populate", *named)
    if not key:
        return
    path = key
    if key.startswith("https://"):
        path = request.workspace.place(request.folder, "packages.key")
        with open(path, "wb") as out:
            out.write(download(key, LARGEST, "the key"))
    pacman_key("--add", path)
    for fingerprint in _fingerprints(path, search, request.workspace.folder(request.folder, "shown")):
        pacman_key("--lsign-key", fingerprint)


def keyrings(folders: tuple[str, ...] = _KEYRINGS) -> list[str]:
    """Names of the keyrings of pacman's that the host has: those that say whom they trust."""
    found: set[str] = set()
    for folder in folders:
        if os.path.isdir(folder):
            names = {
                name.removesuffix("-trusted") for name in os.listdir(folder) if name.endswith("-trusted")
            }
            found |= {name for name in names if os.path.isfile(f"{folder}/{name}.gpg")}
    return sorted(found)


def _fingerprints(path: str, search: str, empty: str) -> list[str]:
    """Of the primary keys in a file. empty: a directory for gpg."""
    gpg = shutil.which("gpg", path=search)
    if gpg is None:
        raise BuildError(f"the key `{path}` cannot be read", why="`gpg` is not on this machine")
    done = subprocess.run(
        [gpg, "--batch", "--no-options", "--homedir", empty, "--with-colons", "--show-keys", path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    primary = [part.partition("\nsub:")[0] for part in f"\n{done.stdout}".split("\npub:")[1:]]
    found = [match[1] for part in primary if (match := _FINGERPRINT.search(part))]
    if not found:
        raise BuildError(f"`{path}`, which the variable GPG names, holds no key")
    return found


def _fetch(url: str) -> str:
    """The text at an address, which may be a file here."""
    if url.startswith("file://"):
        try:
            with open(url.removeprefix("file://"), "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise BuildError(f"`{url}` cannot be read", why=error.strerror) from None
    else:
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
