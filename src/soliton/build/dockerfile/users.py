"""User and group names as the image knows them: `USER`, `COPY --chown`."""

from __future__ import annotations

from dataclasses import dataclass

from soliton import core
from soliton.errors import BuildError
from soliton.launch.plan import Root

_LARGEST = 0xFFFFFFFE


@dataclass(frozen=True)
class User:
    """home: empty where the image does not know the user. groups: further ones."""

    uid: int
    gid: int
    home: str = ""
    groups: tuple[int, ...] = ()


def find(root: Root, text: str, place: str) -> User:
    """`user`, `uid`, `user:group` and so on. place: of the instruction, for messages. Raises BuildError."""
    name, colon, group = text.partition(":")
    files = core.read_files(root, ["/etc/passwd", "/etc/group"], limit=4 << 20)
    passwd = _lines(files["/etc/passwd"].data, 7)
    groups = _lines(files["/etc/group"].data, 4)
    line = next((entry for entry in passwd if entry[0] == name), None)
    if line is None and _number(name) is not None:
        line = next((entry for entry in passwd if entry[2] == name), None)
    uid = _number(line[2]) if line else _number(name)
    if uid is None:
        raise BuildError(
            f"{place}: the image has no user `{name[:40]}`", remedy="add it in a RUN before, or give a number"
        )
    gid = (_number(line[3]) or 0) if line else 0
    if colon:
        found = next((entry[2] for entry in groups if entry[0] == group), group)
        number = _number(found)
        if number is None:
            raise BuildError(f"{place}: the image has no group `{group[:40]}`")
        gid = number
    more: tuple[int, ...] = ()
    if line is not None and not colon:
        members = (entry[2] for entry in groups if line[0] in entry[3].split(","))
        more = tuple(number for text in members if (number := _number(text)) is not None and number != gid)
    return User(uid, gid, line[5] if line else "", more)


def owner(root: Root, text: str, place: str) -> tuple[int, int]:
    """The value of `--chown`: a user alone is its number as group, too, if it is a number."""
    name, colon, _ = text.partition(":")
    found = find(root, text, place)
    if not colon and _number(name) is not None:
        return found.uid, found.uid
    return found.uid, found.gid


def _lines(data: bytes, fields: int) -> list[list[str]]:
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    return [parts for line in lines if len(parts := line.split(":")) >= fields]


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _LARGEST:
        return int(text)
    return None
