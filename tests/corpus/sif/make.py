"""Makes the corrupt images of this folder: `python -m tests.corpus.sif.make`.

Each is a sound image with one thing wrong. `NAME.error` is what `open_image` has to say, first line what, second why; the
files are compared with what this program makes, so neither can change alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from soliton.images import sif
from soliton.images.sif_write import NewObject, definition, finish, plan_sif

HERE = Path(__file__).parent
SLOTS = 4
PARTITION = 8192
FIRST = sif.TABLE_OFFSET
SECOND = FIRST + sif.DESCRIPTOR_SIZE
THIRD = SECOND + sif.DESCRIPTOR_SIZE
OFFSET, SIZE, EXTRA = 17, 25, 201


def superblock(used: int = 4096) -> bytes:
    return struct.pack("<IIIIIHHHHHHQQ", 0x73717368, 3, 0, 131072, 1, 6, 17, 0xC0, 1, 4, 0, 0, used)


def sound() -> bytes:
    """Definition, root partition of one page, and an object of eight bytes behind it."""
    layout = plan_sif([definition("bootstrap: scratch\n")], slots=SLOTS)
    assert layout.partition_offset == PARTITION
    fd = os.memfd_create("corpus")
    try:
        os.pwrite(fd, superblock(), PARTITION)
        finish(
            fd,
            layout,
            partition_size=4096,
            architecture="amd64",
            time=None,
            after=[NewObject(sif.GENERIC, b"trailing", "last")],
        )
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def patched(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    out = bytearray(data)
    for at, form, value in changes:
        struct.pack_into(form, out, at, value)
    return bytes(out)


def corpus() -> Iterator[tuple[str, bytes]]:
    """(name, content) of every image."""
    good = sound()
    yield "magic-elsewhere", bytes(5) + good[:-5]
    yield "version-02", patched(good, (43, "<B", ord("2")))
    yield "negative-table-offset", patched(good, (96, "<q", -4096))
    yield "negative-data-size", patched(good, (120, "<q", -1))
    yield "too-many-descriptors", patched(good, (88, "<q", 1 << 40), (104, "<q", (1 << 40) * 585))
    yield "table-size-overflows", patched(good, (88, "<q", 4), (104, "<q", (1 << 63) - 1))
    yield "table-beyond-the-end", patched(good, (96, "<q", 1 << 40))
    yield "table-over-header", patched(good, (96, "<q", 100))
    yield "free-descriptors-wrong", patched(good, (80, "<q", 4))
    yield "descriptor-half-used", patched(good, (FIRST + 4, "<B", 2))
    yield "object-over-header", patched(good, (FIRST + OFFSET, "<q", 0))
    yield "object-over-table", patched(good, (FIRST + OFFSET, "<q", SECOND))
    yield "object-around-table", patched(good, (FIRST + OFFSET, "<q", 128), (FIRST + SIZE, "<q", 8000))
    yield "object-negative-size", patched(good, (FIRST + SIZE, "<q", -2))
    yield "object-end-overflows", patched(good, (FIRST + SIZE, "<q", (1 << 63) - 1))
    yield "object-beyond-the-end", patched(good, (FIRST + OFFSET, "<q", 1 << 50))
    yield "id-zero", patched(good, (FIRST + 5, "<I", 0))
    yield "id-twice", patched(good, (FIRST + 5, "<I", 3))
    second = good[SECOND : SECOND + sif.DESCRIPTOR_SIZE]
    twice = bytearray(good)
    twice[THIRD : THIRD + sif.DESCRIPTOR_SIZE] = second
    yield "two-roots", patched(bytes(twice), (THIRD + 5, "<I", 3))
    yield "root-is-no-squashfs", patched(good, (PARTITION, "<I", 0))
    yield "root-is-no-ext3", patched(good, (SECOND + EXTRA, "<i", sif.FS_EXT3))
    yield "root-of-unknown-kind", patched(good, (SECOND + EXTRA, "<i", 77))
    yield "root-too-small-for-squashfs", patched(good, (SECOND + SIZE, "<q", 40))
    yield "squashfs-larger-than-its-partition", patched(good, (PARTITION + 40, "<Q", 4097))
    yield "squashfs-of-absurd-size", patched(good, (PARTITION + 40, "<Q", (1 << 64) - 1))
    yield (
        "squashfs-block-of-two-gigabytes",
        patched(good, (PARTITION + 12, "<I", 1 << 31), (PARTITION + 22, "<H", 31)),
    )
    yield "squashfs-without-inodes", patched(good, (PARTITION + 4, "<I", 0))
    yield (
        "overlay-is-no-squashfs",
        patched(
            good,
            (THIRD, "<i", sif.PARTITION),
            (THIRD + EXTRA, "<i", sif.FS_SQUASHFS),
            (THIRD + EXTRA + 4, "<i", sif.PART_OVERLAY),
        ),
    )
    yield "cut-in-the-header", good[:100]
    yield "cut-after-the-header", good[:128]
    yield "cut-in-the-table", good[: SECOND + 10]
    yield "cut-before-the-root", good[:PARTITION]
    yield "cut-in-the-root", good[: PARTITION + 2000]
    yield "cut-before-the-last-byte", good[:-1]


def main() -> None:
    from soliton.errors import SolitonError
    from soliton.images.detect import open_image

    for old in HERE.glob("*.sif"):
        old.unlink()
    for name, content in corpus():
        path = HERE / f"{name}.sif"
        path.write_bytes(content)
        try:
            open_image(str(path), shown=path.name)
        except SolitonError as error:
            told = f"{error.what}\n{error.why}\n"
        else:
            raise AssertionError(f"{name} is accepted")
        (HERE / f"{name}.error").write_text(told)


if __name__ == "__main__":
    main()
