"""Locks, provenance and secrets as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.build import digests, lockfile, provenance, secrets
from soliton.build.definition import parse
from soliton.build.lockfile import Lock, LockedBase
from soliton.build.provenance import Arguments
from soliton.errors import BuildError, ImageError
from soliton.images.packages import Package

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
LOCK = Lock(
    ("tools.def", ONE),
    1700000000,
    "amd64",
    (LockedBase(1, "docker://debian:12", ONE),),
    {"data \udcff.txt": ONE},
    (Package("dpkg", "hello", "1", ONE), Package("pip", "numpy", "2"), Package("pip", "numpy", "1")),
)


def test_a_lock_says_the_same_when_it_is_read_again() -> None:
    text = lockfile.encode(LOCK)
    text.encode("ascii")
    assert lockfile.decode(text, "x.lock") == LOCK
    assert lockfile.encode(lockfile.decode(text, "x.lock")) == text


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"epoch": -1},
        {"epoch": True},
        {"bases": [{"stage": 1, "from": "x", "digest": "sha256:../../etc"}]},
        {"files": []},
        {"packages": {"dpkg": {"x": "1"}}},
        {"recipe": None},
    ],
)
def test_what_is_no_lock_is_refused(change: dict[str, object]) -> None:
    record = json.loads(lockfile.encode(LOCK))
    with pytest.raises(BuildError):
        lockfile.decode(json.dumps({**record, **change}), "x.lock")


@given(st.binary(max_size=200))
def test_no_bytes_whatever_are_more_than_no_lock(data: bytes) -> None:
    with pytest.raises(BuildError):
        lockfile.decode(data, "x.lock")
    with pytest.raises(ImageError):
        provenance.origin(data, "x.sif")


def test_differences_are_named() -> None:
    assert lockfile.differences(LOCK, LOCK) == []
    found = replace(
        LOCK,
        bases=(LockedBase(1, "docker://debian:12", TWO),),
        files={"new": ONE},
        packages=(Package("dpkg", "hello", "2", TWO), Package("apk", "musl", "1")),
    )
    assert lockfile.differences(LOCK, found) == [
        "base `docker://debian:12` has the digest sha256:222222222222… instead of sha256:111111111111…",
        "file `data \udcff.txt` is missing",
        "file `new` is not in the lock",
        "package `apk musl` is not in the lock",
        "package `dpkg hello` is 2 sha256:222222222222… instead of 1 sha256:111111111111…",
        "package `pip numpy` is missing",
    ]
    error = lockfile.differs(lockfile.differences(LOCK, found), "x.lock", "remedy")
    assert error.why is not None and error.why.endswith("and 3 more")


def test_a_statement_tells_what_a_build_needs_and_no_more() -> None:
    arguments = Arguments({"A": "1"}, ("TOKEN",), {"keep-logs": True}, ("X",), ("/data",))
    data = provenance.statement(LOCK, arguments, ONE, TWO)
    record = provenance.decode(data, "x.sif")
    assert record["_type"] == "https://in-toto.io/Statement/v1"
    assert record["subject"] == [{"name": "root", "digest": {"sha256": "1" * 64}}]
    again = provenance.origin(data, "x.sif")
    assert again.arguments == arguments
    assert again.inputs.bases == LOCK.bases
    assert (again.inputs.recipe, again.inputs.epoch) == (LOCK.recipe, LOCK.epoch)


def test_secrets_are_known_by_their_names_and_values() -> None:
    for name in (
        "TOKEN",
        "github_token",
        "API_KEY",
        "apiKey",
        "DB_PASSWORD",
        "MYSECRET",
        "SSHKEY",
        "Auth",
        "DB_PWD",
    ):
        assert secrets.is_secret(name, "x"), name
    for name in ("VERSION", "AUTHOR", "MONKEY", "KEYBOARD", "COMPASS", "TOKENIZER", "PASSENGERS"):
        assert not secrets.is_secret(name, "1.0"), name
    assert secrets.is_secret("URL", "https://me:pw@example.org/x")
    assert secrets.is_secret("X", "ghp_" + "a" * 36)
    assert not secrets.is_secret("URL", "https://example.org:8080/x@y")


def test_a_secret_stays_a_template_in_what_is_kept() -> None:
    text = (
        b"Bootstrap: debootstrap\nOSVersion: sid\nMirrorURL: https://me:{{ TOKEN }}@example.org/\n"
        b"%post\n echo {{ TOKEN }} {{ A }}\n"
    )
    found = parse(text, "x.def", {"TOKEN": "geheim", "A": "1"})
    post = found.stages[0].section("post")
    assert post is not None and post.body == " echo geheim 1\n"
    assert found.stages[0].header.get("mirrorurl") == "https://me:geheim@example.org/"
    assert "geheim" not in found.text and " echo {{ TOKEN }} 1\n" in found.text
    assert found.stages[0].told.get("mirrorurl") == "https://me:{{ TOKEN }}@example.org/"
    # What is kept gives the same again.
    assert parse(found.text.encode(), "x.def", {"TOKEN": "geheim"}).text == found.text


def test_a_directory_has_one_digest_whatever_its_times(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_text("x")
        (tmp_path / name / "link").symlink_to("deep/file")
        (tmp_path / name / "loop").symlink_to(".")
        (tmp_path / name / "dangling").symlink_to("nowhere")
    first = digests.of_path(str(tmp_path / "one"))
    assert first == digests.of_path(str(tmp_path / "two"))
    (tmp_path / "two/deep/file").chmod(0o600)
    assert first != digests.of_path(str(tmp_path / "two"))
