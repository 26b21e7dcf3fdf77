"""Nothing is taken silently: handlers exist, and what a command accepts is read by somebody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import soliton
from soliton.cli import commands

DIRECTORY = Path(soliton.__file__).parent / "cli"
BUILT = [(path, command) for path, command in commands.walk() if command.handler is not None]

#: Accepted without effect, because what they ask for is always so; their help says that.
WITHOUT_EFFECT = {
    "allow-unauthenticated",
    "allow-unsigned",
    "ignore-fakeroot-command",
    "no-nv",
    "no-compat",
    "no-oci",
    "no-rocm",
    "no-tmp-sandbox",
    "reproducible",
    "sif-fuse",
    "underlay",
    "userns",
}


#: The same for single commands: `pull` writes beside its target only and keeps what was fetched.
WITHOUT_EFFECT_IN = {"build": {"fakeroot"}, "pull": {"no-cleanup", "tmpdir"}, "overlay": {"tmpdir"}}


@pytest.mark.parametrize("command", [c for _, c in BUILT], ids=[" ".join(p) for p, _ in BUILT])
def test_a_handler_that_is_named_exists(command: commands.Command) -> None:
    assert command.handler is not None
    assert callable(commands.handler(command.handler))


def test_every_option_that_is_accepted_is_read_somewhere() -> None:
    """By its name in quotes, in the handler's module or one that it imports from `soliton.cli`."""
    unread = {}
    shared = "".join(
        path.read_text()
        for path in DIRECTORY.glob("*.py")
        if path.stem not in named_modules() | {"commands", "completion"}
    )
    for path, command in BUILT:
        assert command.handler is not None
        text = shared + with_imports(module_of(command.handler))
        names = {
            option.name
            for option in command.options
            if option.supported
            and option.alias is None
            and option.name not in WITHOUT_EFFECT | WITHOUT_EFFECT_IN.get(path[0], set())
        }
        missing = sorted(name for name in names if f'"{name}"' not in text)
        if missing:
            unread[" ".join(path)] = missing
    assert not unread


def with_imports(module: str, seen: frozenset[str] = frozenset()) -> str:
    path = DIRECTORY / f"{module}.py"
    if module in seen or not path.exists():
        return ""
    text = path.read_text()
    imported = set(re.findall(r"from soliton\.cli\.(\w+) import", text))
    return text + "".join(with_imports(name, seen | {module}) for name in sorted(imported))


def module_of(handler: str) -> str:
    return handler.partition(":")[0].rpartition(".")[2]


def named_modules() -> set[str]:
    return {module_of(command.handler) for _, command in BUILT if command.handler is not None}
