"""SIF files: exact bytes out, everything checked in."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.errors import ImageError, SolitonError
from soliton.images import sif
from soliton.images.sif_write import NewObject, definition, finish, generic_json, plan_sif

PAYLOAD = b"hsqs" + bytes(range(256)) * 64 + bytes(4096 * 5 - 4 - 256 * 64)


def write(path: Path, *, time: int | None = None, objects: list[NewObject] | None = None) -> bytes:
    """A SIF with a payload that only looks like a file system."""
    if objects is None:
        objects = [
            definition("bootstrap: docker\nfrom: busybox\n\n"),
            generic_json("inspect-metadata.json", b'{"type":"container"}'),
        ]
    layout = plan_sif(objects)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o755)
    try:
        os.pwrite(fd, PAYLOAD, layout.partition_offset)
        finish(fd, layout, partition_size=len(PAYLOAD), architecture="amd64", time=time)
    finally:
        os.close(fd)
    return path.read_bytes()


def parse(data: bytes, name: str = "x.sif") -> sif.Sif:
    header = sif.parse_header(data, len(data), name)
    table = data[header.table_offset : header.table_offset + header.table_size]
    return sif.parse_table(header, table, len(data), name)


def test_a_reproducible_image_has_exactly_these_bytes(tmp_path: Path) -> None:
    data = write(tmp_path / "a.sif")
    assert hexdump(data[:128]) == [
        "0000 23 21 2f 75 73 72 2f 62 69 6e 2f 65 6e 76 20 72 |#!/usr/bin/env r|",
        "0010 75 6e 2d 73 69 6e 67 75 6c 61 72 69 74 79 0a 00 |un-singularity..|",
        "0020 53 49 46 5f 4d 41 47 49 43 00 30 31 00 30 32 00 |SIF_MAGIC.01.02.|",
        "0030 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 |................|",
        "0040 00 09 6e 88 f1 ff ff ff 00 09 6e 88 f1 ff ff ff |..n.......n.....|",
        "0050 2d 00 00 00 00 00 00 00 30 00 00 00 00 00 00 00 |-.......0.......|",
        "0060 00 10 00 00 00 00 00 00 b0 6d 00 00 00 00 00 00 |.........m......|",
        "0070 b0 7d 00 00 00 00 00 00 50 52 00 00 00 00 00 00 |.}......PR......|",
    ]
    third = sif.TABLE_OFFSET + 2 * sif.DESCRIPTOR_SIZE
    assert hexdump(data[third : third + 80]) == [
        "0000 04 40 00 00 01 03 00 00 00 01 00 00 f0 00 00 00 |.@..............|",
        "0010 00 00 80 00 00 00 00 00 00 00 50 00 00 00 00 00 |..........P.....|",
        "0020 00 1b 52 00 00 00 00 00 00 00 09 6e 88 f1 ff ff |..R........n....|",
        "0030 ff 00 09 6e 88 f1 ff ff ff 00 00 00 00 00 00 00 |...n............|",
        "0040 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 |................|",
    ]
    assert len(data) == 0x8000 + len(PAYLOAD)
    assert (
        hashlib.sha256(data).hexdigest() == "c017fcfb17ac0c5585756c9dcf2ce04db263e3539fd1a2e423f047eaab3bb027"
    )


def test_a_foreign_image_written_again_is_the_same_file(foreign: Path, tmp_path: Path) -> None:
    data = (foreign / "plain.sif").read_bytes()
    read = parse(data)
    parts = [data[item.offset : item.end] for item in read.objects]
    layout = plan_sif([definition(parts[0]), generic_json("inspect-metadata.json", parts[1])])
    fd = os.open(tmp_path / "again.sif", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, parts[2], layout.partition_offset)
    finish(fd, layout, partition_size=len(parts[2]), architecture="amd64", time=None)
    os.close(fd)
    assert (tmp_path / "again.sif").read_bytes() == data


def hexdump(data: bytes) -> list[str]:
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{at:04x} {row.hex(' ')} |{shown}|")
    return lines


def test_an_image_with_a_time_says_it_and_has_an_id_of_its_own(tmp_path: Path) -> None:
    first = parse(write(tmp_path / "a.sif", time=1_700_000_000))
    second = parse(write(tmp_path / "b.sif", time=1_700_000_000))
    assert first.header.created == first.header.modified == first.objects[0].created == 1_700_000_000
    assert first.header.id != second.header.id
    assert not first.header.deterministic
    assert parse(write(tmp_path / "c.sif")).header.deterministic


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.sif")
    fd = os.open(tmp_path / "a.sif", os.O_RDONLY)
    try:
        read = sif.read(fd, "a.sif")
    finally:
        os.close(fd)
    assert [(o.id, o.type, o.name, o.group, o.link) for o in read.objects] == [
        (1, sif.DEFINITION, "", 1, 0),
        (2, sif.GENERIC_JSON, "inspect-metadata.json", 1, 0),
        (3, sif.PARTITION, "", 1, 0),
    ]
    assert read.primary is read.objects[2]
    assert read.primary.offset % 4096 == 0
    assert read.primary.partition == sif.Partition(sif.FS_SQUASHFS, sif.PART_PRIMARY, "02")
    assert read.architecture == "amd64"
    assert read.oddities == ()


def test_more_objects_than_descriptors_are_refused() -> None:
    with pytest.raises(SolitonError, match="48 descriptors"):
        plan_sif([definition("x")] * 48)


def boundaries(data: bytes) -> Iterator[int]:
    """Every place where a structure of the file begins or ends, and its neighbours."""
    read = parse(data)
    places = {0, 32, 42, 128, sif.TABLE_OFFSET, read.header.data_offset, len(data)}
    places |= {sif.TABLE_OFFSET + n * sif.DESCRIPTOR_SIZE for n in range(49)}
    for item in read.objects:
        places |= {item.offset, item.end}
    for place in sorted(places):
        yield from (p for p in (place - 1, place, place + 1) if 0 <= p < len(data))


def test_a_file_cut_at_any_boundary_is_said_to_be_truncated(tmp_path: Path) -> None:
    data = write(tmp_path / "a.sif")
    for length in boundaries(data):
        with pytest.raises(ImageError) as told:
            parse(data[:length])
        if length < 42:
            assert told.value.why == "it has no SIF header"
        elif length < 128:
            assert told.value.what == f"`x.sif` is truncated: has {length} bytes, not even a whole header"
        else:
            assert told.value.what == f"`x.sif` is truncated: has {length} of {len(data)} bytes"


@given(
    st.lists(
        st.builds(
            NewObject,
            type=st.sampled_from(
                [sif.DEFINITION, sif.ENVIRONMENT, sif.LABELS, sif.GENERIC_JSON, sif.GENERIC]
            ),
            data=st.binary(max_size=200),
            name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
            extra=st.binary(max_size=384),
            group=st.integers(0, sif.ID_MASK),
            link=st.integers(0, sif.ID_MASK),
        ),
        max_size=47,
    ),
    st.one_of(st.none(), st.integers(0, 1 << 40)),
)
def test_any_objects_come_back_as_they_were(objects: list[NewObject], time: int | None) -> None:
    layout = plan_sif(objects)
    fd = os.memfd_create("sif")
    try:
        os.pwrite(fd, PAYLOAD, layout.partition_offset)
        finish(fd, layout, partition_size=len(PAYLOAD), architecture="riscv64", time=time)
        read = sif.read(fd, "x.sif")
        for item, was in zip(read.objects, objects, strict=False):
            assert (item.type, item.name, item.group, item.link) == (was.type, was.name, was.group, was.link)
            assert item.extra == was.extra.ljust(384, b"\0")
            assert sif.read_exactly(fd, item.offset, item.size, "x.sif") == was.data
        assert read.primary is not None
        assert sif.read_exactly(fd, read.primary.offset, read.primary.size, "x.sif") == PAYLOAD
        assert read.architecture == "riscv64"
    finally:
        os.close(fd)


@given(st.integers(0, 32175), st.binary(min_size=1, max_size=16))
def test_damaged_structures_are_refused_or_harmless(at: int, noise: bytes) -> None:
    layout = plan_sif([definition("x")])
    fd = os.memfd_create("sif")
    try:
        os.pwrite(fd, PAYLOAD, layout.partition_offset)
        finish(fd, layout, partition_size=len(PAYLOAD), architecture="amd64", time=None)
        os.pwrite(fd, noise, at)
        length = os.fstat(fd).st_size
        try:
            read = sif.read(fd, "x.sif")
        except ImageError:
            return
        for item in read.objects:
            assert 128 <= item.offset <= item.end <= length
    finally:
        os.close(fd)


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


FIRST = sif.TABLE_OFFSET
SECOND = FIRST + sif.DESCRIPTOR_SIZE


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (80, "<q", -1, "negative"),
        (80, "<q", 43, "counts 43 free descriptors, the table has 45"),
        (80, "<q", 49, "49 free descriptors of 48"),
        (88, "<q", 1 << 40, "more than 16384"),
        (88, "<q", 47, "cannot have 28080 bytes"),
        (96, "<q", 64, "overlap the header"),
        (FIRST + 4, "<B", 7, "neither used nor unused"),
        (FIRST + 5, "<I", 0, "id 0"),
        (FIRST + 5, "<I", 2, "two data objects have the id 2"),
        (FIRST + 17, "<q", -1, "impossible place"),
        (FIRST + 25, "<q", -1, "impossible place"),
        (FIRST + 25, "<q", (1 << 63) - 1, "impossible place"),
        (FIRST + 17, "<q", 0, "overlaps"),
        (FIRST + 17, "<q", 5000, "overlaps"),
        (FIRST + 25, "<q", 1 << 40, "of a file of"),
        (32, "<q", 0, "no SIF header"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, at: int, form: str, value: int, why: str) -> None:
    data = write(tmp_path / "a.sif")
    with pytest.raises(ImageError) as told:
        parse(patched(data, at, form, value))
    assert why in (told.value.why or "")


def test_another_version_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="version '02'"):
        parse(patched(write(tmp_path / "a.sif"), 42, "<H", 0x3230))


def test_an_odd_id_is_noted_but_read(tmp_path: Path) -> None:
    data = patched(write(tmp_path / "a.sif"), SECOND + 5, "<I", 77)
    assert parse(data).oddities == ("the object in slot 2 has the id 77",)


def test_an_edit_that_was_cut_off_before_the_header_leaves_a_readable_file(tmp_path: Path) -> None:
    for free in (44, 46):
        read = parse(patched(write(tmp_path / "a.sif"), 80, "<q", free))
        assert read.oddities == (f"the SIF header counts {free} free descriptors, the table has 45",)


def test_two_roots_are_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.sif"))
    third = SECOND + sif.DESCRIPTOR_SIZE
    data[SECOND : SECOND + 4] = data[third : third + 4]
    data[SECOND + 201 : SECOND + 585] = data[third + 201 : third + 585]
    with pytest.raises(ImageError) as told:
        parse(bytes(data))
    assert told.value.why == "it has 2 primary partitions"
