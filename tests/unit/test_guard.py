"""What of the host's Python, R, Perl and conda stays out, and what everybody can do about it."""

from __future__ import annotations

from typing import Any

import pytest

from soliton.launch import guard
from soliton.site.config import Config
from tests.unit.compiled import plan_for

QUIET = {"PYTHONNOUSERSITE": "1", "R_LIBS_USER": "NULL"}


def host(
    line: str = "exec IMAGE x", program: str = "soliton", config: Any = None, **variables: str
) -> dict[str, str]:
    found = dict(plan_for(line, variables, program=program, config=config).process.environment.host)
    del found["PATH"]
    return found


def test_packages_in_the_home_directory_are_not_the_container_s() -> None:
    assert host() == QUIET
    assert host(PYTHONNOUSERSITE="", R_LIBS_USER="rel") == {"PYTHONNOUSERSITE": "", "R_LIBS_USER": "rel"}
    for line in ("--no-home", "--contain", "--no-mount home"):
        assert host(f"exec {line} IMAGE x") == {}


@pytest.mark.parametrize("name", guard.ACTIVATION)
def test_what_was_activated_on_the_host_stays_there(name: str) -> None:
    assert name not in host(**{name: "/home/ada/x"})
    assert host("exec --no-guard IMAGE x", **{name: "v"}) == {name: "v"}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/opt/host/lib", None),
        ("/home/ada/lib", "/home/ada/lib"),
        ("/opt/host/lib:/home/ada/lib:rel", "/home/ada/lib:rel"),
        ("/home/adam/lib", None),
        ("/data/x", "/data/x"),
        ("/tmp/x::", "/tmp/x::"),
        ("/opt/x:", None),
        ("rel", "rel"),
    ],
)
@pytest.mark.parametrize("name", ["PYTHONPATH", "PERL5LIB", "R_LIBS", "SSL_CERT_FILE", "LD_PRELOAD"])
def test_of_search_paths_stays_what_the_container_can_see(name: str, value: str, kept: str | None) -> None:
    assert host("exec -B /src:/data IMAGE x", **{name: value}).get(name) == kept


def test_local_lib_of_perl_holds_modules_of_the_host_s() -> None:
    assert "PERL5LIB" not in host(PERL5LIB="/home/ada/perl5/lib", PERL_LOCAL_LIB_ROOT="/home/ada/perl5")


def test_under_the_names_of_the_peers_everything_passes_unless_the_site_wants_otherwise() -> None:
    given = {"PYTHONPATH": "/opt/x", "CONDA_PREFIX": "/opt/c"}
    for program in ("apptainer", "singularity"):
        assert host(program=program, **given) == given
        assert host(program=program, config=Config(guard="always"), **given) == QUIET
    assert host(config=Config(guard="never"), **given) == given
    assert host("exec --no-guard IMAGE x", **given) == given
    assert host(SOLITON_NO_GUARD="1", **given) == given


def test_what_is_meant_for_the_container_is_not_touched() -> None:
    environment = plan_for(
        "exec --env PYTHONPATH=/opt/x IMAGE x", {"SOLITONENV_CONDA_PREFIX": "/c", "PYTHONPATH": "/opt/y"}
    ).process.environment
    assert environment.injected == {"PYTHONPATH": "/opt/x", "CONDA_PREFIX": "/c"}
    assert "PYTHONPATH" not in environment.host
    assert host("exec --no-env PYTHONPATH IMAGE x", PYTHONPATH="/opt/x:/tmp/y") == QUIET


def test_one_line_tells_it() -> None:
    changed = dict.fromkeys(["F", "A", "B", "C", "D"])
    line = guard.told(changed)
    assert (
        line.startswith("A, B, C, D and 1 more of the host") and "`--no-guard`" in line and "\n" not in line
    )
