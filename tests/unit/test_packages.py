"""Packages by the databases of an image: what is read, and what hostile databases do not do."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.images import packages
from soliton.images.packages import Package
from soliton.images.survey import FileFacts

STATUS = b"""\
Package: hello
Status: install ok installed
Architecture: amd64
Version: 2.10-3
Description: friendly
 Version: 9

Package: libc6
Status: install ok installed
Multi-Arch: same
Architecture: amd64
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Version: 1

Package: nameless
"""


def test_dpkg_tells_what_is_installed() -> None:
    def digest(names: object) -> str:
        return f"sha256:{names}"

    assert list(packages.of_dpkg(STATUS, digest)) == [
        Package("dpkg", "hello", "2.10-3", "sha256:('hello', 'hello')"),
        Package("dpkg", "libc6:amd64", "2.36-9", "sha256:('libc6:amd64', 'libc6')"),
    ]


def test_apk_and_conda() -> None:
    assert list(packages.of_apk(b"C:Q1abc=\nP:musl\nV:1.2-r0\nF:lib\n\nP:half\n")) == [
        Package("apk", "musl", "1.2-r0", "Q1abc=")
    ]
    record = b'{"name": "zlib", "version": "1.3", "build": "h1", "sha256": "ab", "files": []}'
    assert list(packages.of_conda(record)) == [Package("conda", "zlib", "1.3-h1", "sha256:ab")]
    for odd in (b"", b"[]", b"{}", b"[" * 100_000, b"null"):
        assert list(packages.of_conda(odd)) == []


def test_a_database_that_never_ends_is_left(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
            "SELECT zeroblob(0) AS blob FROM n WHERE x < 0"
        )
    connection.close()
    with pytest.raises(ValueError):
        list(packages.of_rpm((tmp_path / "db").read_bytes()))


def test_pip_by_the_names_of_metadata() -> None:
    def file(digest: str = "") -> FileFacts:
        return FileFacts("file", 0o644, 0, 0, 0, digest=digest)

    site = "/usr/lib/python3/site-packages"
    files = {
        f"{site}/Typing_Extensions-4.9.0.dist-info/METADATA": file(),
        f"{site}/Typing_Extensions-4.9.0.dist-info/RECORD": file("ab"),
        "/usr/lib/python3/dist-packages/six-1.16.0.egg-info": file(),
        "/opt/lib/site-packages/old-1.0-py3.11.egg-info/PKG-INFO": file(),
        f"{site}/six.py": file(),
        "/elsewhere/x-1.dist-info/METADATA": file(),
    }
    assert list(packages.of_pip(files)) == [
        Package("pip", "typing-extensions", "4.9.0", "sha256:ab"),
        Package("pip", "six", "1.16.0"),
        Package("pip", "old", "1.0"),
    ]


def header(tags: dict[int, str | int]) -> bytes:
    """A header as rpm writes it: entries, then data."""
    entries, data = b"", b""
    for tag, value in tags.items():
        if isinstance(value, int):
            data += bytes(-len(data) % 4)
            entries += struct.pack(">IIII", tag, 4, len(data), 1)
            data += struct.pack(">I", value)
        else:
            entries += struct.pack(">IIII", tag, 6, len(data), 1)
            data += value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(data)) + entries + data


def database(path: Path, *blobs: bytes) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
    connection.close()
    return path.read_bytes()


def test_rpm_by_its_headers(tmp_path: Path) -> None:
    bash = header({1000: "bash", 1001: "5.2", 1002: "1.el9", 1003: 2, 1022: "x86_64", 273: "ab"})
    key = header({1000: "gpg-pubkey", 1001: "1", 1002: "1"})
    data = database(tmp_path / "db", bash, key)
    assert list(packages.of_rpm(data)) == [Package("rpm", "bash.x86_64", "2:5.2-1.el9", "sha256:ab")]


@pytest.mark.parametrize(
    "blob", [b"", bytes(8) + b"x", struct.pack(">II", 1 << 31, 0), struct.pack(">II", 1, 1 << 31)]
)
def test_a_damaged_header_of_rpm_is_no_crash(tmp_path: Path, blob: bytes) -> None:
    data = database(tmp_path / "db", blob)
    with contextlib.suppress(ValueError, struct.error):
        assert list(packages.of_rpm(data)) == []


@given(st.binary(max_size=400))
def test_no_bytes_whatever_break_a_reader(data: bytes) -> None:
    for reader in (packages.of_dpkg, packages.of_apk, packages.of_conda):
        list(reader(data))
    for rpm in (data, b"SQLite format 3\0" + data):
        with contextlib.suppress(ValueError, struct.error):
            list(packages.of_rpm(rpm))
