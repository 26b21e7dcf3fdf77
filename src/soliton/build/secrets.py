"""Which build arguments are secrets: they are used like any other, but no image and no lock keeps their values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from soliton.errors import UsageError

_WORDS = {
    *(
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "netrc",
        "pass",
        "passphrase",
        "passwd",
        "password",
    ),
    *("pat", "pin", "privatekey", "pwd", "secret", "secrets", "sshkey", "token", "tokens"),
}
_ENDINGS = ("apikey", "passphrase", "passwd", "password", "privatekey", "secret", "token")
_SPLIT = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
#: A password in an address, a private key, and the forms in which services hand out tokens.
_VALUES = re.compile(
    r"://[^/@\s]*:[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|hf_)[A-Za-z0-9_-]{16}"
)


def is_secret(name: str, value: str) -> bool:
    """Whether an argument looks like one, by its name or by its value. Rather too often than too rarely."""
    words = [word.lower() for word in _SPLIT.split(name)]
    return any(word in _WORDS or word.endswith(_ENDINGS) for word in words) or bool(_VALUES.search(value))


def of_option(text: str) -> tuple[tuple[str, str], ...]:
    """The parts of `--secret id=NAME,src=FILE`: id, src, env. Raises UsageError."""
    values = dict(part.strip().partition("=")[::2] for part in text.split(","))
    name = values.pop("id", "")
    path, variable = values.pop("src", values.pop("source", "")), values.pop("env", "")
    kind = values.pop("type", "file")
    if not name or values or kind not in ("file", "env"):
        raise UsageError(
            f"`--secret {text[:60]}` is not understood",
            why="it is `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`",
        )
    return ("id", name), ("src", path), ("env", variable)


def split(arguments: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The arguments that may be told, and the names of the others."""
    told = {name: value for name, value in sorted(arguments.items()) if not is_secret(name, value)}
    return told, tuple(sorted(set(arguments) - set(told)))


def unfilled(arguments: Mapping[str, str]) -> dict[str, str]:
    """The arguments for a text that is kept: a secret stands there as its template, `{{ NAME }}`."""
    told, hidden = split(arguments)
    return {**told, **{name: f"{{{{ {name} }}}}" for name in hidden}}
