"""Which packages are in an image, by the databases that lie in it: dpkg, rpm, apk, pip and conda.

Nothing of the image is run. A package's digest says more than its version: of what is installed (dpkg: its list of
checksums; pip: RECORD; rpm: the header) or of the archive it came from (apk, conda). Databases are hostile until read:
their sizes are bounded, and what makes no sense is passed over.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from soliton import core
from soliton.images.survey import FileFacts
from soliton.launch.plan import DirectoryRoot, ImageRoot

#: The order in which managers are told.
MANAGERS = ("dpkg", "rpm", "apk", "conda", "pip")
#: A database larger than this is not read; the largest of real images have some tens of megabytes.
LARGEST = 160 << 20
_SMALL = 4 << 20

#: Ends of the paths of files whose digests tell a package's.
DIGESTED = (".md5sums", ".dist-info/RECORD")

_DPKG = ("/var/lib/dpkg/status",)
_DPKG_FOLDER = "/var/lib/dpkg/status.d/"
_DPKG_INFO = "/var/lib/dpkg/info/"
_APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_RPM = ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite")
_RPM_OLD = ("/var/lib/rpm/Packages", "/usr/lib/sysimage/rpm/Packages", "/var/lib/rpm/Packages.db")
_PIP = re.compile(
    r".*/(?:site|dist)-packages/([^/]+?)-([^/-]+(?:-py[0-9.]+)?)\.(?:dist-info/(METADATA)|egg-info(?:/PKG-INFO)?)",
    re.DOTALL,
)
_CONDA = re.compile(r".*/conda-meta/[^/]+\.json", re.DOTALL)


@dataclass(frozen=True)
class Package:
    """manager: of MANAGERS. name: with architecture where several may be there. digest: `sha256:…`, or as the manager has it; may be
    empty."""

    manager: str
    name: str
    version: str
    digest: str = ""


def find(root: ImageRoot | DirectoryRoot, files: Mapping[str, FileFacts]) -> tuple[list[Package], list[str]]:
    """The packages, sorted, and notes about databases that could not be read. files: of `survey`."""

    def read(paths: Iterable[str], limit: int = LARGEST) -> dict[str, bytes]:
        wanted = [path for path in paths if _readable(files.get(path), limit)]
        if not wanted:
            return {}
        answer = core.read_files(root, wanted, limit=limit)
        return {
            path: found.data for path, found in answer.items() if found.kind == "file" and not found.truncated
        }

    notes = [
        f"the rpm database {path} is of a kind that is not read here" for path in _RPM_OLD if path in files
    ]
    found: list[Package] = []
    singles = sorted(path for path in files if path.startswith(_DPKG_FOLDER) and not path.endswith("md5sums"))
    for data in read((*_DPKG, *singles)).values():
        found += of_dpkg(data, lambda name: _digest_of(files, name))
    for data in read(_APK).values():
        found += of_apk(data)
    for path, data in read(_RPM).items():
        try:
            found += of_rpm(data)
        except (ValueError, struct.error):
            notes.append(f"the rpm database {path} is damaged")
    for data in read(sorted(filter(_CONDA.fullmatch, files)), _SMALL).values():
        found += of_conda(data)
    found += of_pip(files)
    return sorted(set(found), key=lambda item: (MANAGERS.index(item.manager), item.name, item.version)), notes


def _readable(facts: FileFacts | None, limit: int) -> bool:
    return facts is not None and facts.kind == "file" and facts.size <= limit


def _digest_of(files: Mapping[str, FileFacts], names: Sequence[str]) -> str:
    for name in names:
        facts = files.get(f"{_DPKG_INFO}{name}.md5sums")
        if facts is not None and facts.digest:
            return f"sha256:{facts.digest}"
    return ""


def of_dpkg(data: bytes, digest: Callable[[Sequence[str]], str] = lambda names: "") -> Iterator[Package]:
    """`/var/lib/dpkg/status`: paragraphs of fields. digest: for the names that a package's files may have in `info`."""
    for paragraph in data.decode("utf-8", "replace").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.split("\n") if ": " in line and not line[:1].isspace()
        )
        name, version = fields.get("Package", ""), fields.get("Version", "")
        status = fields.get("Status", "install ok installed").split()
        if not name or not version or status[-1:] != ["installed"]:
            continue
        machine = fields.get("Architecture", "")
        qualified = f"{name}:{machine}" if fields.get("Multi-Arch") == "same" and machine else name
        yield Package("dpkg", qualified, version, digest((qualified, name)))


def of_apk(data: bytes) -> Iterator[Package]:
    """apk's `installed`: P name, V version, C checksum of the package (Q1: SHA-1 in base64)."""
    for paragraph in data.decode("utf-8", "replace").split("\n\n"):
        fields = dict(line.split(":", 1) for line in paragraph.split("\n") if line[1:2] == ":")
        if fields.get("P") and fields.get("V"):
            yield Package("apk", fields["P"], fields["V"], fields.get("C", ""))


def of_conda(data: bytes) -> Iterator[Package]:
    """One file of `conda-meta`."""
    try:
        record = json.loads(data)
        name, version, build = (str(record[key]) for key in ("name", "version", "build"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    kind = next((kind for kind in ("sha256", "md5") if isinstance(record.get(kind), str)), None)
    yield Package("conda", name, f"{version}-{build}", f"{kind}:{record[kind]}" if kind else "")


def of_pip(files: Mapping[str, FileFacts]) -> Iterator[Package]:
    """By the names of their metadata: `NAME-VERSION.dist-info` (PEP 376, PEP 427) and the older `.egg-info`."""
    for path in files:
        if "-packages/" not in path or not (match := _PIP.fullmatch(path)):
            continue
        version = re.sub(r"-py[0-9.]+$", "", match[2])
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        record = files.get(f"{path.rpartition('/')[0]}/RECORD") if match[3] else None
        yield Package("pip", name, version, f"sha256:{record.digest}" if record and record.digest else "")


# rpm keeps each package as a header: counts of entries and of bytes, entries of 16 bytes, data.
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SHA1, _SHA256 = 1000, 1001, 1002, 1003, 1022, 269, 273
_DIGESTS = ((_SHA256, "sha256"), (_SHA1, "sha1"))
_MOST_ENTRIES = 1 << 16
#: Of 10,000 instructions of sqlite.
_MOST_STEPS = 10_000


def of_rpm(database: bytes) -> Iterator[Package]:
    """`rpmdb.sqlite`. Raises ValueError or struct.error for what is none."""
    for blob in _headers(database):
        tags = _header(blob)
        name, version = tags.get(_NAME, ""), tags.get(_VERSION, "")
        if not name or not version or name == "gpg-pubkey":
            continue
        epoch = f"{tags[_EPOCH]}:" if _EPOCH in tags else ""
        digest = next((f"{kind}:{tags[tag]}" for tag, kind in _DIGESTS if tag in tags), "")
        full = f"{name}.{tags[_ARCH]}" if _ARCH in tags else name
        yield Package("rpm", full, f"{epoch}{version}-{tags.get(_RELEASE, '')}", digest)


def _headers(database: bytes) -> list[bytes]:
    import sqlite3

    if len(database) < 512 or not database.startswith(b"SQLite format 3\0"):
        raise ValueError("not a database")
    # The journal of a database that was closed in an orderly way is empty, but its mark asks for one.
    head = bytearray(database[:100])
    if head[18:20] == b"\x02\x02":
        head[18:20] = b"\x01\x01"
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(bytes(head) + database[100:])
            connection.execute("PRAGMA trusted_schema = OFF")
            # A view can take for ever. Reading a table takes a few steps for each row.
            steps = itertools.count()
            connection.set_progress_handler(lambda: next(steps) > _MOST_STEPS, 10_000)
            return [bytes(blob) for (blob,) in connection.execute("SELECT blob FROM Packages")]
    except (sqlite3.Error, TypeError) as error:
        raise ValueError(str(error)) from None


def _header(blob: bytes) -> dict[int, str]:
    count, size = struct.unpack_from(">II", blob)
    if count > _MOST_ENTRIES or 8 + 16 * count + size > len(blob):
        raise ValueError("a header of rpm is malformed")
    data = blob[8 + 16 * count : 8 + 16 * count + size]
    found: dict[int, str] = {}
    for index in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * index)
        if kind in (6, 9) and offset < size:
            found[tag] = data[offset : data.find(b"\0", offset)].decode("utf-8", "replace")
        elif kind == 4 and tag == _EPOCH and offset + 4 <= size:
            found[tag] = str(struct.unpack_from(">I", data, offset)[0])
    return found
