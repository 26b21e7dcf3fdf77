"""The command that runs a section's text. Where the script lies and who runs it is decided elsewhere."""

from __future__ import annotations

from soliton.build.definition import Section


def is_traced(section: Section) -> bool:
    """Whether the shell itself runs the body and says what it does (`-x`)."""
    return "-c" not in section.arguments.split()


def unheeded(section: Section) -> str:
    """A hint where the body begins with `#!` and a program that is not going to run it; else empty."""
    first = next((line.strip() for line in section.body.splitlines() if line.strip()), "")
    words = first.removeprefix("#!").split()
    if not first.startswith("#!") or not words or "-c" in section.arguments.split():
        return ""
    program = words[1] if words[0].endswith("/env") and len(words) > 1 else words[0]
    name = program.rpartition("/")[2]
    if name in ("sh", "dash", "ash"):
        return ""
    # What /bin/sh is told of errors is not told to another shell.
    better = f"%{section.name} -c {program[:40]}{' -e' if name.endswith('sh') else ''}"
    return f"%{section.name} is run by /bin/sh, `{first[:60]}` in it is a comment: write `{better}`"


def command(section: Section, script: str) -> tuple[str, ...]:
    """argv that runs the section's body lying at `script`: `/bin/sh -ex [arguments] script`.

    Behind `-c` the remaining arguments and the script form one command of the shell.
    """
    words = section.arguments.split()
    if "-c" in words:
        at = words.index("-c")
        return "/bin/sh", "-ex", *words[: at + 1], " ".join([*words[at + 1 :], script])
    return "/bin/sh", "-ex", *words, script
