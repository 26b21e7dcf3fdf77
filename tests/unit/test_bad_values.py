"""Malformed values of every option of every command: what its kind does not take is refused before anything happens.

What an option takes within its kind is stated with the real program, in `tests/system/test_bad_values.py`.
"""

from __future__ import annotations

import pytest

from soliton.cli import commands
from soliton.cli.options import Option
from soliton.cli.parser import CommandLineError, parse
from soliton.errors import SolitonError

#: Of each kind, a text that is none; None: any text is one.
NONE_OF_THEM = {
    "flag": "maybe",
    "integer": "ten",
    "duration": "10 minutes",
    "permissions": "u=rwx",
    "list": '"a',
    "map": "no assignment",
    "text": None,
    "whole": None,
}
CASES = [
    (path, command, option)
    for path, command in commands.walk()
    if command.handler
    for option in command.options
    if NONE_OF_THEM[option.kind] is not None
]


@pytest.mark.parametrize(
    ("path", "command", "option"),
    CASES,
    ids=[f"{' '.join(path)} --{option.name}" for path, _, option in CASES],
)
def test_a_value_of_another_kind_is_refused(
    path: tuple[str, ...], command: commands.Command, option: Option
) -> None:
    bad = NONE_OF_THEM[option.kind]
    assert bad is not None
    with pytest.raises(CommandLineError) as caught:
        parse("soliton", [*path, f"--{option.name}={bad}"], {})
    assert caught.value.status == 1
    assert str(caught.value).startswith(f'invalid argument "{bad}" for "{option.spelling()}" flag: ')
    if option.short:
        with pytest.raises(CommandLineError, match="invalid argument"):
            parse("soliton", [*path, f"-{option.short}={bad}"], {})
    positionals = ["x"] * command.least
    for name in option.variables():
        with pytest.raises(SolitonError) as from_variable:
            parse("soliton", [*path, *positionals], {name: bad})
        assert from_variable.value.status == 255
        assert f"the variable `{name}` has the value `{bad}`" in str(from_variable.value)


def test_every_kind_is_thought_of() -> None:
    kinds = {option.kind for _, command in commands.walk() for option in command.options}
    assert kinds <= set(NONE_OF_THEM)
