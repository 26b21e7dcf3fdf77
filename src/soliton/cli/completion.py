"""Completion of command lines for bash, zsh and fish: scripts made from the tables, which need no Python when they run.

Only what is built is offered. Behind an image, words belong to the container, so there files are completed.
"""

from __future__ import annotations

import sys

from soliton.cli import commands
from soliton.cli.tables.root import GLOBALS, HELP, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from soliton.cli.commands import Command
    from soliton.cli.invocation import Invocation
    from soliton.cli.options import Option

    #: A path, the options and the commands that may follow it.
    Node = tuple[tuple[str, ...], tuple[Option, ...], tuple[Command, ...]]


def bash(invocation: Invocation) -> int:
    return _write(bash_script(invocation.program))


def zsh(invocation: Invocation) -> int:
    return _write(zsh_script(invocation.program))


def fish(invocation: Invocation) -> int:
    return _write(fish_script(invocation.program))


def _write(script: str) -> int:
    sys.stdout.write(script)
    return 0


def nodes() -> Iterator[Node]:
    """The program, its groups and its commands, each with what may follow."""
    top = tuple(command for command in commands.every() if _offered(command))
    yield (), _shown((*GLOBALS, VERSION)), top
    for path, command in commands.walk():
        if all(_offered(commands.at(path[: length + 1])) for length in range(len(path))):
            yield path, _shown(command.options), tuple(c for c in command.subcommands if _offered(c))


def _offered(command: Command) -> bool:
    return command.built() and not command.hidden


def _shown(options: tuple[Option, ...]) -> tuple[Option, ...]:
    return (*(option for option in options if option.supported and not option.hidden), HELP)


def _words(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        yield f"--{option.name}"
        if option.short:
            yield f"-{option.short}"


def _table(quote: str) -> str:
    """`case` branches that set, for each path, the options, those that take a value, and the commands below."""
    lines = []
    for path, options, below in nodes():
        valued = _words(tuple(option for option in options if option.kind != "flag"))
        lines.append(f'        "{" ".join(path)}")')
        lines.append(f"            options={quote}{' '.join(_words(options))}{quote}")
        lines.append(f"            valued={quote} {' '.join(valued)} {quote}")
        lines.append(f"            below={quote} {' '.join(command.name for command in below)} {quote} ;;")
    return "\n".join(lines)


#: Walks the words before the one to be completed: finds the command, and whether a value or the payload is being typed.
_WALK = """\
    local path="" options valued below word index payload="" value=""
    _{program}_table ""
    for ((index = {first}; index < {current}; index++)); do
        word=${{{words}[index]}}
        # bash makes words of their own of these, and the next one belongs to the value before
        if [[ $word == [:=]* ]]; then value=1; continue; fi
        if [[ -n $value ]]; then value=""; continue; fi
        if [[ -n $payload ]]; then continue; fi
        case $word in
        --*=*) ;;
        -?*) [[ $valued == *" $word "* ]] && value=1 ;;
        *)
            if [[ $below == *" $word "* ]]; then
                path=${{path:+$path }}$word
                _{program}_table "$path"
            else
                payload=1
            fi ;;
        esac
    done
"""


def bash_script(program: str) -> str:
    walk = _WALK.format(program=program, first=1, current="COMP_CWORD", words="COMP_WORDS")
    return f"""\
# Completion for bash: eval "$({program} completion bash)"
_{program}_table() {{
    case $1 in
{_table("'")}
    esac
}}
_{program}() {{
{walk}
    local typed=${{COMP_WORDS[COMP_CWORD]}}
    if [[ -z $payload && -z $value && $typed == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$typed"))
    elif [[ -z $payload && -z $value && $below == *[a-z]* ]]; then
        COMPREPLY=($(compgen -W "$below" -- "$typed"))
    else
        COMPREPLY=()
    fi
}}
complete -o default -F _{program} {program}
"""


def zsh_script(program: str) -> str:
    walk = _WALK.format(program=program, first=2, current="CURRENT", words="words")
    return f"""\
#compdef {program}
# Completion for zsh: eval "$({program} completion zsh)", or this file as _{program} in a directory of $fpath
_{program}_table() {{
    case $1 in
{_table("'")}
    esac
}}
_{program}() {{
{walk}
    if [[ -z $payload && -z $value && $PREFIX == -* ]]; then
        compadd -- ${{=options}}
    elif [[ -z $payload && -z $value && $below == *[a-z]* ]]; then
        compadd -- ${{=below}}
    else
        _files
    fi
}}
if [[ $funcstack[1] == _{program} ]]; then _{program} "$@"; else compdef _{program} {program}; fi
"""


def fish_script(program: str) -> str:
    lines = [f"# Completion for fish: {program} completion fish | source", f"complete -c {program} -f"]
    for path, options, below in nodes():
        names = " ".join(command.name for command in below)
        if path:
            seen = " ; and ".join(f"__fish_seen_subcommand_from {name}" for name in path)
            here = f"{seen} ; and not __fish_seen_subcommand_from {names}" if below else seen
        else:
            here = f"not __fish_seen_subcommand_from {names}"
        for command in below:
            lines.append(
                f"complete -c {program} -n {_fish(here)} -a {command.name} -d {_fish(command.summary)}"
            )
        if path and not below:
            lines.append(f"complete -c {program} -n {_fish(here)} -F")
        for option in options:
            short = f" -s {option.short}" if option.short else ""
            value = "" if option.kind == "flag" else " -r -F"
            lines.append(
                f"complete -c {program} -n {_fish(here)} -l {option.name}{short}{value} -d {_fish(option.help)}"
            )
    return "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
