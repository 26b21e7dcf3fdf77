"""Locks, provenance and building again, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.program import Program, Result
from tests.zoo import PLAIN, Layer, write_layout

GUIDE = Path(__file__).parents[2] / "docs/guide/building.md"
CHAPTERS = ("## The same bytes everywhere", "## Held to a lock", "## Where an image comes from")

RECIPE = """\
Bootstrap: oci
From: base
%files
    "a note.txt" /opt/
    data /opt/data
%post
    echo "{{ WORD }}" > /opt/word
    : {{ MY_TOKEN }}
%labels
    Own 1
"""
ARGUMENTS = ("--build-arg", "WORD=wörd", "--build-arg", "MY_TOKEN=geheim")


@pytest.fixture(scope="module")
def busybox() -> bytes:
    return next(p for p in (Path("/bin/busybox"), Path("/usr/bin/busybox")) if p.exists()).read_bytes()


def base(target: Path, busybox: bytes, version: str = "1") -> None:
    layer = Layer().directory("bin").add("bin/busybox", busybox, mode=0o755).symlink("bin/sh", "busybox")
    status = f"Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n"
    layer.directory("etc").directory("var").directory("var/lib").directory("var/lib/dpkg")
    layer.add("var/lib/dpkg/status", status.encode())
    shutil.rmtree(target, ignore_errors=True)
    write_layout(target, [(layer.bytes(), PLAIN)])


@pytest.fixture
def project(soliton: Program, busybox: bytes) -> Program:
    base(soliton.cwd / "base", busybox)
    (soliton.cwd / "a note.txt").write_text("note")
    (soliton.cwd / "data").mkdir()
    (soliton.cwd / "data/ä").write_text("data")
    (soliton.cwd / "tools.def").write_text(RECIPE)
    return soliton


def locked(soliton: Program) -> Result:
    return soliton("build", "-F", "--locked", *ARGUMENTS, "again.sif", "tools.def")


def statement(soliton: Program, image: str) -> dict[str, Any]:
    return dict(json.loads(soliton("inspect", "--provenance", image).ok().out))


def fails(result: Result, *words: str) -> None:
    assert result.status == 255 and "Traceback" not in result.err
    lines = result.err.splitlines()
    message = lines[next(n for n, line in enumerate(lines) if line.startswith("FATAL:")) :]
    assert len(message) <= 3
    for word in words:
        assert word in "\n".join(message), message


def test_a_locked_build_gives_the_same_bytes_or_names_what_differs(project: Program, busybox: bytes) -> None:
    soliton = project
    soliton("build", "--lock", *ARGUMENTS, "image.sif", "tools.def").ok()
    lock = json.loads((soliton.cwd / "tools.def.lock").read_text())
    assert lock["packages"] == {"dpkg": {"tool": {"version": "1"}}}
    assert sorted(lock["files"]) == ["a note.txt", "data"]
    assert lock["bases"][0]["from"] == "oci:base" and lock["epoch"] == 1700000000
    locked(soliton).ok()
    assert (soliton.cwd / "again.sif").read_bytes() == (soliton.cwd / "image.sif").read_bytes()
    # Nothing of this comes true.
    (soliton.cwd / "again.sif").unlink()
    (soliton.cwd / "data/ä").write_text("other")
    fails(locked(soliton), "tools.def.lock", "file `data` is sha256:")
    (soliton.cwd / "data/ä").write_text("data")
    base(soliton.cwd / "base", busybox, "2")
    fails(locked(soliton), "base `oci:base` has the digest sha256:")
    base(soliton.cwd / "base", busybox)
    recipe = RECIPE.replace("echo", "busybox sed -i 's/^Version: 1/Version: 3/' /var/lib/dpkg/status; echo")
    (soliton.cwd / "tools.def").write_text(recipe.replace("busybox sed", "/bin/busybox sed"))
    result = locked(soliton)
    fails(result, "package `dpkg tool` is 3 instead of 1")
    assert "has changed since it was locked" in result.err
    (soliton.cwd / "tools.def").write_text(RECIPE.replace("From: base", "From: ./base"))
    fails(locked(soliton), "base `oci:./base` of stage 1 is not in the lock")
    (soliton.cwd / "tools.def").write_text(RECIPE)
    fails(locked(soliton.having(SOURCE_DATE_EPOCH="5")), "SOURCE_DATE_EPOCH is 5")
    assert not (soliton.cwd / "again.sif").exists()
    assert not [name for name in os.listdir(soliton.cwd) if "partial" in name]


def test_locks_that_cannot_be_are_said_so(project: Program) -> None:
    soliton = project
    fails(locked(soliton), "`tools.def.lock` cannot be read", "--lock")
    (soliton.cwd / "tools.def.lock").write_text("{}")
    fails(locked(soliton), "`tools.def.lock` is not a lock")
    both = soliton("build", "--lock", "--locked", "image.sif", "tools.def")
    assert both.status == 1 and "only one" in both.err
    assert soliton("build", "--lock", "image.sif", "oci:base").status == 1
    assert not (soliton.cwd / "image.sif").exists()


def test_a_name_in_a_registry_is_held_to_its_digest(
    soliton: Program, busybox: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.system.registry import serve

    work = tmp_path_factory.mktemp("registry")
    with serve(work) as registry:
        base(work / "one", busybox, "1")
        name = registry.push(work / "one", "tools")
        (soliton.cwd / "recipe.def").write_text(
            f"Bootstrap: docker\nFrom: {name.removeprefix('docker://')}\n"
        )
        soliton("build", "--no-https", "--lock", "image.sif", "recipe.def").ok()
        base(work / "two", busybox, "2")
        registry.push(work / "two", "tools")
        # What a name stood for when it was asked is kept; `--pull` asks again.
        soliton("build", "--no-https", "--pull", "new.sif", "recipe.def").ok()
        assert soliton("diff", "image.sif", "new.sif").status == 1
        # With an empty cache, too.
        for more in ((), ("--disable-cache",)):
            soliton("build", "-F", "--no-https", "--locked", *more, "again.sif", "recipe.def").ok()
            assert (soliton.cwd / "again.sif").read_bytes() == (soliton.cwd / "image.sif").read_bytes()
        told = soliton("rebuild", "--no-https", "--check", "image.sif").ok().out
        assert told == "image.sif: built again, the same bytes\n"
    (soliton.home / "cache").rename(soliton.home / "no cache")
    fails(soliton("build", "-F", "--no-https", "--locked", "again.sif", "recipe.def"), "cannot be reached")


def test_an_image_tells_where_it_comes_from_and_keeps_no_secrets(project: Program) -> None:
    soliton = project
    soliton("build", "--lock", *ARGUMENTS, "image.sif", "tools.def").ok()
    found = statement(soliton, "image.sif")
    definition = found["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["buildArgs"] == {"WORD": "wörd"}
    assert definition["externalParameters"]["secretBuildArgs"] == ["MY_TOKEN"]
    names = [item.get("uri") or item["name"] for item in definition["resolvedDependencies"]]
    assert names == ["oci:base", "a note.txt", "data", "recipe.lock"]
    whole = (soliton.cwd / "image.sif").read_bytes()
    for private in (b"geheim", str(soliton.cwd).encode()):
        assert private not in whole
    assert b"geheim" not in (soliton.cwd / "tools.def.lock").read_bytes()
    told = soliton("inspect", "--all", "image.sif").ok().out
    # The name of a machine may be so short that it is somewhere in the image by chance.
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", told)
    everything = json.loads(told)
    assert everything["data"]["attributes"].pop("provenance") == found
    assert everything["type"] == "container" and everything["data"]["attributes"]["labels"]["Own"] == "1"
    assert soliton("exec", "image.sif", "/bin/busybox", "cat", "/opt/word").ok().out == "wörd\n"
    # The subject is the root file system as it lies in the file.
    table = soliton("sif", "list", "image.sif").ok().out
    row = next(line for line in table.splitlines() if "Squashfs" in line)
    start, end = (int(word) for word in row.split("|")[3].split("-"))
    import hashlib

    assert found["subject"][0]["digest"]["sha256"] == hashlib.sha256(whole[start:end]).hexdigest()
    # Who judges SIF files and file systems finds nothing wrong.
    unsquashfs = shutil.which("unsquashfs", path="/usr/bin:/usr/sbin:/bin:/sbin")
    assert unsquashfs is not None
    subprocess.run(
        [unsquashfs, "-s", "-o", str(start), soliton.cwd / "image.sif"], check=True, capture_output=True
    )
    without = soliton("pull", "pulled.sif", "oci:base").ok()
    assert without.status == 0
    fails(soliton("inspect", "--provenance", "pulled.sif"), "holds no provenance")


def test_an_image_is_built_again_and_compared(project: Program) -> None:
    soliton = project
    soliton("build", *ARGUMENTS, "image.sif", "tools.def").ok()
    (soliton.cwd / "tools.def").unlink()
    fails(soliton("rebuild", "--check", "image.sif"), "`MY_TOKEN`", "--build-arg MY_TOKEN=VALUE")
    secret = ("--build-arg", "MY_TOKEN=geheim")
    same = soliton("rebuild", "--check", *secret, "image.sif")
    assert (same.status, same.out) == (0, "image.sif: built again, the same bytes\n"), same.err
    soliton("rebuild", *secret, "image.sif", "again.sif").ok()
    assert (soliton.cwd / "again.sif").read_bytes() == (soliton.cwd / "image.sif").read_bytes()
    record = json.loads(soliton("rebuild", "--check", "--json", *secret, "image.sif").ok().out)
    assert record["same"] is True and record["files"] == []
    (soliton.cwd / "a note.txt").write_text("another")
    fails(soliton("rebuild", "--check", *secret, "image.sif"), "file `a note.txt` is sha256:")
    usage = soliton("rebuild", "image.sif")
    assert usage.status == 1 and "--check" in usage.err


def test_what_differs_is_told_by_file(soliton: Program) -> None:
    (soliton.cwd / "recipe.def").write_text(
        "Bootstrap: busybox\n%post\n"
        "  cat /proc/sys/kernel/random/uuid > /etc/random-id; mkdir /opt && echo same > /opt/same\n"
    )
    soliton("build", "image.sif", "recipe.def").ok()
    result = soliton("rebuild", "--check", "image.sif")
    assert result.status == 1
    assert result.out.splitlines()[:2] == ["image.sif: built again, not the same", "Files: 1 changed"]
    assert result.out.splitlines()[2].startswith("  ~ /etc/random-id  content (sha256:")
    assert "/opt/same" not in result.out
    record = json.loads(soliton("rebuild", "--check", "--json", "image.sif").out)
    assert [change["name"] for change in record["files"]] == ["/etc/random-id"]


def test_an_image_from_elsewhere_runs_nothing_outside_unless_allowed(soliton: Program) -> None:
    (soliton.cwd / "recipe.def").write_text("Bootstrap: busybox\n%setup\n  touch outside\n")
    soliton("build", "image.sif", "recipe.def").ok()
    (soliton.cwd / "outside").unlink()
    fails(soliton("rebuild", "--check", "image.sif"), "`%setup` (line 2)", "--run-setup")
    assert not (soliton.cwd / "outside").exists()
    soliton("rebuild", "--check", "--run-setup", "image.sif").ok()
    assert (soliton.cwd / "outside").exists()


def test_a_damaged_provenance_is_refused(soliton: Program) -> None:
    (soliton.cwd / "recipe.def").write_text("Bootstrap: busybox\n")
    soliton("build", "image.sif", "recipe.def").ok()
    data = (soliton.cwd / "image.sif").read_bytes()
    (soliton.cwd / "bad.sif").write_bytes(data.replace(b"https://slsa.dev", b"https://slsa.DEV"))
    for command in (("inspect", "--provenance"), ("rebuild", "--check")):
        fails(soliton(*command, "bad.sif"), "provenance cannot be read")
    (soliton.cwd / "bad.sif").write_bytes(data.replace(b'"epoch": 315532800', b'"epoch": "315532800"'[:18]))
    fails(soliton("rebuild", "--check", "bad.sif"), "provenance cannot be read")


def test_the_guide_s_examples_work(soliton: Program) -> None:
    """Every command line of the chapters about locks, in their order."""
    (soliton.cwd / "recipe.def").write_text("Bootstrap: busybox\n%post\n  echo 1 > /etc/one\n")
    inside = chapter = False
    ran = 0
    for line in GUIDE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            chapter = line in CHAPTERS
        elif line.startswith("```"):
            inside = line == "```sh" and chapter
        elif inside and (words := shlex.split(line, comments=True)):
            assert words[0] == "soliton"
            if words[1] == "build":
                words.insert(2, "--force")
            soliton(*words[1:]).ok()
            ran += 1
    assert ran == 6
