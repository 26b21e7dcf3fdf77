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


def cache(environment: Mapping[str, str], home: str) -> str:
    """`SOLITON_CACHEDIR` (or a peer's name for it), else `$XDG_CACHE_HOME/soliton`, else `~/.cache/soliton`."""
    chosen = variable(environment, "CACHEDIR")
    if chosen:
        return os.path.abspath(chosen)
    base = environment.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".cache"), "soliton")


def configuration(environment: Mapping[str, str], home: str) -> str:
    """Of the user: `SOLITON_CONFIGDIR`, else `$XDG_CONFIG_HOME/soliton`, else `~/.config/soliton`."""
    chosen = environment.get("SOLITON_CONFIGDIR", "").strip()
    if chosen:
        return os.path.abspath(chosen)
    base = environment.get("XDG_CONFIG_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".config"), "soliton")


def temporary(environment: Mapping[str, str], chosen: str | None = None) -> str:
    """`--tmpdir`, else `SOLITON_TMPDIR` (or a peer's name for it), else `TMPDIR`, else /tmp."""
    return os.path.abspath(chosen or variable(environment, "TMPDIR") or environment.get("TMPDIR") or "/tmp")


def home_of_caller() -> str:
    """From the user database; `HOME` only where that does not know the user."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")
