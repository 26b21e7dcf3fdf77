"""Files of configuration → what holds. Imported only where there is a file.

A wish of a later file wins over an earlier one, except where the site has spoken: a directive that an earlier file locks
(`locked = ["mount-home"]`), and a directive of policy, which counts only in a file of root's and which the first such file settles.
What cannot be understood is an error, with its line: a rule passed over would be worse than a container that does not start.
"""

from __future__ import annotations

import os
import stat

from soliton.errors import NotSupported, SolitonError
from soliton.record import replace
from soliton.site import toml
from soliton.site.config import DEFAULTS, Settings
from soliton.site.directives import BY_NAME, ValueProblem, nearest
from soliton.site.trust import distrust, roots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.site.config import Place
    from soliton.site.directives import Directive, Value

#: The one name in the file that is not a directive: what later files must leave alone.
LOCKED = "locked"


def unreadable(place: Place, error: OSError) -> SolitonError:
    remedy = f"make it readable: chmod a+r {place.path}"
    if place.role == "chosen":
        remedy = "name another with `--config`, or none"
    return SolitonError(f"the configuration `{place.path}` cannot be read", why=error.strerror, remedy=remedy)


def text_of(place: Place) -> str:
    """The file's text. Raises SolitonError."""
    try:
        fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SolitonError(f"the configuration `{place.path}` is not a file")
            if place.role in ("machine", "installation") and status.st_mode & stat.S_IWOTH:
                raise SolitonError(
                    f"the configuration `{place.path}` can be written by anybody",
                    why="so it may say what an attacker wants",
                    remedy=f"ask its owner for `chmod o-w {place.path}`",
                )
            data = file.read(toml.LARGEST + 1)
    except OSError as error:
        raise unreadable(place, error) from None
    if len(data) > toml.LARGEST:
        raise SolitonError(f"the configuration `{place.path}` is too large", why="1 MiB is the limit")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SolitonError(f"`{place.path}:{line}` is not text in UTF-8") from None


def read(places: tuple[Place, ...]) -> Settings:
    """What these files, which exist, say together. Raises SolitonError."""
    gathered = _Gathered()
    for place in places:
        gathered.take(place, text_of(place))
    return gathered.settings()


def checked(place: Place, text: str) -> None:
    """Whether a text could stand in this place. Raises SolitonError."""
    _Gathered().take(place, text, trusted=place.role != "user")


class _Gathered:
    """What the files read so far say."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.origins: dict[str, tuple[str, ...]] = {}
        self.locked: dict[str, str] = {}
        self.notices: list[str] = []

    def settings(self) -> Settings:
        return Settings(
            replace(DEFAULTS, **{BY_NAME[name].field: value for name, value in self.values.items()}),
            origins=self.origins,
            locked=self.locked,
            notices=tuple(self.notices),
        )

    def take(self, place: Place, text: str, *, trusted: bool = False) -> None:
        """trusted: whatever the file is, it counts as one that may hold policy."""
        locks: dict[str, str] = {}
        distrusted: tuple[str | None, ...] = (None,) if trusted else ()
        for entry in toml.parse(text, place.path):
            line = f"{place.path}:{entry.line}"
            directive = BY_NAME.get(entry.name)
            if directive is None and entry.name != LOCKED:
                raise SolitonError(f"`{entry.name}` in `{line}` is not a directive", why=nearest(entry.name))
            if directive is None or directive.policy:
                if place.role == "user":
                    raise SolitonError(
                        f"`{entry.name}` in `{line}` is not for a user to say",
                        why="it is a rule of the site, for files of root's",
                        remedy="take the line away",
                    )
                distrusted = distrusted or (distrust(place.path),)
                if distrusted[0]:
                    raise SolitonError(
                        f"`{entry.name}` in `{line}` is a rule of the site, and this file cannot make one",
                        why=distrusted[0],
                        remedy="give file and directories to root with mode go-w, or take the line away",
                    )
            if directive is None:
                locks = dict.fromkeys(_names(entry.value, line), line)
                continue
            if not directive.built:
                raise NotSupported(f"`{directive.name}` in `{line}`", remedy="take the line away")
            try:
                value = directive.read(entry.value)
            except ValueProblem as problem:
                raise SolitonError(
                    f"`{directive.name}` in `{line}` has the value {toml.written(entry.value)}",
                    why=str(problem),
                ) from None
            self.put(directive, value, place.role, line)
        for name, line in locks.items():
            self.locked.setdefault(name, line)
        for name in self.values:
            # The first file that may make rules makes them.
            if BY_NAME[name].policy:
                self.locked.setdefault(name, self.origins[name][0])

    def put(self, directive: Directive, value: Value, role: str, line: str) -> None:
        name = directive.name
        if name in self.locked:
            self.notices.append(f"`{name}` in {line} is not used: {self.locked[name]} locks it")
            return
        if name == "bind-path" and role in ("user", "chosen"):
            if not self.values.get("user-bind-control", True):
                (rule,) = self.origins["user-bind-control"]
                self.notices.append(
                    f"`{name}` in {line} is not used: {rule} forbids binds of the user's choice"
                )
                return
            if role == "user":
                # A user's own come on top of those of the site: without them there would be no /etc/hosts.
                before = self.values.get(name, BY_NAME[name].default)
                assert isinstance(before, tuple) and isinstance(value, tuple)
                origins = self.origins.get(name, ("default",) * len(before))
                more = tuple(bind for bind in value if bind not in before)
                value, self.origins[name] = before + more, origins + (line,) * len(more)
                self.values[name] = value
                return
        self.values[name] = value
        self.origins[name] = (line,) * max(1, len(value) if isinstance(value, tuple) else 1)


def _names(value: object, line: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SolitonError(f"`{LOCKED}` in `{line}` is not a list of names of directives")
    for name in value:
        if name not in BY_NAME:
            raise SolitonError(f"`{name}` in `{line}` is not a directive", why=nearest(name))
    return list(value)


def require_may_choose() -> None:
    """`--config` is for root, and where the installation is not root's. Raises SolitonError."""
    if os.geteuid() == 0 or os.stat(__file__).st_uid not in roots():
        return
    raise SolitonError(
        "`--config` is not for users of an installation that is root's",
        why="its configuration is the site's",
        remedy="say what you want in ~/.config/soliton/soliton.toml; `soliton config show --origin` tells what holds",
    )
