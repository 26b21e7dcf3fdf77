"""What users write for `--bind`, `--mount` and `--home`, as data. Nothing here looks at the machine."""

from __future__ import annotations

import posixpath

from soliton.errors import SolitonError
from soliton.launch.plan import Bind
from soliton.record import record


@record
class ImageBind:
    """`inside` of the image file `source` (data object `id`, if it is a SIF) at `target`."""

    source: str
    inside: str
    target: str
    id: int | None = None
    read_only: bool = False
    origin: str = ""

    @property
    def image(self) -> tuple[str, int | None]:
        return self.source, self.id


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


def parse_binds(text: str, *, cwd: str, home: str, origin: str) -> list[Bind | ImageBind]:
    """`src[:dst[:opt[,opt]]]`, several separated by commas; `\\:` and `\\,` stand for the characters themselves.

    A comma also separates options, so a part that is an option belongs to the bind before it.
    """
    binds: list[Bind | ImageBind] = []
    # Scripts pass lists that a variable of theirs left empty.
    for part in filter(None, (part.strip() for part in split_escaped(text, ","))):
        fields = split_escaped(part, ":")
        if len(fields) == 1 and binds and _is_option(part):
            binds[-1] = _with_options(binds[-1], [part], text)
            continue
        if not fields[0] or len(fields) > 3:
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
        bind = Bind(source, _place(target, text), origin=origin)
        binds.append(_with_options(bind, fields[2:], text))
    return binds


def _place(target: str, text: str) -> str:
    """The place inside, in its shortest form."""
    place = posixpath.normpath(target)
    if not place.strip("/"):
        raise SolitonError(
            f"`{text}` would cover the whole container",
            why="its place inside is `/`, which is the image's",
            remedy="choose another place: `--bind /:/host`",
        )
    return place


def _is_option(part: str) -> bool:
    return part in _OPTIONS or part.startswith(("image-src=", "id="))


def _with_options(bind: Bind | ImageBind, options: list[str], text: str) -> Bind | ImageBind:
    read_only = bind.read_only
    inside, id = (bind.inside, bind.id) if isinstance(bind, ImageBind) else (None, None)
    for option in options:
        if option == "ro":
            read_only = True
        elif option == "rw":
            read_only = False
        elif option.startswith("image-src="):
            inside = _inside(_unescape(option.partition("=")[2]), text)
        elif option.startswith("id="):
            id = _id(option.partition("=")[2], text)
        else:
            raise SolitonError(
                f"`{option}` in the bind `{text}` is not a bind option",
                why="the options are ro, rw, image-src= and id=",
            )
    return _bind(bind.source, bind.target, read_only, inside, id, bind.origin)


def _bind(
    source: str, target: str, read_only: bool, inside: str | None, id: int | None, origin: str
) -> Bind | ImageBind:
    if inside is None and id is None:
        return Bind(source, target, read_only=read_only, origin=origin)
    return ImageBind(source, inside or "/", target, id, read_only, origin)


def _inside(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise SolitonError(
            f"`image-src={path}` in `{text}` is not an absolute path",
            why="the place inside the image is named from its root",
        )
    return path


def _id(number: str, text: str) -> int:
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise SolitonError(f"`id={number}` in `{text}` is not the number of a data object")
    return int(number)


def parse_data(text: str, *, cwd: str, origin: str) -> ImageBind:
    """`SRC:DST` of `--data`: all of a data image, read-only."""
    fields = split_escaped(text, ":")
    if len(fields) != 2 or not all(fields):
        raise SolitonError(f"`{text}` is not a data image and its place", why="it is given as IMAGE:DST")
    target = _unescape(fields[1])
    if not target.startswith("/"):
        raise SolitonError(f"`{target}` in `{text}` is not an absolute path")
    return ImageBind(_absolute(_unescape(fields[0]), cwd), "/", _place(target, text), None, True, origin)


def parse_mounts(text: str, *, cwd: str, origin: str) -> list[Bind | ImageBind]:
    """`[type=bind,]source=…,destination=…[,ro]` in CSV, several separated by newlines."""
    binds: list[Bind | ImageBind] = []
    for row in _rows(text):
        source = target = inside = id = None
        kind, read_only = "bind", False
        for item in row:
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
            elif key == "image-src":
                inside = _inside(value, text)
            elif key == "id":
                id = _id(value, text)
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
        binds.append(_bind(_absolute(source, cwd), _place(target, text), read_only, inside, id, origin))
    return binds


def unnested(text: str) -> set[str]:
    """Of the same text, the places that containers inside the container are not to be told of."""
    if "nonested" not in text:
        return set()
    keys = ("destination", "dst", "target")
    return {
        _place(value, text)
        for row in _rows(text)
        if any(item.strip() == "nonested" for item in row)
        for key, _, value in (item.partition("=") for item in row)
        if key.strip() in keys
    }


def _rows(text: str) -> list[list[str]]:
    import csv

    try:
        return list(csv.reader(line for line in text.split("\n") if line.strip()))
    except csv.Error as error:
        raise SolitonError(f"the mount `{text}` cannot be read", why=str(error)) from None


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
