"""`soliton.toml` from outside: what holds and why, changing one directive, and taking over a peer's configuration."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soliton.errors import NotSupported, SolitonError
from soliton.site import config as configuration
from soliton.site import paths, peer, settings, toml
from soliton.site.config import Place
from soliton.site.directives import DIRECTIVES, ValueProblem, named, nearest, value_of
from soliton.undisturbed import undisturbed

if TYPE_CHECKING:
    from soliton.site.directives import Directive


@dataclass(frozen=True)
class Setting:
    """One directive as it holds. value: as the file has it. origin: `default`, or `path:line`, several for a list.

    locked: `path:line` of what keeps later files from it.
    """

    name: str
    value: object
    origin: str
    locked: str | None
    group: str
    help: str


def find(name: str) -> Directive:
    """The directive of this name. Raises SolitonError."""
    directive = named(name)
    if directive is None:
        raise SolitonError(f"`{name}` is not a directive", why=nearest(name))
    return directive


def show(names: Sequence[str] = ()) -> list[Setting]:
    """What holds for the caller: of these directives, else of all."""
    holds = configuration.current()
    chosen = [find(name) for name in names] or [directive for directive in DIRECTIVES if directive.built]
    return [
        Setting(
            directive.name,
            peer.plain(directive, value_of(holds.config, directive)),
            ", ".join(dict.fromkeys(holds.origins.get(directive.name, ("default",)))),
            holds.locked.get(directive.name),
            directive.group,
            directive.help,
        )
        for directive in chosen
    ]


def place(*, system: bool | None = None) -> Place:
    """The file that is changed. system: the site's or the user's; None: root's choice is the site's."""
    if system is None:
        system = os.geteuid() == 0
    if not system:
        home = paths.home_of_caller(os.environ)
        return Place("user", configuration.of_user(os.environ, home))
    path = configuration.of_installation()
    return Place("machine" if path == configuration.MACHINE else "installation", path)


def text(where: Place) -> str:
    """What stands in the file now; nothing where there is none."""
    if not os.path.lexists(where.path):
        return ""
    return settings.text_of(where)


def changed(where: Place, directive: Directive, words: Sequence[str] | None) -> str:
    """The file's text with the directive set to what these words say, or without it for None. Raises SolitonError."""
    if not directive.built:
        raise NotSupported(f"`{directive.name}`")
    value = None if words is None else of_words(directive, words)
    result = toml.set_value(text(where), directive.name, value, where.path)
    settings.checked(where, result)
    return result


def of_words(directive: Directive, words: Sequence[str]) -> object:
    """The value that words of a command line spell: true, yes or 1 for a flag; each word one part of a list."""
    value: object
    if directive.kind == "list":
        value = list(words)
    elif len(words) != 1:
        raise SolitonError(f"`{directive.name}` takes one value, {len(words)} were given")
    elif directive.kind == "flag":
        value = peer.FLAGS.get(words[0].lower(), words[0])
    elif directive.kind in ("mebibytes", "count"):
        value = peer.number(words[0])
    else:
        value = words[0]
    try:
        directive.read(value)
    except ValueProblem as problem:
        raise SolitonError(f"`{directive.name}` cannot be {toml.written(value)}", why=str(problem)) from None
    return value


def write(where: Place, result: str) -> None:
    """Puts the text in the place of the file in one step, keeping mode and owner. Raises SolitonError."""
    # Through links: what they lead to is the file.
    path = os.path.realpath(where.path)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700 if where.role == "user" else 0o755, exist_ok=True)
        with _new_file(folder, path) as fd:
            if os.path.exists(path):
                status = os.stat(path)
                os.fchmod(fd, status.st_mode & 0o7777)
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, status.st_uid, status.st_gid)
            else:
                os.fchmod(fd, 0o644)
            data = memoryview(result.encode("utf-8"))
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
    except OSError as error:
        whose = "the site's" if where.role != "user" else "your"
        raise SolitonError(
            f"{whose} configuration `{where.path}` cannot be written",
            why=error.strerror,
            remedy="do it as root, or set it for yourself with `--user`" if where.role != "user" else None,
        ) from None


@contextlib.contextmanager
def _new_file(folder: str, final: str) -> Iterator[int]:
    """An open file that gets its name when the block ends well."""
    fd, partial = -1, ""
    try:
        with undisturbed():
            fd, partial = tempfile.mkstemp(prefix=".soliton.toml-", dir=folder)
        yield fd
        with undisturbed():
            os.rename(partial, final)
            partial = ""
    finally:
        with undisturbed():
            if partial:
                with contextlib.suppress(OSError):
                    os.unlink(partial)
            if fd >= 0:
                os.close(fd)


def take_over(path: str) -> tuple[str, list[str]]:
    """A peer's configuration as a text of soliton's, and warnings. Raises SolitonError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            old = file.read(toml.LARGEST)
    except OSError as error:
        raise SolitonError(f"`{path}` cannot be read", why=error.strerror) from None
    return peer.converted(old, path)
