"""Where soliton keeps things. Pure functions of the environment and the user's home; nothing is created here."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: In this order; the first that is set counts.
PREFIXES = ("SOLITON_", "APPTAINER_", "SINGULARITY_")


def variable(environment: Mapping[str, str], key: str) -> str | None:
    """The value of `SOLITON_KEY`, else `APPTAINER_KEY`, else `SINGULARITY_KEY`; blank is unset."""
    for prefix in PREFIXES:
        value = environment.get(prefix + key, "").strip()
        if value:
            return value
    return None


def cache(environment: Mapping[str, str], home: str, *, configured: str = "") -> str:
    """`SOLITON_CACHEDIR` (or a peer's name for it), else as configured, else `$XDG_CACHE_HOME/soliton`, else `~/.cache/soliton`."""
    chosen = variable(environment, "CACHEDIR")
    if chosen:
        return os.path.abspath(chosen)
    if configured:
        return filled("cache-dir", configured, environment, home)
    base = environment.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".cache"), "soliton")


def configuration(environment: Mapping[str, str], home: str) -> str:
    """Of the user: `SOLITON_CONFIGDIR`, else `$XDG_CONFIG_HOME/soliton`, else `~/.config/soliton`."""
    chosen = environment.get("SOLITON_CONFIGDIR", "").strip()
    if chosen:
        return os.path.abspath(chosen)
    base = environment.get("XDG_CONFIG_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".config"), "soliton")


def records_of_user(environment: Mapping[str, str], home: str) -> str:
    """Where peers' tools look for a user's instances: `SOLITON_CONFIGDIR` (or a peer's name for it), else `~/.apptainer`."""
    chosen = variable(environment, "CONFIGDIR")
    return os.path.abspath(chosen) if chosen else os.path.join(home, ".apptainer")


def runtime(environment: Mapping[str, str], uid: int) -> str:
    """For what belongs to this machine and this boot: `$XDG_RUNTIME_DIR/soliton`, else `/tmp/soliton-UID`."""
    base = environment.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "soliton") if os.path.isabs(base) else f"/tmp/soliton-{uid}"


def filled(directive: str, text: str, environment: Mapping[str, str], home: str) -> str:
    """A configured path with `~` and variables replaced. Raises SolitonError for a variable that is not set."""
    if text == "~" or text.startswith("~/"):
        text = home + text[1:]
    parts = text.split("$")
    found = parts[0]
    for part in parts[1:]:
        if part.startswith("{"):
            name, _, rest = part[1:].partition("}")
        else:
            end = next((at for at, c in enumerate(part) if not (c.isalnum() or c == "_")), len(part))
            name, rest = part[:end], part[end:]
        value = environment.get(name)
        if not value and name in ("USER", "LOGNAME", "UID"):
            value = str(os.getuid()) if name == "UID" else name_of_caller()
        if not value:
            from soliton.errors import SolitonError

            raise SolitonError(
                f"`{directive}` of the configuration is `{text}`, and the variable `{name}` is not set",
                remedy="`soliton config show --origin` tells which file says so",
            )
        found += value + rest
    return os.path.abspath(found)


def name_of_caller() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def temporary(environment: Mapping[str, str], chosen: str | None = None, *, configured: str = "") -> str:
    """`--tmpdir`, else `SOLITON_TMPDIR` (or a peer's name for it), else `TMPDIR`, else as configured, else /tmp."""
    named = chosen or variable(environment, "TMPDIR") or environment.get("TMPDIR")
    if not named and configured:
        return filled("tmp-dir", configured, environment, home_of_caller(environment))
    return os.path.abspath(named or "/tmp")


def home_of_caller(environment: Mapping[str, str] | None = None) -> str:
    """From the user database; `HOME` only where that does not know the user. environment: its `HOME` comes first."""
    import pwd

    if environment is not None and environment.get("HOME"):
        return environment["HOME"]

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")
