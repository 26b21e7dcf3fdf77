"""The command that runs a section's text. Where the script lies and who runs it is decided elsewhere."""

from __future__ import annotations

from soliton.build.definition import Section


def is_traced(section: Section) -> bool:
    """Whether the shell itself runs the body and says what it does (`-x`)."""
    return "-c" not in section.arguments.split()


def command(section: Section, script: str) -> tuple[str, ...]:
    """argv that runs the section's body lying at `script`: `/bin/sh -ex [arguments] script`.

    Behind `-c` the remaining arguments and the script form one command of the shell.
    """
    words = section.arguments.split()
    if "-c" in words:
        at = words.index("-c")
        return "/bin/sh", "-ex", *words[: at + 1], " ".join([*words[at + 1 :], script])
    return "/bin/sh", "-ex", *words, script
