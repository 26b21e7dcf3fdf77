"""Looking into images without running them: what a user sees, compared as text."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.system.program import Program

DEFINITION = """\
Bootstrap: localimage
From: base.sif

%environment
    export COLOUR="blue"
%runscript
    echo "run: $*"
%startscript
    sleep 1000
%test
    true
%labels
    Maintainer Jo Doe
%help
    How to use it.
%apprun foo
    echo foo
%apphelp foo
    Help of foo.
"""


def built(soliton: Program, base: Path) -> Path:
    shutil.copy(base, soliton.cwd / "base.sif")
    (soliton.cwd / "an image.def").write_text(DEFINITION)
    soliton("build", "an image.sif", "an image.def").ok()
    return soliton.cwd / "an image.sif"


def test_each_view_of_an_image(soliton: Program, busybox_sif: Path) -> None:
    image = built(soliton, busybox_sif)

    def shown(*options: str) -> str:
        return soliton("inspect", *options, image).ok().out

    assert "Maintainer: Jo Doe\n" in shown()
    assert "org.label-schema.usage.singularity.deffile.from: base.sif\n" in shown("--labels")
    assert shown("--deffile") == DEFINITION
    assert shown("--runscript") == '#!/bin/sh\n\n    echo "run: $*"\n'
    assert shown("--startscript") == "#!/bin/sh\n\n    sleep 1000\n"
    assert shown("--test") == "#!/bin/sh\n\n    true\n"
    assert shown("--helpfile") == "    How to use it.\n"
    assert '    export COLOUR="blue"\n' in shown("--environment")
    assert shown("--list-apps") == "foo\n"
    assert shown("--app", "foo", "--runscript") == "#!/bin/sh\n\n    echo foo\n"
    assert soliton("run-help", image).ok().out == "    How to use it.\n"
    assert soliton("run-help", "--app", "foo", image).ok().out == "    Help of foo.\n"


def test_the_record_in_a_sif_is_what_its_files_say(
    soliton: Program, busybox_sif: Path, tmp_path: Path
) -> None:
    """As a SIF, as the squashfs in it, and as a directory made of that: the same."""
    image = built(soliton, busybox_sif)
    from soliton.images.detect import open_image
    from soliton.launch.plan import ImageRoot

    root = open_image(str(image)).root
    assert isinstance(root, ImageRoot)
    (tmp_path / "bare").write_bytes(image.read_bytes()[root.offset : root.offset + root.size])
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-d", tmp_path / "tree", tmp_path / "bare"],
        check=True,
        capture_output=True,
    )
    record = json.loads(soliton("inspect", "--all", image).ok().out)
    # Only the SIF has a place for where it comes from.
    assert record["data"]["attributes"].pop("provenance")
    assert json.loads(soliton("inspect", "--all", tmp_path / "bare").ok().out) == record
    assert json.loads(soliton("inspect", "--all", tmp_path / "tree").ok().out) == record


def test_an_image_of_apptainer_is_inspected_as_apptainer_does_it(soliton: Program, foreign: Path) -> None:
    shown = soliton("inspect", "--json", "--all", foreign / "plain.sif").ok().out
    assert shown == (foreign / "plain.inspect.json").read_text()


def test_the_parts_of_a_sif_can_be_listed_and_taken_out(soliton: Program, busybox_sif: Path) -> None:
    lines = soliton("sif", "list", busybox_sif).ok().out.splitlines()
    assert lines[1] == "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE"
    kinds = [line.split("|")[4] for line in lines[3:]]
    assert kinds[:2] == ["Def.FILE", "JSON.Generic"]
    assert kinds[2].startswith("FS (Squashfs/*System/")
    assert kinds[3:] == ["JSON.Generic"]  # the provenance
    assert (
        soliton("sif", "header", busybox_sif)
        .ok()
        .out.startswith("Launch Script:        #!/usr/bin/env run-singularity\n")
    )
    assert "  Name:       inspect-metadata.json\n" in soliton("siftool", "info", "2", busybox_sif).ok().out
    record = soliton("sif", "dump", "2", busybox_sif).ok().out
    assert json.loads(record)["type"] == "container"


def test_what_is_added_to_an_image_does_not_disturb_it(soliton: Program, image: Path) -> None:
    (soliton.cwd / "notes.txt").write_text("remember")
    soliton("sif", "add", "--datatype", "7", image, "notes.txt").ok()
    lines = soliton("sif", "list", image).ok().out.splitlines()
    number = lines[-1].split("|")[0].strip()
    assert soliton("sif", "dump", number, image).ok().out == "remember"
    soliton("exec", image, "true").ok()
    soliton("sif", "del", number, image).ok()
    assert soliton("sif", "list", image).ok().out.splitlines() == lines[:-1]
    soliton("exec", image, "true").ok()


def test_a_missing_app_has_the_status_of_the_peers(soliton: Program, busybox_sif: Path) -> None:
    result = soliton("inspect", "--app", "none", busybox_sif)
    assert result.status == 1
    assert "no app `none`" in result.err


def test_two_images_are_compared_without_running_them(soliton: Program, busybox_sif: Path) -> None:
    (soliton.cwd / "recipe.def").write_text(
        f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  echo x > '/etc/ä b'; chmod 600 /etc/passwd; rm /bin/grep\n"
        "%environment\n  export GREETING=hello\n%labels\n  Own yes\n"
    )
    soliton("build", "other.sif", "recipe.def").ok()
    same = soliton("diff", busybox_sif, busybox_sif)
    assert (same.status, same.out, same.err) == (0, "", "")
    found = soliton("diff", "--ignore", "time", busybox_sif, "other.sif")
    assert found.status == 1
    lines = found.out.splitlines()
    assert "  + /etc/ä b  2 bytes" in lines
    assert "  ~ /etc/passwd  mode (0644 → 0600)" in lines
    assert "  - /bin/grep  -> busybox" in lines
    assert "  + GREETING  hello" in lines
    assert "  + Own  yes" in lines
    assert not [line for line in lines if "time (" in line]
    record = json.loads(soliton("diff", "--json", busybox_sif, "other.sif").out)
    assert {"name": "GREETING", "change": "added", "is": {"before": "", "after": "hello"}} in record[
        "environment"
    ]
    broken = soliton("diff", busybox_sif, "nothing.sif")
    assert broken.status == 255 and "nothing.sif" in broken.err
    assert soliton("diff", "--ignore", "colour", busybox_sif, "other.sif").status == 1


def test_digests_of_some_files_are_those_of_all(busybox_sif: Path) -> None:
    from soliton.images.detect import open_image
    from soliton.images.survey import survey

    root = open_image(str(busybox_sif)).require_root()
    every, some = survey(root), survey(root, contents=False, endings=["/passwd"])
    assert some["/etc/passwd"] == every["/etc/passwd"] and every["/etc/passwd"].digest
    assert every["/etc/group"].digest and not some["/etc/group"].digest
    assert list(some) == list(every)
