"""What a file is that is not an image: so that the refusal names the usual mistake.

Reached only when recognition has failed, so it may be slow and import what it likes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from soliton.errors import ImageError

#: Members and bytes looked at to tell the kinds of archive apart. A plain tar is walked by seeking, so what counts
#: is members; a compressed one has to be read.
MOST_MEMBERS = 20_000
MOST_COMPRESSED = 64 << 20

_DIGEST_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{64}$")


def archive_kind(path: str, head: bytes) -> Literal["oci-archive", "docker-archive"] | None:
    """Whether the file is a tar (plain, gzip, xz, bzip2) of an OCI layout or of `docker save`."""
    if head[257:262] != b"ustar" and compression(head) is None:
        return None
    kind: Literal["oci-archive", "docker-archive"] | None = None
    try:
        for name in _members(path, head):
            name = name.removeprefix("./")
            if name == "oci-layout":
                return "oci-archive"
            if name == "manifest.json":
                kind = "docker-archive"
            elif kind is None and _DIGEST_BLOB.match(name):
                kind = "oci-archive"
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error, ValueError):
        return kind
    return kind


def _open_plain(path: str) -> IO[bytes]:
    return Path(path).open("rb")


_OPENERS: dict[str | None, Callable[[str], Any]] = {
    None: _open_plain,
    "gzip": gzip.open,
    "xz": lzma.open,
    "bzip2": bz2.open,
}


def _members(path: str, head: bytes) -> Iterator[str]:
    method = compression(head)
    if method == "zstd":
        return
    opener: Callable[[str], Any] = _OPENERS[method]
    with opener(path) as raw:
        source: Any = _Bounded(raw, MOST_COMPRESSED if method else sys.maxsize)
        with tarfile.open(fileobj=source, mode="r|" if method else "r:") as archive:
            for count, member in enumerate(archive):
                yield member.name
                if count >= MOST_MEMBERS:
                    return


class _Bounded:
    """A file of which no more than `most` bytes are read, and never many at once: a header of a tar may announce
    any size, and few compressed bytes can become any number.
    """

    def __init__(self, raw: Any, most: int) -> None:
        self._raw = raw
        self._left = most
        self.seek = raw.seek
        self.tell = raw.tell

    def read(self, size: int) -> bytes:
        data: bytes = self._raw.read(min(size, self._left, 1 << 20))
        if not data and size:
            # Else tarfile goes on asking, as often as the size that a member claims to have.
            raise EOFError
        self._left -= len(data)
        return data


def compression(head: bytes) -> Literal["gzip", "zstd", "xz", "bzip2"] | None:
    """The compressor whose mark the file begins with."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return "zstd"
    if head[:6] == b"\xfd7zXZ\0":
        return "xz"
    if head[:3] == b"BZh":
        return "bzip2"
    return None


def not_an_image(name: str, head: bytes, size: int) -> ImageError:
    """The refusal of a file that is no image: `name` as the user knows it, `head` its first bytes."""
    what, remedy = describe(head)
    if what is None:
        return ImageError(
            f"`{name}` is not an image",
            why=f"its {size} bytes are neither a SIF nor a squashfs, nor an archive that could be made into one",
        )
    return ImageError(f"`{name}` is not an image", why=f"it looks like {what}", remedy=remedy)


def describe(head: bytes) -> tuple[str | None, str | None]:
    """(what these first bytes look like, what to do about it), as far as is known."""
    start = head[:2048].lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer", "fetch the content with `git lfs pull`"
    if head.startswith((b"/annex/objects/", b".git/annex/objects/", b"../.git/annex/objects/")):
        return "a git-annex pointer", "fetch the content with `git annex get`"
    if start.startswith((b"<!doctype html", b"<html")):
        return (
            "an HTML page",
            "a web server answered with a page instead of the file; check the address it came from",
        )
    if start.startswith(b"<?xml"):
        return "an XML document", "an object store may have answered with an error; read it"
    method = compression(head)
    if method is not None:
        return f"a file compressed with {method}", "if there is an image inside, decompress it first"
    if head[257:262] == b"ustar":
        return "a tar archive of neither an OCI layout nor `docker save`", None
    if head[:4] == b"\x7fELF":
        return "a program", None
    if head[:4] in (b"sqsh", b"qshs", b"shsq"):
        return "a squashfs of an old or foreign kind", "make it again with today's mksquashfs"
    if head[1080:1082] == b"\x53\xef":
        return "an ext4 file system", "the peers know only ext3; make it with `mkfs.ext3`"
    if head[:4] == b"LUKS":
        return "an encrypted volume", None
    if head[:4] == b"PK\3\4":
        return "a zip archive", None
    if not any(head):
        return "a file of zeros", "a copy or download of it failed; do it again"
    return _text(head, start)


def _text(head: bytes, start: bytes) -> tuple[str | None, str | None]:
    try:
        head[:1024].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 1020:
            return None, None
    if b"\0" in head[:1024]:
        return None, None
    if re.search(rb"^\s*bootstrap\s*:", head[:8192], re.IGNORECASE | re.MULTILINE):
        return "a definition file", "build it first: `build image.sif FILE`"
    if (
        re.search(rb"^\s*from\s+\S", head[:8192], re.IGNORECASE | re.MULTILINE)
        and b"run" in head[:8192].lower()
    ):
        return "a Dockerfile", None
    if start.startswith(b"{"):
        return "a JSON document", None
    if head.startswith(b"#!"):
        return "a script", None
    return "a text file", None
