"""Every kind of image is recognised by its content, and everything else is refused with its likely cause."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from soliton.errors import ImageError, NotSupported, SolitonError
from soliton.images import lookalike, sif
from soliton.images.detect import Image, absolute, open_image
from soliton.images.sif_write import NewObject, definition, finish, plan_sif
from soliton.launch.plan import DirectoryRoot, ImageRoot


def squashfs(size: int = 4096, *, used: int | None = None, compressor: int = 6, version: int = 4) -> bytes:
    """A superblock that passes for one, and zeros."""
    head = struct.pack(
        "<IIIIIHHHHHHQQ", 0x73717368, 3, 0, 131072, 1, compressor, 17, 0xC0, 1, version, 0, 0, used or size
    )
    return head.ljust(size, b"\0")


def ext3(compatible: int = 0x3C, incompatible: int = 0x2, read_only: int = 0x3) -> bytes:
    data = bytearray(8192)
    data[1080:1082] = b"\x53\xef"
    struct.pack_into("<III", data, 1024 + 92, compatible, incompatible, read_only)
    return bytes(data)


def make_sif(
    path: Path,
    partition: bytes,
    *,
    fs: int = sif.FS_SQUASHFS,
    after: tuple[NewObject, ...] = (),
    role: int = 2,
) -> Path:
    layout = plan_sif([definition("bootstrap: scratch\n")])
    with path.open("wb+") as file:
        os.pwrite(file.fileno(), partition, layout.partition_offset)
        finish(
            file.fileno(),
            layout,
            partition_size=len(partition),
            architecture="arm64",
            time=None,
            fs=fs,
            role=role,
            after=after,
        )
    return path


def overlay(data: bytes, fs: int, group: int = 1) -> NewObject:
    extra = sif.Partition(fs, sif.PART_OVERLAY, "04").pack()
    return NewObject(sif.PARTITION, data, extra=extra, group=group)


def refused(path: Path | str) -> SolitonError:
    with pytest.raises(ImageError) as told:
        open_image(str(path))
    return told.value


def not_run(image: Image) -> SolitonError:
    with pytest.raises(SolitonError) as told:
        image.require_root()
    return told.value


def seen(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return (status.st_dev, status.st_ino)


def test_a_sif_gives_the_place_of_its_root(tmp_path: Path) -> None:
    image = open_image(str(make_sif(tmp_path / "a.sif", squashfs(8192))))
    assert image.kind == "sif"
    assert image.root == ImageRoot(str(tmp_path / "a.sif"), 32768, 8192, seen=seen(tmp_path / "a.sif"))
    assert image.require_root() == image.root
    assert image.architecture == "arm64"


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    path = make_sif(tmp_path / "image.txt", squashfs())
    assert open_image(str(path)).kind == "sif"


def test_a_bare_squashfs_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(squashfs())
    assert open_image(str(tmp_path / "a")).root == ImageRoot(
        str(tmp_path / "a"), 0, 4096, seen=seen(tmp_path / "a")
    )


def test_a_squashfs_behind_a_launch_line_is_an_image(tmp_path: Path) -> None:
    line = b"#!/usr/bin/env run-singularity\n"
    (tmp_path / "a").write_bytes(line + squashfs())
    assert open_image(str(tmp_path / "a")).root == ImageRoot(
        str(tmp_path / "a"), len(line), 4096, seen=seen(tmp_path / "a")
    )


def test_any_directory_is_a_sandbox(tmp_path: Path) -> None:
    assert open_image(str(tmp_path)).root == DirectoryRoot(str(tmp_path), seen(tmp_path))


def test_ext3_is_recognised_and_not_run_yet(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(ext3())
    image = open_image(str(tmp_path / "a"))
    assert image.kind == "ext3"
    assert isinstance(not_run(image), NotSupported)


def test_ext4_is_told_from_ext3(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(ext3(incompatible=0x2C2))
    assert refused(tmp_path / "a").why == "it looks like an ext4 file system"


@pytest.mark.parametrize(("fs", "how"), [(sif.FS_LUKS_SQUASHFS, "luks"), (sif.FS_GOCRYPTFS, "gocryptfs")])
def test_an_encrypted_root_is_recognised_and_not_run_yet(tmp_path: Path, fs: int, how: str) -> None:
    image = open_image(str(make_sif(tmp_path / "a.sif", b"cipher" * 100, fs=fs)))
    assert image.encryption == how
    told = not_run(image)
    assert isinstance(told, NotSupported)
    assert how in (told.why or "")


def test_an_oci_sif_is_told_apart(tmp_path: Path) -> None:
    index = NewObject(sif.OCI_ROOT_INDEX, b"{}", extra=b"sha256:" + b"0" * 64)
    image = open_image(str(make_sif(tmp_path / "a.sif", squashfs(), role=sif.PART_DATA, after=(index,))))
    assert image.root is None
    assert "OCI-SIF" in not_run(image).what


def test_a_sif_of_data_only_says_that_it_has_no_root(tmp_path: Path) -> None:
    image = open_image(str(make_sif(tmp_path / "a.sif", squashfs(), role=sif.PART_DATA)))
    assert "has no root file system" in not_run(image).what


def test_overlays_count_only_in_the_group_of_the_root(tmp_path: Path) -> None:
    after = (
        overlay(squashfs(), sif.FS_SQUASHFS),
        overlay(squashfs(), sif.FS_SQUASHFS, group=2),
        overlay(ext3(), sif.FS_EXT3),
    )
    image = open_image(str(make_sif(tmp_path / "a.sif", squashfs(), after=after)))
    assert image.layers == (ImageRoot(str(image.path), 32768 + 4096, 4096, seen=seen(image.path)),)
    assert image.writable is not None
    assert image.writable.id == 5


def archive(path: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_archives_are_told_apart_by_their_members(tmp_path: Path, mode: str) -> None:
    blob = "blobs/sha256/" + "0" * 64
    oci = open_image(str(archive(tmp_path / "a", [blob, "index.json", "oci-layout"], mode)))
    docker = open_image(str(archive(tmp_path / "b", ["0.json", "0/layer.tar", "manifest.json"], mode)))
    assert (oci.kind, docker.kind) == ("oci-archive", "docker-archive")
    assert "oci-archive:" in (not_run(oci).remedy or "")
    plain = refused(archive(tmp_path / "c", ["bin/sh", "etc/passwd"], mode))
    assert "tar archive" in (plain.why or "") or "compressed with" in (plain.why or "")


@pytest.mark.parametrize("cut", [20, 60])
def test_a_damaged_compressed_archive_is_no_image(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(archive(tmp_path / "a", ["x" * 90, "oci-layout"]).read_bytes())
    (tmp_path / "b").write_bytes(whole[:cut])
    assert "compressed with gzip" in (refused(tmp_path / "b").why or "")
    (tmp_path / "c").write_bytes(whole[:cut] + bytes(100))
    assert "compressed with gzip" in (refused(tmp_path / "c").why or "")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_small_file_that_unpacks_without_end_is_not_read_to_its_end(
    tmp_path: Path, kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookalike, "MOST_COMPRESSED", 1 << 20)
    huge = tarfile.TarInfo("huge")
    huge.type, huge.size = kind, 1 << 32
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    packed = (
        stream.compress(huge.tobuf()) + b"".join(stream.compress(zeros) for _ in range(16)) + stream.flush()
    )
    (tmp_path / "a").write_bytes(packed)
    tracemalloc.start()
    assert "compressed with gzip" in (refused(tmp_path / "a").why or "")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_oci_layout_is_not_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_text("{}")
    image = open_image(str(tmp_path))
    assert image.kind == "oci-layout"
    assert f"`build image.sif oci:{tmp_path}`" == not_run(image).remedy


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"\n <html><body>404", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--0", "a git-annex pointer"),
        (gzip.compress(b"hello"), "a file compressed with gzip"),
        (b"\x28\xb5\x2f\xfd0000", "a file compressed with zstd"),
        (b"\x7fELF\2\1\1", "a program"),
        (b"PK\3\4", "a zip archive"),
        (bytes(5000), "a file of zeros"),
        (b"# mine\nBootstrap: docker\nFrom: debian\n", "a definition file"),
        (b"FROM debian\nRUN true\n", "a Dockerfile"),
        (b'{"a": 1}', "a JSON document"),
        (b"#!/bin/sh\n", "a script"),
        ("Grüße".encode(), "a text file"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, looks: str) -> None:
    (tmp_path / "a").write_bytes(content)
    told = refused(tmp_path / "a")
    assert told.what == f"`{tmp_path}/a` is not an image"
    assert told.why == f"it looks like {looks}"


def test_unknown_bytes_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(128, 256)))
    assert "neither a SIF nor a squashfs" in (refused(tmp_path / "a").why or "")


def test_a_missing_file_and_what_was_probably_meant(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.sif").what == f"no such image: `{tmp_path}/no.sif`"
    assert refused("debian:12").remedy == "if it is in a registry, write `docker://debian:12`"
    assert "not a source" in (refused("ftp://x/y").remedy or "")
    (tmp_path / "link").symlink_to("gone")
    assert "link to something" in (refused(tmp_path / "link").why or "")
    (tmp_path / "file").write_text("x")
    assert "not a directory" in (refused(tmp_path / "file/x.sif").why or "")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a").what == f"`{tmp_path}/a` is empty"


def test_a_device_and_a_pipe_are_no_images(tmp_path: Path) -> None:
    assert refused("/dev/null").why == "it is a character device"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").why == "it is a named pipe"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_told_from_a_missing_one(tmp_path: Path) -> None:
    make_sif(tmp_path / "a.sif", squashfs()).chmod(0)
    assert "permission denied" in refused(tmp_path / "a.sif").what


def test_a_truncated_squashfs_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(squashfs(4096, used=1 << 30))
    assert refused(tmp_path / "a").what == (
        f"`{tmp_path}/a` is truncated: its file system has 4096 of 1073741824 bytes"
    )
    (tmp_path / "b").write_bytes(squashfs()[:50])
    assert "truncated" in refused(tmp_path / "b").what


def test_a_truncated_sif_is_said_at_once(tmp_path: Path) -> None:
    data = make_sif(tmp_path / "a.sif", squashfs(8192)).read_bytes()
    (tmp_path / "b.sif").write_bytes(data[:-1])
    assert (
        refused(tmp_path / "b.sif").what
        == f"`{tmp_path}/b.sif` is truncated: has {len(data) - 1} of {len(data)} bytes"
    )


@pytest.mark.parametrize(
    ("partition", "why"),
    [
        (b"nothing of the kind".ljust(4096, b"\0"), "no squashfs in it"),
        (squashfs(compressor=9), "unknown compressor 9"),
        (squashfs()[:12] + struct.pack("<I", 12345) + squashfs()[16:], "impossible block size (12345)"),
        (squashfs()[:4] + bytes(4) + squashfs()[8:], "makes no sense"),
    ],
)
def test_a_root_that_is_no_squashfs_is_refused(tmp_path: Path, partition: bytes, why: str) -> None:
    assert why in (refused(make_sif(tmp_path / "a.sif", partition)).why or "")


def test_an_old_squashfs_is_refused_by_its_version(tmp_path: Path) -> None:
    assert "version 3.0" in refused(make_sif(tmp_path / "a.sif", squashfs(version=3))).what


def test_a_table_beyond_the_first_read_is_read_too(tmp_path: Path) -> None:
    layout = plan_sif([definition("x")] * 60, slots=100)
    with (tmp_path / "a.sif").open("wb+") as file:
        os.pwrite(file.fileno(), squashfs(), layout.partition_offset)
        finish(file.fileno(), layout, partition_size=4096, architecture="amd64", time=None)
    image = open_image(str(tmp_path / "a.sif"))
    assert image.sif is not None
    assert len(image.sif.objects) == 61


def test_paths_become_absolute_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/inner")
    assert absolute("link/a.sif") == f"{tmp_path}/link/a.sif"
    assert absolute("link/../a.sif") == f"{tmp_path}/real/a.sif"
    with pytest.raises(ImageError):
        open_image("a\0b")


@pytest.mark.parametrize(
    "name", ["plain", "plain-xz", "plain-lz4", "plain-lzo", "plain-zstd", "signed", "signed-rsa"]
)
def test_images_made_by_apptainer_are_recognised(foreign: Path, name: str) -> None:
    image = open_image(str(foreign / f"{name}.sif"))
    assert image.kind == "sif"
    assert isinstance(image.root, ImageRoot)
    assert image.root.offset == 36864
    assert image.architecture == "amd64"
    assert image.sif is not None
    assert image.sif.oddities == ()


@pytest.mark.parametrize("name", ["encrypted-pass", "encrypted-pem"])
def test_encrypted_images_made_by_apptainer_are_recognised(foreign: Path, name: str) -> None:
    image = open_image(str(foreign / f"{name}.sif"))
    assert image.encryption == "gocryptfs"
    assert image.root is None
