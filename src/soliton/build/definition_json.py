"""`--json`: a definition as programs write it, in the peers' JSON form, made into the text that it stands for.

    {"header": {"bootstrap": "docker", "from": "alpine"},
     "imageData": {"labels": {"K": "V"}, "imageScripts": {"help": S, "environment": S, "runScript": S, "startScript": S, "test": S}},
     "buildData": {"buildScripts": {"pre": S, "setup": S, "post": S, "test": S},
                   "files": [{"args": "from STAGE", "files": [{"source": "a", "destination": "b"}]}]},
     "customData": {"appinstall NAME": "text"}}                         S is {"args": "", "script": "text"}

An array of such objects is a definition of several stages. Keys of the peers that say nothing of the result are passed over.
"""

from __future__ import annotations

import json
from typing import Any

from soliton.build.definition import APP_SECTIONS
from soliton.build.lines import MAX_SIZE, DefinitionError

_IMAGE = (
    ("help", "help"),
    ("environment", "environment"),
    ("runScript", "runscript"),
    ("startScript", "startscript"),
    ("test", "test"),
)
_BUILD = ("pre", "setup", "post", "test")


def text_of(data: bytes, name: str) -> bytes:
    """The definition file that says the same. Raises DefinitionError for what is not such JSON."""
    if len(data) > MAX_SIZE:
        raise DefinitionError(name, f"larger than {MAX_SIZE >> 20} MiB", expected="a definition")
    try:
        record = json.loads(data)
    except json.JSONDecodeError as error:
        raise DefinitionError(
            name,
            f"not JSON: {error.msg}",
            line=error.lineno,
            column=error.colno,
            expected="a definition as JSON",
            remedy="leave `--json` out for a definition file",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DefinitionError(name, f"not JSON: {error}", expected="a definition as JSON") from None
    stages = record if isinstance(record, list) else [record]
    text = "".join(_stage(_Part(stage, name, "the definition")) for stage in stages)
    return text.encode("utf-8", "surrogatepass")


class _Part:
    """An object in the JSON, and how messages name it."""

    def __init__(self, value: Any, name: str, place: str) -> None:
        self.name, self.place = name, place
        self.value: dict[str, Any] = {} if value is None else value
        if not isinstance(self.value, dict):
            raise DefinitionError(name, f"{place} is no object", expected="a definition as JSON")

    def part(self, key: str) -> _Part:
        return _Part(self.value.get(key), self.name, f"`{key}`")

    def parts(self, key: str) -> list[_Part]:
        found = self.value.get(key)
        found = [] if found is None else found
        if not isinstance(found, list):
            raise DefinitionError(self.name, f"`{key}` is no array", expected="a definition as JSON")
        return [_Part(entry, self.name, f"`{key}`") for entry in found]

    def text(self, key: str, *, line: bool = False) -> str:
        """A string; line: without line ends, for it becomes a part of one."""
        found = self.value.get(key)
        if found is None:
            return ""
        if not isinstance(found, str) or (line and ("\n" in found or "\r" in found)):
            raise DefinitionError(
                self.name,
                f"`{key[:60]}` in {self.place} is no {'line' if line else 'text'}",
                expected="a definition as JSON",
            )
        return found


def _stage(stage: _Part) -> str:
    header = stage.part("header")
    # The line that begins a stage comes first.
    keywords = sorted(header.value, key=lambda keyword: keyword.lower() != "bootstrap")
    lines = [f"{keyword}: {header.text(keyword, line=True)}\n" for keyword in keywords]
    image, build = stage.part("imageData"), stage.part("buildData")
    scripts = build.part("buildScripts")
    for key in _BUILD:
        lines.append(_section(key, scripts.part(key)))
    for key, section in _IMAGE:
        if key != "test" or not scripts.part("test").text("script"):
            lines.append(_section(section, image.part("imageScripts").part(key)))
    for files in build.parts("files"):
        lines.append(f"%files {files.text('args', line=True)}\n")
        for file in files.parts("files"):
            names = (file.text("source", line=True), file.text("destination", line=True))
            lines.append(" ".join(_quoted(name) for name in names if name) + "\n")
    labels = image.part("labels")
    if labels.value:
        lines.append("%labels\n")
        lines += [f"{key} {labels.text(key, line=True)}\n" for key in labels.value]
    custom = stage.part("customData")
    for key in custom.value:
        if key.split()[:1] and key.split()[0].lower() in APP_SECTIONS and "\n" not in key:
            lines.append(f"%{key}\n{custom.text(key)}\n")
    return "".join(lines)


def _section(name: str, script: _Part) -> str:
    text = script.text("script")
    return f"%{name} {script.text('args', line=True)}\n{text}\n" if text.strip() else ""


def _quoted(name: str) -> str:
    return '"' + name + '"' if '"' not in name else "'" + name + "'"
