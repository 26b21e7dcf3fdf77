"""Completion as bash does it: the script is loaded by a real bash and asked."""

from __future__ import annotations

import subprocess

import pytest

from soliton.cli.completion import bash_script, fish_script, zsh_script

ASK = """
source /dev/stdin
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_soliton
echo "${COMPREPLY[*]}"
"""


def completed(*words: str) -> str:
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", *words],
        input=bash_script("soliton"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("soliton", "ex"), "exec"),
        (("soliton", "-q", "sif", "he"), "header"),
        (("soliton", "exec", "--contain"), "--contain --containall"),
        (("soliton", "exec", "--bind", "/a", "--no-ho"), "--no-home"),
        (("soliton", "exec", "--bind", "=", "/a", ":", "/b", "--no-ho"), "--no-home"),
        (("soliton", "exec", "--bind", ""), ""),
        (("soliton", "exec", "image.sif", "--contain"), ""),
        (("soliton", "instance", "start", "--dmtcp"), ""),
        (("soliton", "sif", "list", "--"), "--help"),
    ],
)
def test_a_line_is_completed(words: tuple[str, ...], answer: str) -> None:
    assert completed(*words) == answer


def test_every_shell_has_a_script_for_the_name_of_the_call() -> None:
    for script in (bash_script("apptainer"), zsh_script("apptainer"), fish_script("apptainer")):
        assert "apptainer" in script
        assert "soliton" not in script
        assert "containall" in script
        assert "dmtcp" not in script
