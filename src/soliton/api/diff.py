"""`diff`: what differs between two images: files, packages, environment, labels. Neither is mounted or run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from soliton import core, messages
from soliton.api import inspect
from soliton.errors import ImageError, UsageError
from soliton.images import compare, packages
from soliton.images.compare import Change
from soliton.images.detect import open_image
from soliton.images.packages import Package
from soliton.images.survey import FileFacts, survey
from soliton.launch.plan import DirectoryRoot

_EXPORT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Contents:
    """What of an image is compared. environment: variable → what the image's scripts set it to, as written.

    owners: whether files have owners of their own, which those of a sandbox have not.
    """

    files: Mapping[str, FileFacts]
    packages: tuple[Package, ...]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    owners: bool = True


@dataclass(frozen=True)
class Difference:
    """Empty lists where nothing differs."""

    files: tuple[Change, ...]
    packages: tuple[Change, ...]
    environment: tuple[Change, ...]
    labels: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.files or self.packages or self.environment or self.labels)


def contents(path: str) -> Contents:
    """Everything that `diff` compares, of one image or sandbox. Raises ImageError."""
    image = open_image(path)
    root = image.require_root()
    try:
        files = survey(root)
        found, notes = packages.find(root, files)
    except core.CoreError as error:
        place = error.detail.get("path")
        raise ImageError(
            f"`{path}` cannot be read as a whole", why=f"{error.what}{f' ({place})' if place else ''}"
        ) from None
    for note in notes:
        messages.warning(f"{path}: {note}")
    described = inspect.describe(image, path)
    return Contents(
        files,
        tuple(found),
        variables(described.environment),
        described.labels,
        owners=not isinstance(root, DirectoryRoot),
    )


def variables(scripts: Mapping[str, str]) -> dict[str, str]:
    """The variables that environment scripts set, as far as plain lines tell; of several the last."""
    found: dict[str, str] = {}
    for _, text in sorted(scripts.items()):
        found.update((match[1], match[2].strip()) for match in _EXPORT.finditer(text))
    return found


def compared(before: Contents, after: Contents, ignore: Collection[str] = ()) -> Difference:
    """ignore: aspects of files that do not count."""
    if not (before.owners and after.owners):
        ignore = {*ignore, "owner"}
    return Difference(
        tuple(compare.files(before.files, after.files, ignore)),
        tuple(compare.values(_versions(before), _versions(after))),
        tuple(compare.values(before.environment, after.environment)),
        tuple(compare.values(before.labels, after.labels)),
    )


def diff(before: str, after: str, ignore: Collection[str] = ()) -> Difference:
    """What differs from the image `before` to the image `after`. Raises ImageError, UsageError."""
    for word in ignore:
        if word not in compare.ASPECTS:
            raise UsageError(
                f"`--ignore {word}`: there is no such thing to ignore",
                why="files differ by " + ", ".join(compare.ASPECTS),
            )
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(contents, (before, after))
    return compared(first, second, ignore)


def _versions(found: Contents) -> dict[str, str]:
    versions: dict[str, list[str]] = {}
    for package in found.packages:
        versions.setdefault(f"{package.manager} {package.name}", []).append(package.version)
    return {name: ", ".join(several) for name, several in versions.items()}
