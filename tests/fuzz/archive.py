"""Files that look like archives, when it is asked what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
from collections.abc import Iterable

from soliton.images.detect import open_image


def seeds() -> Iterable[bytes]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name in ("blobs/sha256/" + "0" * 64, "ü" * 40, "index.json", "oci-layout"):
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        plain = out.getvalue()
        yield plain
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            yield compress(plain)


def target(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="soliton-fuzz-") as file:
        file.write(data)
        file.flush()
        open_image(file.name)
