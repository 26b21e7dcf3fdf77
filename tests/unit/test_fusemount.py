"""`--fusemount` as a plan: who serves what, in which namespace, and what the site may forbid."""

from __future__ import annotations

import pytest

from soliton.errors import LaunchError, SolitonError
from soliton.launch.plan import FuseMount, Plan
from soliton.site.config import Config
from tests.unit.compiled import ROOT, plan_for


def served(plan: Plan) -> list[FuseMount]:
    return [mount for mount in plan.mounts if isinstance(mount, FuseMount)]


@pytest.mark.parametrize(
    ("kind", "host", "daemon"),
    [
        ("container", False, False),
        ("container-daemon", False, True),
        ("host", True, False),
        ("host-daemon", True, True),
    ],
)
def test_words_and_place(kind: str, host: bool, daemon: bool) -> None:
    plan = plan_for(
        ["exec", "--no-pid", "--fusemount", f"{kind}:sshfs a@b:/c  -o ro /srv//x/", "IMAGE", "true"]
    )
    assert served(plan) == [
        FuseMount(("sshfs", "a@b:/c", "-o", "ro"), "/srv/x", host, daemon, origin="--fusemount")
    ]
    # Without one a program inside would outlive the command.
    assert "pid" in plan.namespaces


def test_what_the_site_forbids_is_refused_but_to_root() -> None:
    words = ["exec", "--fusemount", "host:a /b", "IMAGE", "true"]
    closed = Config(enable_fusemount=False)
    with pytest.raises(LaunchError, match="`--fusemount` is not allowed here"):
        plan_for(words, config=closed)
    assert served(plan_for(words, config=closed, host=ROOT))


def test_a_shared_container_has_none() -> None:
    with pytest.raises(SolitonError, match="exclude each other"):
        plan_for(["exec", "--sharens", "--fusemount", "host:a /b", "IMAGE", "true"])
