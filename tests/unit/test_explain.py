"""`--explain`: every part of a plan with the flag, variable, directive or default that asks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import pytest

from soliton.api.explain import Explanation, explanation
from soliton.cli.action import request_of
from soliton.cli.explain import lines
from soliton.cli.parser import parse
from soliton.images.detect import Image
from soliton.launch.compile import compile as compile_plan
from soliton.record import replace
from soliton.site.config import Config, Settings
from tests.unit.compiled import CALLER, IMAGE

SCRIPTS = {
    "90-environment.sh": 'export GREETING="hello"\nX=1\n# Y=2\n',
    "99-base.sh": "export GREETING=bye\n",
}


def explained(
    line: str,
    variables: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    lacking: frozenset[str] = frozenset(),
) -> Explanation:
    settings = settings or Settings()
    invocation = parse("soliton", line.split(), variables or {})
    request = request_of("exec", invocation)
    host = replace(CALLER, environment=variables or {})
    plan = compile_plan(request, IMAGE, IMAGE.path, settings.config, host)
    image = Image(IMAGE.path, "sif", IMAGE, os.stat("/"))
    return explanation(request, image, plan, host, settings, SCRIPTS, lacking)


def because(found: Explanation, target: str) -> str:
    (reason,) = {mount.because for mount in found.mounts if mount.target == target}
    return reason


@pytest.mark.parametrize(
    ("line", "variables", "target", "reason"),
    [
        ("", {}, "/proc", "mount-proc, the default"),
        ("", {}, "/home/ada", "mount-home, the default"),
        ("", {}, "/etc/resolv.conf", "config-resolv-conf, the default"),
        ("", {}, "/scratch/job", "current directory, the default"),
        ("-B /data", {}, "/data", "--bind"),
        ("", {"APPTAINER_BINDPATH": "/data"}, "/data", "APPTAINER_BINDPATH"),
        ("--mount type=bind,src=/a,dst=/b", {}, "/b", "--mount"),
        ("-c", {}, "/tmp", "--contain"),
        ("", {"SINGULARITY_CONTAIN": "1"}, "/tmp", "SINGULARITY_CONTAIN"),
        ("-C", {}, "/tmp", "--contain, by --containall"),
        ("", {"SOLITON_COMPAT": "1"}, "/tmp", "--contain, by SOLITON_COMPAT"),
        ("-H /h:/i", {}, "/i", "--home"),
        ("", {"APPTAINER_HOME": "/h:/i"}, "/i", "APPTAINER_HOME"),
        ("--scratch /s", {}, "/s", "--scratch"),
        ("--dns 1.1.1.1", {}, "/etc/resolv.conf", "--dns"),
        ("--hostname h", {}, "/etc/hostname", "--hostname"),
    ],
)  # fmt: skip
def test_every_mount_has_its_reason(line: str, variables: dict[str, str], target: str, reason: str) -> None:
    assert because(explained(f"exec {line} IMAGE x", variables), target) == reason


def test_a_directive_is_told_with_its_file_and_line() -> None:
    settings = Settings(
        Config(mount_dev="minimal", bind_path=("/etc/hosts", "/sw:/opt/sw")),
        origins={"mount-dev": ("/etc/soliton.toml:3",), "bind-path": ("default", "/etc/soliton.toml:4")},
    )
    found = explained("exec IMAGE x", settings=settings)
    assert because(found, "/dev") == "mount-dev (/etc/soliton.toml:3)"
    assert because(found, "/etc/hosts") == "bind-path, the default"
    assert because(found, "/opt/sw") == "bind-path (/etc/soliton.toml:4)"


def test_no_mount_goes_without_a_reason() -> None:
    found = explained("exec -C -B /a -S /s --dns 1.1.1.1 --hostname h --writable-tmpfs IMAGE x")
    assert all(mount.because for mount in found.mounts)
    assert dict(found.namespaces)["pid"] == "--pid, by --containall"
    assert dict(found.namespaces)["uts"] == "--uts, by --hostname"
    assert "64 MiB" in found.root and "--writable-tmpfs" in found.root


def test_every_variable_has_its_reason() -> None:
    given = {
        "LANG": "de_DE.UTF-8",
        "GREETING": "host",
        "APPTAINERENV_A": "$HOME",
        "SOLITON_CACHEDIR": "/c",
        "CONDA_PREFIX": "/opt/c",
        "PYTHONPATH": "/opt/x:/tmp/y",
        "HOME": "/home/ada",
        "SECRET": "s",
    }
    found = explained("exec --env B=2 --no-env SECRET IMAGE x", given)
    reasons = {variable.name: (variable.value, variable.because) for variable in found.environment}
    assert reasons["LANG"] == ("de_DE.UTF-8", "your environment")
    assert reasons["GREETING"] == (None, "the image, 99-base.sh: bye")
    assert reasons["X"] == (None, "the image, 90-environment.sh: 1")
    assert "Y" not in reasons
    assert reasons["A"] == ("$HOME", "APPTAINERENV_A, evaluated inside")
    assert reasons["B"] == ("2", "--env")
    assert reasons["HOME"] == ("/home/ada", "soliton")
    assert reasons["PYTHONPATH"] == ("/tmp/y", "your environment, what of it the container can see (guard)")
    assert reasons["PYTHONNOUSERSITE"] == ("1", "guard (guard, the default)")
    assert dict(found.left_out) == {
        "APPTAINERENV_A": "it steers soliton",
        "SOLITON_CACHEDIR": "it steers soliton",
        "CONDA_PREFIX": "guard",
        "SECRET": "--no-env",
    }
    (lang,) = (v for v in explained("exec -e IMAGE x", given).environment if v.name == "LANG")
    assert (lang.value, lang.because) == ("C", "--cleanenv")


def test_a_locale_that_the_image_lacks_is_told_where_it_would_have_passed() -> None:
    given = {"LANG": "de_DE.UTF-8", "LC_TIME": "fr_FR.UTF-8", "LC_ALL": "de_DE.UTF-8"}
    for line, variables, replaced in (
        ("", {}, {"LANG", "LC_ALL"}),
        ("--env LANG=de_DE.UTF-8", {}, {"LC_ALL"}),
        ("", {"SOLITONENV_LC_ALL": "de_DE.UTF-8"}, {"LANG"}),
        ("--no-guard", {}, set()),
    ):
        found = explained(f"exec {line} IMAGE x", {**given, **variables}, lacking=frozenset({"de_DE.UTF-8"}))
        told = {v.name: v for v in found.environment if "lacks the locale de_DE.UTF-8" in v.because}
        assert told.keys() == replaced, line
        assert all(variable.value == "C.UTF-8" for variable in told.values())


@pytest.mark.parametrize(
    ("line", "variables", "told"),
    [
        ("", {}, "0027: your own"),
        ("--umask 7", {}, "0007 (--umask)"),
        ("", {"APPTAINER_UMASK": "7"}, "0007 (APPTAINER_UMASK)"),
        ("--compat", {}, "0022 (--no-umask, by --compat)"),
        ("--no-umask", {"SOLITON_UMASK": "7"}, "0022 (--no-umask)"),
    ],
)
def test_the_umask_has_its_reason(line: str, variables: dict[str, str], told: str) -> None:
    found = explained(f"exec {line} IMAGE x", variables)
    assert found.umask == told
    assert f"Umask       {told}" in lines(found)


def test_it_is_text_for_people_and_json_for_programs() -> None:
    found = explained("exec -B /a IMAGE x")
    text = "\n".join(lines(found))
    assert "\n  /a " in text and "--bind" in text
    assert json.loads(json.dumps(found.plan))["process"]["argv"] == ["x"]
