"""Every soliton command line in README, guide and examples is one that the program understands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from soliton.cli import commands
from soliton.cli.parser import parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]


def shell_lines(document: Path) -> Iterator[str]:
    inside = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside:
            yield line


def command_lines() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for line in shell_lines(document):
            words = shlex.split(line.partition("<<")[0], comments=True)
            if "soliton" in words:
                found.append(shlex.join(words[words.index("soliton") :]))
    for _, command in commands.walk():
        found += [example.line for example in command.examples]
    return found


def test_the_documents_have_command_lines() -> None:
    assert len(command_lines()) > 60


@pytest.mark.parametrize("line", command_lines())
def test_a_documented_command_line_is_understood(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "soliton"
    parse(program, words, {})


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for part in document.read_text(encoding="utf-8").split("](")[1:]:
            target = part.partition(")")[0]
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_chapter_on_building_knows_every_option_of_a_build() -> None:
    (build,) = (command for path, command in commands.walk() if path == ("build",))
    chapter = (ROOT / "docs/guide/building.md").read_text(encoding="utf-8")
    elsewhere = {"docker-username", "docker-password", "library", "passphrase", "pem-path"}
    missing = [
        option.name for option in build.options if not option.hidden and f"--{option.name}" not in chapter
    ]
    assert set(missing) <= elsewhere, missing
