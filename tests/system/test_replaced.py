"""What is launched is what was looked at: something put in its place in between is refused.

The moment in between is made to last: a plan is taken from `--explain --json`, then the file is replaced, then the core gets the plan.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.program import AMPLE, Program, Result, find_program

REPLACED = "was replaced while it was being started"


@pytest.fixture
def linked(busybox_sif: Path, tmp_path: Path) -> Path:
    """A link to a copy of the image, and another copy beside it."""
    shutil.copy(busybox_sif, tmp_path / "looked at.sif")
    shutil.copy(busybox_sif, tmp_path / "other.sif")
    link = tmp_path / "link ü.sif"
    link.symlink_to("looked at.sif")
    return link


def plan_of(soliton: Program, *words: object) -> dict[str, Any]:
    told = json.loads(soliton("exec", "--explain", "--json", *words, "echo", "inside").ok().out)
    plan: dict[str, Any] = told["plan"]
    return plan


def launched(soliton: Program, plan: dict[str, Any]) -> Result:
    request = os.memfd_create("plan")
    os.write(request, json.dumps(plan).encode())
    os.lseek(request, 0, os.SEEK_SET)
    done = subprocess.run(
        ["soliton-core", "launch", str(request)],
        executable=find_program(),
        pass_fds=[request],
        cwd=soliton.cwd,
        env=soliton.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AMPLE,
        check=False,
    )
    os.close(request)
    return Result(done.returncode, done.stdout, done.stderr)


def require_refused(soliton: Program, plan: dict[str, Any], replace: Callable[[], object]) -> None:
    """The plan works, and does no more once `replace` has been called."""
    assert launched(soliton, plan).ok().out == "inside\n"
    replace()
    refused = launched(soliton, plan)
    assert refused.status == 255 and refused.out == ""
    assert REPLACED in refused.err and "run the command again" in refused.err
    assert len(refused.err.splitlines()) <= 3


def relink(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize("server", ["", "off"], ids=["shared", "alone"])
def test_an_image_behind_a_link_that_leads_elsewhere(soliton: Program, linked: Path, server: str) -> None:
    soliton = soliton.having(SOLITON_IMAGE_SERVER=server)
    require_refused(soliton, plan_of(soliton, linked), lambda: relink(linked, "other.sif"))


def test_an_image_with_another_file_under_its_name(soliton: Program, image: Path, busybox_sif: Path) -> None:
    other = Path(shutil.copy(busybox_sif, image.with_name("other.sif")))
    require_refused(soliton, plan_of(soliton, image), lambda: other.rename(image))


def test_a_named_pipe_in_the_place_of_an_image_keeps_nobody_waiting(soliton: Program, image: Path) -> None:
    def replace() -> None:
        image.unlink()
        os.mkfifo(image)

    require_refused(soliton, plan_of(soliton, image), replace)


def test_a_directory_in_the_place_of_a_sandbox(
    soliton: Program, busybox_sandbox: Path, tmp_path: Path
) -> None:
    shutil.copytree(busybox_sandbox, tmp_path / "other", symlinks=True)
    link = tmp_path / "sandbox"
    link.symlink_to(busybox_sandbox)
    require_refused(soliton, plan_of(soliton, link), lambda: relink(link, "other"))


@pytest.mark.parametrize("how", ["", ":ro"])
@pytest.mark.parametrize("kind", ["image", "directory"])
def test_an_overlay(soliton: Program, image: Path, tmp_path: Path, kind: str, how: str) -> None:
    names = [tmp_path / "overlay", tmp_path / "other"]
    for name in names:
        if kind == "image":
            soliton("overlay", "create", name).ok()
        else:
            (name / "upper").mkdir(parents=True)
            (name / "work").mkdir()
    link = tmp_path / "link"
    link.symlink_to("overlay")
    # The program may still be about to let go of it.
    plan = plan_of(soliton, "--overlay", f"{link}{how}", image)
    require_refused(soliton, plan, lambda: relink(link, "other"))


def test_an_image_that_is_bound_from(soliton: Program, linked: Path, image: Path) -> None:
    plan = plan_of(soliton, "--bind", f"{linked}:/mnt:image-src=/etc,id=3", image)
    require_refused(soliton, plan, lambda: relink(linked, "other.sif"))


def test_a_stored_plan_never_starts_what_has_taken_the_place_of_its_image(
    soliton: Program, linked: Path, tmp_path: Path
) -> None:
    (tmp_path / "runtime").mkdir(mode=0o700)
    soliton = soliton.having(XDG_RUNTIME_DIR=str(tmp_path / "runtime"), SOLITON_SHORTCUT="")
    for _ in range(2):
        assert soliton("exec", linked, "echo", "inside").ok().out == "inside\n"
    (stored,) = (path for path in (tmp_path / "runtime/soliton").iterdir() if len(path.name) == 32)
    record = json.loads(stored.read_text())
    assert str(linked) not in [file["path"] for file in record["files"]], "it is looked at when it is open"
    record["plan"]["process"]["environment"]["fixed"]["FROM"] = "the store"
    stored.write_text(json.dumps(record))
    asked = ("exec", linked, "sh", "-c", "echo ${FROM:-anew}")
    assert soliton(*asked).ok().out == "the store\n"
    relink(linked, "other.sif")
    assert soliton(*asked).ok().out == "anew\n"
