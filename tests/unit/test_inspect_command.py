"""`inspect` and `run-help`: every view, compared as text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soliton.cli import inspect as command
from soliton.cli.invocation import Invocation
from soliton.errors import ImageError, SolitonError
from soliton.images import inspection
from soliton.images.inspection import Described
from soliton.images.sif_write import definition, finish, generic_json, plan_sif
from tests.unit.test_detect import squashfs

if TYPE_CHECKING:
    from soliton.cli.invocation import Value

DESCRIBED = Described(
    environment={"/.singularity.d/env/90-environment.sh": "#!/bin/sh\nexport A=1"},
    labels={"b": "2 <&>", "a": "1"},
    runscript="#!/bin/sh\necho run",
    startscript="#!/bin/sh\necho start",
    test="#!/bin/sh\necho test",
    help="How to use it",
    definition="Bootstrap: scratch",
    apps={
        "two": Described(labels={"SCIF_APP_NAME": "two"}),
        "one": Described(
            environment={"/scif/apps/one/scif/env/90-environment.sh": "X=1"},
            labels={"SCIF_APP_NAME": "one"},
            runscript="#!/bin/sh\necho one",
            help="Help of one",
        ),
    },
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "an image.sif"
    layout = plan_sif(
        [
            definition("Bootstrap: scratch\n"),
            generic_json("inspect-metadata.json", inspection.to_sif_json(DESCRIBED)),
        ]
    )
    with path.open("wb+") as file:
        os.pwrite(file.fileno(), squashfs(), layout.partition_offset)
        finish(file.fileno(), layout, partition_size=4096, architecture="amd64", time=None)
    return path


def call(name: str, path: Path, **options: Value) -> int:
    defaults: dict[str, Value] = dict.fromkeys((*command.PARTS, "all", "json", "provenance"), False)
    given = {option.replace("_", "-"): value for option, value in options.items()}
    status: int = getattr(command, name)(
        Invocation("soliton", (name,), {**defaults, "app": None, **given}, (str(path),))
    )
    return status


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("labels", "a: 1\nb: 2 <&>\n"),
        ("deffile", "Bootstrap: scratch\n"),
        ("runscript", "#!/bin/sh\necho run\n"),
        ("startscript", "#!/bin/sh\necho start\n"),
        ("test", "#!/bin/sh\necho test\n"),
        ("helpfile", "How to use it\n"),
        ("environment", "=== /.singularity.d/env/90-environment.sh ===\n#!/bin/sh\nexport A=1\n\n"),
        ("list_apps", "one\ntwo\n"),
    ],
)
def test_each_view_shows_its_part(
    image: Path, capfd: pytest.CaptureFixture[str], option: str, shown: str
) -> None:
    assert call("inspect", image, **{option: True}) == 0
    assert capfd.readouterr().out == shown


def test_labels_are_shown_where_nothing_is_chosen(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", image)
    assert capfd.readouterr().out == "a: 1\nb: 2 <&>\n"


def test_several_views_come_in_a_fixed_order(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", image, labels=True, deffile=True, helpfile=True)
    assert capfd.readouterr().out == "Bootstrap: scratch\nHow to use it\na: 1\nb: 2 <&>\n"


def test_the_views_of_an_app(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", image, app="one", runscript=True, environment=True, startscript=True)
    assert capfd.readouterr().out == (
        "#!/bin/sh\necho one\n=== /scif/apps/one/scif/env/90-environment.sh ===\nX=1\n\n"
    )
    call("inspect", image, app="two")
    assert capfd.readouterr().out == "SCIF_APP_NAME: two\n"


def test_json_holds_only_what_was_asked_for(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", image, json=True)
    assert capfd.readouterr().out == (
        '{\n\t"data": {\n\t\t"attributes": {\n\t\t\t"labels": {\n\t\t\t\t"a": "1",\n'
        '\t\t\t\t"b": "2 \\u003c\\u0026\\u003e"\n\t\t\t}\n\t\t}\n\t},\n\t"type": "container"\n}\n'
    )
    call("inspect", image, json=True, app="one", helpfile=True)
    assert json.loads(capfd.readouterr().out)["data"]["attributes"] == {
        "apps": {"one": {"helpfile": "Help of one"}}
    }


def test_everything_is_json_and_no_app_is_left_out(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", image, all=True, app="one")
    shown = json.loads(capfd.readouterr().out)
    assert shown == inspection.to_json(DESCRIBED)
    assert list(shown["data"]["attributes"]) == [
        "apps",
        "environment",
        "labels",
        "runscript",
        "test",
        "helpfile",
        "deffile",
        "startscript",
    ]


def test_an_unknown_app_is_named_with_the_known_ones(image: Path) -> None:
    for name in ("inspect", "run_help"):
        with pytest.raises(SolitonError, match="no app `three`") as told:
            call(name, image, app="three")
        assert told.value.why == "its apps are `one`, `two`"
        assert told.value.status == 1


def test_the_help_of_an_image_and_of_an_app(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("run_help", image)
    assert capfd.readouterr().out == "How to use it\n"
    call("run_help", image, app="one")
    assert capfd.readouterr().out == "Help of one\n"
    call("run_help", image, app="two")
    assert "No help" in capfd.readouterr().out


def test_bytes_that_are_no_text_are_shown_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    command.write("caf\udce9\n")
    assert capfdbinary.readouterr().out == b"caf\xe9\n"


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    layout = plan_sif([generic_json("inspect-metadata.json", b"{")])
    with (tmp_path / "a.sif").open("wb+") as file:
        os.pwrite(file.fileno(), squashfs(), layout.partition_offset)
        finish(file.fileno(), layout, partition_size=4096, architecture="amd64", time=None)
    with pytest.raises(ImageError, match="about itself cannot be read"):
        call("inspect", tmp_path / "a.sif")


def test_apptainer_s_image_is_shown_as_apptainer_shows_it(
    foreign: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call("inspect", foreign / "plain.sif", json=True, all=True)
    assert capfdbinary.readouterr().out == (foreign / "plain.inspect.json").read_bytes()


def test_an_encrypted_image_still_says_what_it_is(foreign: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("inspect", foreign / "encrypted-pem.sif")
    assert "Maintainer: interop\n" in capfd.readouterr().out
