"""Layers merged by the program are what a naive reading of the rules gives (OCI image-spec, layer.md).

The reference keeps the whole tree in dictionaries and applies one layer after the other; the program streams them.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from soliton import core
from tests.tree import read_tree
from tests.zoo import Layer

_NAMES = st.sampled_from(["a", "ä b"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_MODES = st.sampled_from([0o644, 0o755, 0o600, 0o4711])
_TIMES = st.integers(1, 2_000_000_000)

#: (what, path, mode, time, text): text is a file's content, a link's target, or empty.
_MEMBER = st.one_of(
    st.tuples(st.just("file"), _PATHS, _MODES, _TIMES, st.sampled_from(["", "x", "y" * 5000])),
    st.tuples(st.just("directory"), _PATHS, st.sampled_from([0o755, 0o700]), _TIMES, st.just("")),
    st.tuples(st.just("symlink"), _PATHS, st.just(0o777), _TIMES, st.sampled_from(["a", "/b", "../nowhere"])),
    st.tuples(st.just("hardlink"), _PATHS, _MODES, _TIMES, _PATHS),
    st.tuples(st.just("whiteout"), _PATHS, _MODES, _TIMES, st.just("")),
    st.tuples(st.just("opaque"), st.sampled_from(["a", "ä b", "a/a"]), _MODES, _TIMES, st.just("")),
)
Member = tuple[str, str, int, int, str]


@dataclass
class Node:
    kind: str
    mode: int = 0o755
    mtime: int = 0
    text: str = ""
    described: bool = False
    children: dict[str, Node] = field(default_factory=dict)


class Refused(Exception):
    """The layers make no sense: a file where a directory is needed, a hard link to nothing."""


def reference(layers: list[list[Member]]) -> Node:
    root = Node("d")
    for layer in layers:
        assume(not is_ambiguous(layer))
        for what, path, *_ in layer:
            if what == "whiteout":
                parent, name = lower(root, path)
                if parent is not None:
                    parent.children.pop(name, None)
            elif what == "opaque":
                parent, name = lower(root, path)
                node = parent.children.get(name) if parent is not None else None
                # A link that a mark names is somebody else's subject.
                assume(node is None or node.kind != "l")
                if node is not None and node.kind == "d":
                    node.children.clear()
        for what, path, mode, mtime, text in layer:
            if what in ("whiteout", "opaque"):
                continue
            parent, name = directory(root, path, mtime)
            old = parent.children.get(name)
            if what == "hardlink":
                source = find(root, text)
                if source is None or source.kind == "d":
                    raise Refused
                parent.children[name] = source
            elif what == "directory" and old is not None and old.kind == "d":
                old.mode, old.mtime, old.described = mode, mtime, True
            else:
                parent.children[name] = Node(
                    what[0] if what != "symlink" else "l", mode, mtime, text, described=True
                )
    return root


def is_ambiguous(layer: list[Member]) -> bool:
    """Whether what a layer means depends on the order of its members, which the rules leave open: a mark that also covers
    members of this layer, or what one of its hard links leads to."""
    marks = [path for what, path, *_ in layer if what in ("whiteout", "opaque")]
    removed = [path for what, path, *_ in layer if what == "whiteout"]
    set_here = [path for what, path, *_ in layer if what not in ("whiteout", "opaque")]
    linked = [text for what, _, _, _, text in layer if what == "hardlink"]
    return any(path.startswith(f"{mark}/") for mark in removed for path in set_here) or any(
        target == mark or target.startswith(f"{mark}/") for mark in marks for target in linked
    )


def lower(root: Node, path: str) -> tuple[Node | None, str]:
    *parents, name = path.split("/")
    at: Node | None = root
    for part in parents:
        at = at.children.get(part) if at is not None and at.kind == "d" else None
        assume(at is None or at.kind != "l")
    return (at if at is not None and at.kind == "d" else None), name


def directory(root: Node, path: str, mtime: int) -> tuple[Node, str]:
    *parents, name = path.split("/")
    at = root
    for part in parents:
        at = at.children.setdefault(part, Node("d", 0o755, mtime))
        # Parents that are links have tests of their own.
        assume(at.kind != "l")
        if at.kind != "d":
            raise Refused
    return at, name


def find(root: Node, path: str) -> Node | None:
    parent, name = lower(root, path)
    return parent.children.get(name) if parent is not None else None


def shown(node: Node, path: str = ".", seen: dict[int, str] | None = None) -> dict[str, tuple[Any, ...]]:
    """The tree as `seen_by_the_system` has it: kind, mode, time, content, and the first name of the same file."""
    seen = {} if seen is None else seen
    found: dict[str, tuple[Any, ...]] = {}
    for name in sorted(node.children, key=os.fsencode):
        child, place = node.children[name], f"{path}/{name}"
        if child.kind == "d":
            # The rules say nothing of the mode and time of a directory that no layer describes.
            found[place] = ("d", child.mode, child.mtime, "", "") if child.described else ("d",)
            found |= shown(child, place, seen)
        else:
            found[place] = (
                child.kind,
                child.mode,
                child.mtime,
                child.text,
                seen.setdefault(id(child), place),
            )
    return found


def squashed(layers: list[list[Member]], work: Path) -> Path:
    """The program's own: layers as tars through descriptors, the squashfs unpacked again."""
    sources = []
    for number, members in enumerate(layers):
        tar = Layer()
        for what, path, mode, mtime, text in members:
            parent, _, name = path.rpartition("/")
            if what == "file":
                tar.add(path, text.encode(), mode=mode, mtime=mtime)
            elif what == "directory":
                tar.directory(path, mode, mtime=mtime)
            elif what == "symlink":
                tar.add(path, kind=b"2", mode=mode, link=text, mtime=mtime)
            elif what == "hardlink":
                tar.add(path, kind=b"1", mode=mode, link=text, mtime=mtime)
            elif what == "whiteout":
                tar.add(f"{parent}/.wh.{name}".lstrip("/"))
            else:
                tar.add(f"{path}/.wh..wh..opq")
        source = work / f"{number}.tar"
        source.write_bytes(tar.bytes())
        sources.append(source)
    image = work / "image.squashfs"
    files = [os.open(source, os.O_RDONLY) for source in sources]
    out = os.open(image, os.O_RDWR | os.O_CREAT)
    try:
        core.converse(
            "squash",
            {
                "layers": [
                    {"kind": "tar", "fd": fd, "path": str(p)} for fd, p in zip(files, sources, strict=True)
                ],
                "output": {"fd": out, "offset": 0},
                "epoch": 0,
            },
            pass_fds=(*files, out),
        )
    finally:
        for fd in (*files, out):
            os.close(fd)
    root = work / "root"
    place = {"path": str(image), "offset": 0, "size": image.stat().st_size}
    core.converse("unsquash", {"image": place, "target": str(root), "identity": None})
    return root


def seen_by_the_system(root: Path) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for path, entry in read_tree(root).items():
        if path == ".":
            continue
        text = entry.content if entry.kind != "-" else (root / path).read_text()
        kind = "f" if entry.kind == "-" else entry.kind
        first = "" if kind == "d" else (entry.links or path)
        found[path] = (kind, entry.mode, entry.mtime, text, first)
    return found


# A path that one layer both sets and marks is the subject of the core's own tests of the merge; here each is named once.
_LAYER = st.lists(_MEMBER, min_size=1, max_size=6, unique_by=lambda member: member[1])
#: Below the others, so that there is something to hide.
_BASE = st.lists(
    st.tuples(
        st.just("file"), st.lists(_NAMES, min_size=3, max_size=3).map("/".join), _MODES, _TIMES, st.just("z")
    ),
    max_size=6,
    unique_by=lambda member: member[1],
)


@settings(max_examples=150)
@example(
    [
        [("file", "a/a", 420, 1, "")],
        [("file", "a/a/a", 420, 1, ""), ("opaque", "a", 420, 1, "")],
    ]
)
@given(st.builds(lambda base, layers: [base, *layers], _BASE, st.lists(_LAYER, min_size=1, max_size=3)))
def test_layers_merge_as_the_rules_say(layers: list[list[Member]]) -> None:
    try:
        expected = shown(reference(copy.deepcopy(layers)))
    except Refused:
        expected = None
    work = Path(tempfile.mkdtemp())
    try:
        try:
            root = squashed(layers, work)
        except core.CoreError as error:
            assert error.code == "corrupt"
            assert expected is None, f"refused: {error}"
            return
        assert expected is not None, "the layers make no sense, and were merged all the same"
        ours = {
            path: entry[: len(expected.get(path, entry))] for path, entry in seen_by_the_system(root).items()
        }
        assert ours == expected
    finally:
        # A directory of mode 0700 is the tester's own and no hindrance.
        shutil.rmtree(work)
