"""`sif`: what it prints is compared as text with what the peers print; what it changes is read back."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soliton.cli import sif as command
from soliton.cli.invocation import Invocation
from soliton.cli.sif_text import header_text, info_text, listing, size_text, visible
from soliton.errors import ImageError, SolitonError, UsageError
from soliton.images import sif, sif_edit
from soliton.images.copying import copy
from soliton.images.sif_write import NewObject, definition, finish, plan_sif
from tests.unit.test_detect import squashfs

if TYPE_CHECKING:
    from soliton.cli.invocation import Value

#: Where the handler cannot have the command's name.
HANDLERS = {"list": "list_", "del": "delete", "setprim": "set_primary"}
DEFAULTS: Mapping[str, Value] = {
    "datatype": None,
    "filename": None,
    "group": 1,
    "link": None,
    "alignment": None,
    "parttype": None,
    "partfs": None,
    "partarch": None,
    "signhash": None,
    "signentity": None,
    "sbomformat": None,
}


def call(handler: str, *positionals: str, **options: Value) -> int:
    invocation = Invocation(
        "soliton",
        ("sif", handler),
        {**DEFAULTS, **options},
        positionals,
        origins={name: (f"--{name}",) for name in options},
    )
    status: int = getattr(command, HANDLERS.get(handler, handler))(invocation)
    return status


def load(path: Path) -> sif.Sif:
    fd = os.open(path, os.O_RDONLY)
    try:
        return sif.read(fd, str(path))
    finally:
        os.close(fd)


def small(path: Path, *, after: tuple[NewObject, ...] = (), time: int | None = None) -> Path:
    layout = plan_sif([definition("bootstrap: scratch\n")])
    with path.open("wb+") as file:
        os.pwrite(file.fileno(), bytes(4096), layout.partition_offset)
        finish(file.fileno(), layout, partition_size=4096, architecture="amd64", time=time, after=after)
    return path


def signature(group: int) -> NewObject:
    extra = struct.pack("<i", 1) + bytes.fromhex("12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84")
    return NewObject(sif.SIGNATURE, b"sig", extra=extra, group=0, link=sif.GROUP_MARK | group)


def test_the_table_has_the_columns_of_the_peers(tmp_path: Path) -> None:
    image = small(
        tmp_path / "a.sif",
        after=(
            signature(1),
            NewObject(sif.CRYPTO_MESSAGE, b"m", extra=struct.pack("<ii", 2, 0x200), link=2),
            NewObject(sif.SBOM, b"s", extra=struct.pack("<i", 4)),
            NewObject(sif.OCI_BLOB, b"o", extra=b"sha256:0"),
            NewObject(sif.GENERIC, b"", "x"),
        ),
    )
    assert listing(load(image)) == (
        "------------------------------------------------------------------------------\n"
        "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE\n"
        "------------------------------------------------------------------------------\n"
        "1    |1       |NONE    |32176-32195               |Def.FILE\n"
        "2    |1       |NONE    |32768-36864               |FS (Squashfs/*System/amd64)\n"
        "3    |NONE    |1   (G) |36864-36867               |Signature (SHA-256)\n"
        "4    |1       |2       |36867-36868               |Cryptographic Message (PEM/RSA-OAEP)\n"
        "5    |1       |NONE    |36868-36869               |SBOM (spdx-json)\n"
        "6    |1       |NONE    |36869-36870               |OCI.Blob\n"
        "7    |1       |NONE    |36870-36870               |Generic/Raw\n"
    )


def test_the_header_leaves_out_what_is_not_set(tmp_path: Path) -> None:
    assert header_text(load(small(tmp_path / "a.sif"))) == (
        "Launch Script:        #!/usr/bin/env run-singularity\n"
        "Version:              01\n"
        "Primary Architecture: amd64\n"
        "Descriptors Free:     46\n"
        "Descriptors Total:    48\n"
        "Descriptors Offset:   4096\n"
        "Descriptors Size:     27 KiB\n"
        "Data Offset:          32176\n"
        "Data Size:            4 KiB\n"
    )
    timed = header_text(load(small(tmp_path / "b.sif", time=1_593_475_316))).splitlines()
    assert timed[4:6] == [
        "Created At:           2020-06-30 00:01:56 +0000 UTC",
        "Modified At:          2020-06-30 00:01:56 +0000 UTC",
    ]
    assert timed[3].startswith("ID:                   ")


def test_the_details_of_an_object_depend_on_its_type(tmp_path: Path) -> None:
    image = load(
        small(tmp_path / "a.sif", after=(signature(1), NewObject(sif.GENERIC_JSON, b"{}", "data.json")))
    )
    assert info_text(image.objects[1]) == (
        "  Data Type:        FS\n"
        "  ID:               2\n"
        "  Group ID:         1\n"
        "  Linked ID:        NONE\n"
        "  Offset:           32768\n"
        "  Size:             4096\n"
        "  Filesystem Type:  Squashfs\n"
        "  Partition Type:   *System\n"
        "  Architecture:     amd64\n"
    )
    assert info_text(image.objects[2]) == (
        "  Data Type:  Signature\n"
        "  ID:         3\n"
        "  Group ID:   NONE\n"
        "  Linked ID:  1 (G)\n"
        "  Offset:     36864\n"
        "  Size:       3\n"
        "  Hash Type:  SHA-256\n"
        "  Entity:     12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84\n"
    )
    assert info_text(image.objects[3]).splitlines()[-1] == "  Name:       data.json"


def test_a_hostile_name_does_not_reach_the_terminal() -> None:
    assert visible("a\x1b[2J\n\u202eü") == "a\\x1b[2J\\x0a\ufffdü"


def test_sizes_are_rounded_down() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 28080, 1 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "27 KiB",
        "1 MiB",
        "3 TiB",
    ]


def test_commands_print_what_they_are_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(small(tmp_path / "a.sif"))
    assert call("list", path) == call("header", path) == call("info", "1", path) == 0
    out = capfd.readouterr().out
    assert "SIF POSITION" in out
    assert "Launch Script" in out
    assert "Def.FILE" in out
    assert call("dump", "1", path) == 0
    assert capfd.readouterr().out == "bootstrap: scratch\n"


def test_an_object_is_copied_to_a_pipe_and_to_a_file_opened_for_appending(tmp_path: Path) -> None:
    image = small(tmp_path / "a.sif", after=(NewObject(sif.GENERIC, b"x" * 30_000),))
    item = load(image).objects[2]
    fd = os.open(image, os.O_RDONLY)
    read_end, write_end = os.pipe()
    with (tmp_path / "out").open("ab") as out:
        copy(fd, item.offset, item.size, out.fileno(), "a.sif")
    copy(fd, item.offset, item.size, write_end, "a.sif")
    os.close(write_end)
    assert (tmp_path / "out").read_bytes() == os.read(read_end, 40_000) == b"x" * 30_000
    os.close(read_end)
    os.close(fd)


@pytest.mark.parametrize("number", ["x", "-1", "٣", ""])
def test_what_is_no_number_is_a_usage_error(tmp_path: Path, number: str) -> None:
    with pytest.raises(UsageError):
        call("info", number, str(small(tmp_path / "a.sif")))


def test_an_object_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    for handler in ("info", "dump", "del", "setprim"):
        with pytest.raises(SolitonError, match="no data object 9") as told:
            call(handler, "9", str(small(tmp_path / "a.sif")))
        assert told.value.why == "it has 1, 2"


def test_a_new_file_has_no_objects_and_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "new.sif"
    assert call("new", str(path)) == 0
    image = load(path)
    assert (image.objects, image.header.free, image.header.architecture) == ((), 48, "00")
    assert image.header.launch == b""
    with pytest.raises(SolitonError, match="exists already"):
        call("new", str(path))


def test_objects_are_added_in_the_lowest_free_slot_behind_all_others(tmp_path: Path) -> None:
    path = tmp_path / "a.sif"
    call("new", str(path))
    (tmp_path / "data").write_bytes(b"one")
    (tmp_path / "fs").write_bytes(squashfs())
    call("add", str(path), str(tmp_path / "data"), datatype=7, filename="n", group=2)
    call("add", str(path), str(tmp_path / "fs"), datatype=4, parttype=2, partfs=1, partarch=4)
    call("add", str(path), str(tmp_path / "data"), datatype=6, alignment=512, link=2)
    image = load(path)
    assert [(o.id, o.name, o.group, o.link, o.offset, o.size) for o in image.objects] == [
        (1, "n", 2, 0, 32176, 3),
        (2, "fs", 1, 0, 32768, 4096),
        (3, "data", 1, 2, 36864, 3),
    ]
    assert image.objects[1].padded_size == 4096 + 32768 - 32179
    assert image.architecture == "arm64"
    assert image.header.architecture == "04"
    assert image.header.data_size == 36867 - 32176
    assert path.stat().st_size == 36867
    call("del", "1", str(path))
    call("add", str(path), str(tmp_path / "data"), datatype=7)
    again = load(path)
    assert [(o.id, o.offset) for o in again.objects] == [(1, 36867), (2, 32768), (3, 36864)]
    assert again.oddities == ()


def test_a_second_root_is_refused_and_another_can_be_chosen(tmp_path: Path) -> None:
    path = str(small(tmp_path / "a.sif"))
    (tmp_path / "fs").write_bytes(squashfs())
    with pytest.raises(SolitonError, match="has a primary partition already"):
        call("add", path, str(tmp_path / "fs"), datatype=4, parttype=2, partfs=1, partarch=2)
    call("add", path, str(tmp_path / "fs"), datatype=4, parttype=1, partfs=1, partarch=4)
    call("setprim", "3", path)
    image = load(tmp_path / "a.sif")
    assert image.primary is not None
    assert (image.primary.id, image.architecture, image.header.architecture) == (3, "arm64", "04")
    old = image.objects[1].partition
    assert old is not None
    assert old.role == sif.PART_SYSTEM
    with pytest.raises(SolitonError, match="not a system partition"):
        call("setprim", "1", path)
    call("del", "3", path)
    assert load(tmp_path / "a.sif").header.architecture == "00"


def test_what_makes_no_sense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = small(tmp_path / "a.sif")
    before = path.read_bytes()
    (tmp_path / "data").write_bytes(b"x" * 4096)
    (tmp_path / "cut").write_bytes(squashfs(used=9999))
    partition: dict[str, Value] = {"datatype": 4, "parttype": 3, "partarch": 2}
    refused: list[tuple[str, dict[str, Value], str]] = [
        ("data", {"datatype": 7, "link": 99}, "there is no data object 99"),
        ("data", {"datatype": 7, "alignment": 1 << 40}, "is not an alignment"),
        ("data", {"datatype": 7, "alignment": -5}, "is not an alignment"),
        ("data", {**partition, "partfs": 1}, "`data` is not a squashfs file system"),
        ("cut", {**partition, "partfs": 1}, "`cut` is truncated"),
        ("data", {**partition, "partfs": 2}, "`data` is not an ext3 file system"),
    ]
    for source, options, what in refused:
        with pytest.raises(SolitonError, match=what):
            call("add", str(path), str(tmp_path / source), **options)
        assert path.read_bytes() == before
    with pytest.raises(SolitonError, match="exists already") as told:
        call("new", str(path))
    assert "--force" not in (told.value.remedy or "")
    with pytest.raises(ImageError, match="is not a SIF file"):
        call("list", str(tmp_path / "data"))


def test_an_image_without_times_stays_without(tmp_path: Path) -> None:
    path = small(tmp_path / "a.sif")
    (tmp_path / "data").write_bytes(b"x")
    call("add", str(path), str(tmp_path / "data"), datatype=7)
    image = load(path)
    assert image.header.deterministic
    assert image.objects[2].created == sif.NO_TIME
    timed = small(tmp_path / "b.sif", time=5)
    call("add", str(timed), str(tmp_path / "data"), datatype=7)
    assert load(timed).header.modified > load(timed).header.created == 5


def test_a_full_table_is_said(tmp_path: Path) -> None:
    path = small(tmp_path / "a.sif")
    for _ in range(46):
        sif_edit.add(str(path), NewObject(sif.GENERIC, b"x"))
    with pytest.raises(SolitonError, match="no free descriptor"):
        sif_edit.add(str(path), NewObject(sif.GENERIC, b"x"))


def test_a_failed_addition_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "a.sif")
    before = path.read_bytes()

    def failing(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(SolitonError, match="cannot be written") as told:
        sif_edit.add(str(path), NewObject(sif.GENERIC, b"x" * 10_000))
    assert "no space" in (told.value.why or "")
    assert path.read_bytes() == before


def test_two_changes_at_once_do_not_mix(tmp_path: Path) -> None:
    path = small(tmp_path / "a.sif")
    with sif_edit._locked(str(path)), pytest.raises(ImageError, match="by another program"):
        sif_edit.delete(str(path), 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "--datatype"),
        ({"datatype": 12}, "--datatype"),
        ({"datatype": 4, "parttype": 1}, "a partition needs"),
        ({"datatype": 5, "signhash": 1, "signentity": "xyz"}, "a signature needs"),
        ({"datatype": 9, "sbomformat": "own"}, "an SBOM needs"),
        ({"datatype": 7, "group": 1 << 30}, "outside"),
        ({"datatype": 7, "link": -1}, "outside"),
    ],
)
def test_wrong_descriptions_of_an_object_are_usage_errors(
    tmp_path: Path, options: dict[str, Value], told: str
) -> None:
    path = small(tmp_path / "a.sif")
    with pytest.raises(UsageError, match=told):
        call("add", str(path), str(path), **options)


def test_a_digest_is_made_for_oci_blobs(tmp_path: Path) -> None:
    path = small(tmp_path / "a.sif")
    (tmp_path / "blob").write_bytes(b"{}")
    call("add", str(path), str(tmp_path / "blob"), datatype=11)
    assert load(path).objects[2].digest == (
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


def test_a_missing_file_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be opened"):
        call("list", str(tmp_path / "no"))
    with pytest.raises(SolitonError, match="cannot be read"):
        call("add", str(small(tmp_path / "a.sif")), str(tmp_path / "no"), datatype=7)
    with pytest.raises(ImageError):
        call("list", str(tmp_path))
