"""Differences of two images, as data and as lines."""

from __future__ import annotations

import json

from soliton.api.diff import Difference, variables
from soliton.cli import diff as shown
from soliton.images import compare
from soliton.images.compare import Change
from soliton.images.survey import FileFacts

PLAIN = FileFacts("file", 0o644, 0, 0, 0, 5, "ab" * 32)


def test_nothing_differs() -> None:
    assert compare.files({"/a": PLAIN}, {"/a": PLAIN}) == []
    assert compare.values({"a": "1"}, {"a": "1"}) == []


def test_every_aspect_of_a_file() -> None:
    def aspects(**other: object) -> dict[str, tuple[str, str]]:
        new = FileFacts(**{**vars(PLAIN), **other})
        (change,) = compare.files({"/a": PLAIN}, {"/a": new})
        return dict(change.aspects)

    assert aspects(size=7, digest="cd" * 32) == {"content": ("5 bytes", "7 bytes")}
    assert aspects(digest="cd" * 32) == {"content": ("sha256:abababababab", "sha256:cdcdcdcdcdcd")}
    assert aspects(mode=0o4755) == {"mode": ("0644", "4755")}
    assert aspects(uid=7, gid=8) == {"owner": ("0:0", "7:8")}
    assert aspects(mtime=86400) == {"time": ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")}
    assert aspects(xattrs={"user.a": b"\1"}) == {"xattrs": ("", "user.a=01")}
    assert aspects(same_as="/b") == {"links": ("", "/b")}
    assert aspects(kind="link", target="/x", size=0) == {"kind": ("file", "link")}


def test_ignored_aspects_do_not_count_and_paths_are_in_order() -> None:
    before = {"/a": PLAIN, "/a/b": PLAIN, "/a.b": PLAIN}
    after = {"/a": FileFacts("file", 0o644, 0, 0, 9, 5, "ab" * 32), "/c": PLAIN}
    changes = compare.files(before, after, {"time"})
    assert [(change.name, change.change) for change in changes] == [
        ("/a/b", "removed"),
        ("/a.b", "removed"),
        ("/c", "added"),
    ]


def test_differences_are_told_a_line_each_and_names_cannot_lie() -> None:
    files = (
        Change("/etc/x", "changed", {"content": ("1 bytes", "2 bytes"), "mode": ("0644", "0600")}),
        Change("/new\n  - /etc/passwd", "added", {"is": ("", "1 bytes")}),
    )
    found = Difference(files, (Change("dpkg hello", "changed", {"is": ("1", "2")}),), (), ())
    assert shown.as_text(found) == (
        "Files: 1 added, 1 changed\n"
        "  ~ /etc/x  content (1 bytes → 2 bytes), mode (0644 → 0600)\n"
        "  + /new\\n  - /etc/passwd  1 bytes\n"
        "Packages: 1 changed\n"
        "  ~ dpkg hello  1 → 2\n"
    )
    record = json.loads(shown.as_json(found))
    assert record["packages"] == [
        {"name": "dpkg hello", "change": "changed", "is": {"before": "1", "after": "2"}}
    ]
    assert record["environment"] == []
    assert found and not Difference((), (), (), ())


def test_variables_of_scripts_as_they_are_written() -> None:
    scripts = {"/e/90.sh": "#!/bin/sh\nexport A=1\n  B='x y'\n# C=2\n", "/e/10.sh": 'export A="${A:-"0"}"\n'}
    assert variables(scripts) == {"A": "1", "B": "'x y'"}
