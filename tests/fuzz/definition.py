"""Definition files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from soliton.build import script
from soliton.build.definition import parse

_TYPICAL = b"""Bootstrap: docker
From: {{ OS }}:3.19 # comment
Stage: build
%arguments
  OS=alpine
%files
  "a b" /c\\ d # why
  e*
%post -c /bin/bash
  echo {{ OS }}
%labels
  key value
Bootstrap: scratch
%files from build
  /a
%appfiles foo
  x y
%apprun foo
  echo foo
"""


def seeds() -> Iterable[bytes]:
    yield _TYPICAL
    for file in sorted((Path(__file__).parents[1] / "corpus" / "definition").glob("*.def")):
        yield file.read_bytes()


def target(data: bytes) -> None:
    definition = parse(data, "fuzz.def", {"OS": "{{ OS }}"})
    for stage in definition.stages:
        for section in stage.sections:
            script.command(section, "/script")
