"""Every file of an image with all that is known of it, read without mounting or running anything.

files = survey(open_image("a.sif").require_root())
files["/etc/passwd"].digest
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soliton import core, messages
from soliton.launch.plan import DirectoryRoot, Identity, ImageRoot


@dataclass(frozen=True)
class FileFacts:
    """kind: file, directory, link, pipe, character device, block device. mode: permission bits. mtime: Unix seconds.

    digest: of a file's content, SHA-256, empty if contents were not read. target: of a link. device: `major:minor`.
    same_as: the first of several names of this file, by path; empty for that one. xattrs: name → value.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    digest: str = ""
    target: str = ""
    device: str = ""
    same_as: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def survey(
    root: ImageRoot | DirectoryRoot,
    *,
    contents: bool = True,
    endings: Sequence[str] = (),
    identity: Identity | None = None,
) -> dict[str, FileFacts]:
    """Path → facts; a directory comes before what is in it. contents: whether files are read, for their digests; if not,
    those of an image whose paths end so. identity: to read directories as its root sees them.

    Raises CoreError for what is damaged or cannot be read.
    """
    files: dict[str, FileFacts] = {}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            messages.warning(event["message"])
        else:
            files[_name(event["path"])] = _facts(event, files)

    request = {
        "root": core.encode(root),
        "contents": contents,
        "endings": list(endings),
        "identity": core.encode(identity),
    }
    core.converse("survey", request, on_event)
    return files


def _facts(event: Mapping[str, Any], known: Mapping[str, FileFacts]) -> FileFacts:
    if event["kind"] == "hard link":
        first = _name(event["target"])
        return replace(known[first], same_as=first)
    return FileFacts(
        kind=event["kind"],
        mode=event["mode"],
        uid=event["uid"],
        gid=event["gid"],
        mtime=event["mtime"],
        size=event.get("size", 0),
        digest=event.get("digest", ""),
        target=_name(event.get("target", "")),
        device=event.get("device", ""),
        xattrs={name: b64decode(value) for name, value in event.get("xattrs", {}).items()},
    )


def _name(value: str | Mapping[str, str]) -> str:
    """A name as the core spells it: one that is no text comes as bytes."""
    return value if isinstance(value, str) else b64decode(value["base64"]).decode("utf-8", "surrogateescape")
