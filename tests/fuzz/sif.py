"""SIF files: structure, recognition, and the record of what is inside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

from soliton.images import inspection, sif
from soliton.images.detect import open_image
from tests.corpus.sif import make


def seeds() -> Iterable[bytes]:
    yield make.sound()
    for _, content in make.corpus():
        yield content


def target(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="soliton-fuzz-") as file:
        file.write(data)
        file.flush()
        image = open_image(file.name)
        if image.sif is None:
            return
        for item in image.sif.objects:
            assert 0 <= item.offset <= item.end <= len(data)
            _ = item.partition, item.signature, item.message, item.sbom, item.digest
            if item.type == sif.GENERIC_JSON:
                inspection.from_json(os.pread(file.fileno(), item.size, item.offset), "fuzz")
        for root in (image.root, *image.layers):
            assert root is None or root.kind == "directory" or root.offset + root.size <= len(data)
