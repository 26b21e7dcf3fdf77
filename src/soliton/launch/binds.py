"""What users write for `--bind`, `--mount` and `--home`, as data. Nothing here looks at the machine."""

from __future__ import annotations

import posixpath

from soliton.errors import NotSupported, SolitonError
from soliton.launch.plan import Bind


def split_escaped(text: str, separator: str) -> list[str]:
    """Splits at a character that no backslash precedes. Backslashes before separators are kept for the next split."""
    parts: list[str] = [""]
    at = 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            parts[-1] += text[at : at + 2]
            at += 2
            continue
        if text[at] == separator:
            parts.append("")
        else:
            parts[-1] += text[at]
        at += 1
    return parts


def _unescape(text: str) -> str:
    return text.replace("\\:", ":").replace("\\,", ",").replace("\\\\", "\\")


def _absolute(path: str, cwd: str) -> str:
    return posixpath.normpath(posixpath.join(cwd, path))


_OPTIONS = ("ro", "rw")


def parse_binds(text: str, *, cwd: str, home: str, origin: str) -> list[Bind]:
    """`src[:dst[:opt[,opt]]]`, several separated by commas; `\\:` and `\\,` stand for the characters themselves.

    A comma also separates options, so a part that is an option belongs to the bind before it.
    """
    binds: list[Bind] = []
    for part in split_escaped(text, ","):
        fields = split_escaped(part, ":")
        if len(fields) == 1 and binds and _is_option(part):
            binds[-1] = _with_options(binds[-1], [part], text)
            continue
        if not part or not fields[0] or len(fields) > 3:
            raise SolitonError(
                f"`{text}` is not a bind",
                why="a bind is SRC[:DST[:OPTIONS]], several are separated by commas",
            )
        source = _unescape(fields[0])
        if source == "~" or source.startswith("~/"):
            source = home + source[1:]
        source = _absolute(source, cwd)
        target = _unescape(fields[1]) if len(fields) > 1 and fields[1] else source
        if not target.startswith("/"):
            raise SolitonError(
                f"`{target}` in the bind `{text}` is not an absolute path",
                why="the place inside the container is named from its root",
            )
        bind = Bind(source, posixpath.normpath(target), origin=origin)
        binds.append(_with_options(bind, fields[2:], text))
    return binds


def _is_option(part: str) -> bool:
    return part in _OPTIONS or part.startswith(("image-src=", "id="))


def _with_options(bind: Bind, options: list[str], text: str) -> Bind:
    read_only = bind.read_only
    for option in options:
        if option == "ro":
            read_only = True
        elif option == "rw":
            read_only = False
        elif option.startswith(("image-src=", "id=")):
            raise NotSupported(f"the bind option `{option}`")
        else:
            raise SolitonError(
                f"`{option}` in the bind `{text}` is not a bind option", why="the options are ro and rw"
            )
    return Bind(bind.source, bind.target, read_only=read_only, origin=bind.origin)


def parse_mounts(text: str, *, cwd: str, origin: str) -> list[Bind]:
    """`type=bind,source=…,destination=…[,ro]` in CSV, several separated by newlines."""
    import csv

    try:
        records = list(csv.reader(line for line in text.split("\n") if line.strip()))
    except csv.Error as error:
        raise SolitonError(f"the mount `{text}` cannot be read", why=str(error)) from None
    binds: list[Bind] = []
    for record in records:
        source = target = kind = None
        read_only = False
        for item in record:
            key, equals, value = item.partition("=")
            key = key.strip()
            if key == "type":
                kind = value
            elif key in ("source", "src"):
                source = value
            elif key in ("destination", "dst", "target"):
                target = value
            elif key in ("ro", "readonly") and (not equals or value in ("true", "1")):
                read_only = True
            elif key in ("image-src", "id"):
                raise NotSupported(f"the mount option `{key}`")
            elif key != "nonested":
                raise SolitonError(
                    f"`{item}` in the mount `{text}` is not known",
                    why="the keys are type, source, destination, ro, image-src and id",
                )
        if kind != "bind":
            raise SolitonError(f"the mount `{text}` is not of type=bind", why="there is no other type")
        if not source or not target or not target.startswith("/"):
            raise SolitonError(
                f"the mount `{text}` needs a source and an absolute destination",
                remedy="for example `type=bind,source=/data,destination=/mnt`",
            )
        binds.append(
            Bind(_absolute(source, cwd), posixpath.normpath(target), read_only=read_only, origin=origin)
        )
    return binds


def parse_home(text: str, *, cwd: str) -> tuple[str, str]:
    """`SRC[:DST]` of `--home`: (directory of the host, its place inside)."""
    fields = split_escaped(text, ":")
    if len(fields) > 2 or not fields[0]:
        raise SolitonError(f"`{text}` is not a home", why="a home is SRC[:DST]")
    source = _absolute(_unescape(fields[0]), cwd)
    target = _unescape(fields[1]) if len(fields) > 1 else source
    if not target.startswith("/"):
        raise SolitonError(f"the home `{target}` inside the container is not an absolute path")
    return source, posixpath.normpath(target)
