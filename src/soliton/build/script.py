"""How the text of a section becomes a program: the command that runs it, or the script an image keeps.

Pure text; where the script lies and who runs it is `steps`' business.
"""

from __future__ import annotations

from soliton.build.definition import Section


def command(section: Section, script: str) -> tuple[str, ...]:
    """argv that runs the section's body lying at `script`: `/bin/sh -ex [arguments] script`.

    Behind `-c` the remaining arguments and the script form one command of the shell.
    """
    words = section.arguments.split()
    if "-c" in words:
        at = words.index("-c")
        return "/bin/sh", "-ex", *words[: at + 1], " ".join([*words[at + 1 :], script])
    return "/bin/sh", "-ex", *words, script


def stored(section: Section) -> str:
    """The script that an image keeps of a `%runscript`, `%startscript` or `%test`, `#!` line first.

    A `#!` in the body's first line stays, else `/bin/sh` is the interpreter; the section's arguments go on that line.
    """
    shebang, body = "#!/bin/sh", section.body
    if body.lstrip().startswith("#!"):
        first, _, body = body.lstrip().partition("\n")
        shebang = first.strip()
    if section.arguments:
        shebang += f" {section.arguments}"
    return f"{shebang}\n\n{body}\n"
