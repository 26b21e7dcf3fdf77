"""The time that an image bears: the same on every machine and every day, so it is never the clock's.

    SOURCE_DATE_EPOCH, where the user sets it                 (reproducible-builds.org)
    else what the stage's base bears:  an image               the time in its file system, for OCI images `created`
                                       a sandbox              its label `build-date`
                                       Debian packages        the date of the release they came from
    else, and at the earliest          1980-01-01             zip files know no earlier time

No file that a build makes is younger. The steps are told by SOURCE_DATE_EPOCH, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from soliton import core
from soliton.images import labels, metadata, squashfs
from soliton.launch.plan import DirectoryRoot, ImageRoot

if TYPE_CHECKING:
    from soliton.build.bootstrap.base import Base

EARLIEST = 315532800
LATEST = 0xFFFFFFFF
#: Where apt keeps what it knows of its sources.
_LISTS = "/var/lib/apt/lists/*"
_RELEASE = re.compile(r"^Date: (.{10,60})$", re.MULTILINE)
_BUILD_DATE = re.compile(r"[A-Za-z]+_(\d{1,2})_([A-Za-z]+)_(\d{4})_(\d{1,2}):(\d{1,2}):(\d{1,2})_")


def of_base(base: Base, tree: Mapping[str, bytes]) -> int:
    """Unix seconds. tree: `/.singularity.d` of the base."""
    found: int | None
    if isinstance(base.root, ImageRoot):
        found = _of_image(base.root)
    elif base.is_image:
        found = of_labels(tree.get(metadata.LABELS, b""))
    else:
        found = _of_release(base.root)
    return min(max(found or 0, EARLIEST), LATEST)


def of_labels(data: bytes) -> int | None:
    """The time in the label `build-date` of a `labels.json`, whatever zone it names taken for UTC."""
    date = labels.decode(data, "the base").get(f"{labels.SCHEMA}build-date", "")
    match = _BUILD_DATE.match(date)
    if match is None or match[2] not in labels.MONTHS:
        return None
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    month = labels.MONTHS.index(match[2]) + 1
    try:
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError:
        return None


def of_release(text: str) -> int | None:
    """The `Date` of a Release file of Debian."""
    match = _RELEASE.search(text)
    if match is None:
        return None
    try:
        return int(parsedate_to_datetime(match[1]).timestamp())
    except ValueError:
        return None


def _of_image(root: ImageRoot) -> int:
    with open(root.path, "rb") as file:
        file.seek(root.offset)
        head = file.read(squashfs.SUPERBLOCK_SIZE)
    return squashfs.check_superblock(head, root.size, root.path).time


def _of_release(root: DirectoryRoot) -> int | None:
    files = core.read_files(root, [_LISTS], limit=4096)
    texts = (file.data.decode("utf-8", "replace") for path, file in files.items() if path.endswith("Release"))
    return max((time for text in texts if (time := of_release(text)) is not None), default=None)
