"""The build context: the files that COPY and ADD may take. Nothing outside of it, whatever links and `..` say.

Names are looked up inside the context as if it were the whole file system, here for digests and patterns and by the core
(openat2(2)) when files are copied. What `.dockerignore` excludes is not there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from soliton.errors import BuildError

#: Links followed in one path; directories below one another; files of one COPY.
MOST_LINKS = 40
DEEPEST = 400
MOST_FILES = 2_000_000


@dataclass(frozen=True)
class Rule:
    """A line of `.dockerignore`: whether it excludes, and what it matches."""

    excludes: bool
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Context:
    """root: absolute. rules: of `.dockerignore`, the last that matches counts."""

    root: str
    rules: tuple[Rule, ...] = ()

    def ignores(self, path: str) -> bool:
        """path: relative to the root, without links."""
        ignored = False
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        for rule in self.rules:
            if rule.excludes != ignored and any(rule.pattern.fullmatch(part) for part in above):
                ignored = rule.excludes
        return ignored


def open_context(root: str, dockerfile: str) -> Context:
    """dockerfile: whose own `NAME.dockerignore`, beside it or in the context, beats `.containerignore` and `.dockerignore`."""
    own = f"{dockerfile}.dockerignore"
    general = (
        os.path.join(root, name) for name in (os.path.basename(own), ".containerignore", ".dockerignore")
    )
    for path in (own, *general):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return Context(root, read_rules(file.read(1 << 20)))
        except OSError:
            continue
    return Context(root)


def without(context: Context, place: str, patterns: Sequence[str]) -> Context:
    """The context as `COPY --exclude` shows it below `place`, a directory, or a file that may be excluded by its name."""
    folder = place if os.path.isdir(os.path.join(context.root, place)) else os.path.dirname(place)
    before = re.escape(f"{folder}/") if folder else ""
    more = [
        Rule(True, re.compile(before + pattern(os.path.normpath(text.lstrip("/"))).pattern, re.DOTALL))
        for text in patterns
    ]
    return Context(context.root, (*context.rules, *more))


def read_rules(text: str) -> tuple[Rule, ...]:
    """The lines of a `.dockerignore`."""
    rules = []
    for line in text.lstrip("\ufeff").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        excludes = not line.startswith("!")
        cleaned = os.path.normpath(line.removeprefix("!").strip().lstrip("/") or ".")
        if cleaned not in (".", "..") and not cleaned.startswith("../"):
            rules.append(Rule(excludes, pattern(cleaned)))
    return tuple(rules)


def pattern(text: str) -> re.Pattern[str]:
    """Go's filepath.Match, and `**` for any number of directories."""
    out = ""
    at = 0
    while at < len(text):
        if text.startswith("**/", at):
            out += "(?:.*/)?"
            at += 3
        elif text.startswith("**", at):
            out += ".*"
            at += 2
        elif text[at] == "*":
            out += "[^/]*"
            at += 1
        elif text[at] == "?":
            out += "[^/]"
            at += 1
        elif text[at] == "[" and (end := text.find("]", at + 2)) > 0:
            inner = text[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inner = "^" + inner[1:] if inner[0] in "!^" else inner
            out += f"[{inner}]"
            at = end + 1
        elif text[at] == "\\" and at + 1 < len(text):
            out += re.escape(text[at + 1])
            at += 2
        else:
            out += re.escape(text[at])
            at += 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error:
        return re.compile(re.escape(text))


def find(context: Context, source: str) -> list[str]:
    """The paths that a source means, relative to the root, links resolved; empty if there is none that is not ignored."""
    names = [name for name in os.path.normpath("/" + source).split("/") if name]
    found = [""]
    for name in names:
        here: list[str] = []
        for folder in found:
            if re.search(r"[*?\[]", name):
                place = resolve(context.root, folder)
                entries = (
                    sorted(os.listdir(os.path.join(context.root, place)))
                    if _is_directory(context, place)
                    else []
                )
                here += [f"{folder}/{entry}" for entry in entries if fnmatch.fnmatchcase(entry, name)]
            else:
                here.append(f"{folder}/{name}")
        found = here
    paths = []
    for path in found:
        place = resolve(context.root, path)
        if os.path.lexists(os.path.join(context.root, place)) and not context.ignores(path.strip("/") or "."):
            paths.append(path.strip("/"))
    return paths


def resolve(root: str, path: str) -> str:
    """A path inside `root`, relative to it, every link resolved inside: none leads out."""
    pending = [name for name in reversed(path.split("/")) if name not in ("", ".")]
    done: list[str] = []
    links = 0
    while pending:
        name = pending.pop()
        if name == "..":
            if done:
                done.pop()
            continue
        try:
            target = os.readlink(os.path.join(root, *done, name))
        except OSError:
            done.append(name)
            continue
        links += 1
        if links > MOST_LINKS:
            raise BuildError(f"`{path}` cannot be copied", why="its links lead in a circle")
        if target.startswith("/"):
            done = []
        pending += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return "/".join(done)


def _is_directory(context: Context, place: str) -> bool:
    return os.path.isdir(os.path.join(context.root, place))


def walk(context: Context, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """What is to be copied of `path` (relative, links resolved): (relative path, lstat), directories first."""
    pending = [(path, 0)]
    count = 0
    while pending:
        here, depth = pending.pop()
        whole = os.path.join(context.root, here)
        status = os.lstat(whole)
        count += 1
        if count > MOST_FILES or depth > DEEPEST:
            raise BuildError(f"`{path}` has too many files, or is too deep, to be copied")
        yield here, status
        if stat.S_ISDIR(status.st_mode):
            for name in sorted(os.listdir(whole), reverse=True):
                below = f"{here}/{name}" if here else name
                # What is below may come back by a rule that begins with `!`.
                if not context.ignores(below) or _may_return(context, os.path.join(context.root, below)):
                    pending.append((below, depth + 1))


def _may_return(context: Context, whole: str) -> bool:
    inside = any(not rule.excludes for rule in context.rules)
    return inside and os.path.isdir(whole) and not os.path.islink(whole)


def digest(context: Context, path: str, of_file: Callable[[str], str]) -> str:
    """Of everything that a COPY of `path` takes: names, kinds, modes, contents; no times, no owners."""
    found = hashlib.sha256()
    place = resolve(context.root, path)
    for here, status in walk(context, place):
        whole = os.path.join(context.root, here)
        if stat.S_ISREG(status.st_mode):
            content = of_file(whole)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(whole)
        elif stat.S_ISDIR(status.st_mode):
            if context.ignores(here) and here != place:
                continue
            content = ""
        else:
            content = "other"
        line = f"{here[len(place) :]}\0{status.st_mode:o}\0{content}\0"
        found.update(line.encode("utf-8", "surrogateescape"))
    return f"sha256:{found.hexdigest()}"


def is_partial(context: Context, path: str) -> bool:
    """Whether something below `path` is ignored."""
    if not context.rules:
        return False
    place = resolve(context.root, path)
    top = os.path.join(context.root, place)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            if context.ignores(os.path.relpath(os.path.join(folder, name), context.root)):
                return True
    return False


def without_ignored(context: Context, path: str, target: str) -> None:
    """A tree at `target` of what is not ignored below the directory `path`: links to the files where that can be."""
    place = resolve(context.root, path)
    os.makedirs(target)
    modes: list[tuple[str, int]] = []
    for here, status in walk(context, place):
        whole = os.path.join(context.root, here)
        there = os.path.join(target, here[len(place) :].lstrip("/")).rstrip("/")
        if here == place:
            modes.append((there, stat.S_IMODE(status.st_mode)))
        elif stat.S_ISDIR(status.st_mode):
            if not context.ignores(here):
                os.makedirs(there, exist_ok=True)
                modes.append((there, stat.S_IMODE(status.st_mode)))
        elif not context.ignores(here):
            os.makedirs(os.path.dirname(there), exist_ok=True)
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(whole), there)
            elif stat.S_ISREG(status.st_mode):
                try:
                    os.link(whole, there, follow_symlinks=False)
                except OSError:
                    shutil.copy2(whole, there, follow_symlinks=False)
    for there, mode in reversed(modes):
        os.chmod(there, mode)
