"""`--security` and `--allow-setuid`: what a plan becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from soliton.errors import SolitonError
from soliton.launch import security
from soliton.launch.plan import GroupFile, IdRange, ImageRoot, Label, PasswdFile, Plan
from soliton.launch.request import ActionRequest
from soliton.record import replace
from soliton.site.host import Host, SubordinateIds
from tests.unit.compiled import CALLER, RANGES, ROOT, plan_for


def secured(
    *settings: str, line: str = "", host: Host = CALLER, ids: SubordinateIds | None = None, **flags: Any
) -> Plan:
    plan = plan_for(f"exec {line} IMAGE x", host=host, subordinate=ids)
    request = ActionRequest("exec", "IMAGE", security=settings, **flags)
    return security.secured(plan, request, host, ids, None)


def test_another_user_is_a_subordinate_one_without_capabilities() -> None:
    plan = secured("uid:1001", "gid:7:8", ids=RANGES)
    assert (plan.identity.uid, plan.identity.gid, plan.identity.groups) == (1001, 7, (7, 8))
    assert plan.identity.uid_map == (IdRange(0, 1000, 1), IdRange(1, 100000, 65536))
    assert plan.process.capabilities == "none"
    assert isinstance(plan.root, ImageRoot)
    assert plan.root.ids == "stored"
    assert not [mount for mount in plan.mounts if isinstance(mount, (PasswdFile, GroupFile))]


def test_a_group_alone_leaves_the_user_who_they_are() -> None:
    plan = secured("gid:7", ids=RANGES)
    assert (plan.identity.uid, plan.identity.gid, plan.identity.groups) == (1000, 7, (7,))
    assert plan.identity.uid_map == (
        IdRange(0, 100000, 1000),
        IdRange(1000, 1000, 1),
        IdRange(1001, 101000, 64536),
    )
    assert plan.identity.gid_map == (
        IdRange(0, 200000, 100),
        IdRange(100, 100, 1),
        IdRange(101, 200100, 65436),
    )
    (line,) = [mount for mount in plan.mounts if isinstance(mount, PasswdFile)]
    assert (line.uid, line.gid) == (1000, 7)
    assert not [mount for mount in plan.mounts if isinstance(mount, GroupFile)]
    assert secured("gid:7", host=ROOT).identity.uid == 0
    assert secured("gid:7", line="--fakeroot", ids=RANGES, fakeroot=True).identity.uid == 0


def test_a_caller_beyond_the_range_is_beside_it() -> None:
    plan = secured("gid:7", ids=RANGES, host=replace(CALLER, uid=5_000_000))
    assert plan.identity.uid_map == (IdRange(0, 100000, 65536), IdRange(5_000_000, 5_000_000, 1))


def test_groups_that_are_kept_are_not_set() -> None:
    with pytest.raises(SolitonError, match="`--no-setgroups` and `--security uid:` or `gid:` exclude"):
        secured("gid:7", line="--fakeroot --no-setgroups", ids=RANGES, fakeroot=True)


def test_root_becomes_anybody() -> None:
    plan = secured("uid:1001", "gid:7", host=ROOT)
    assert (plan.identity.uid, plan.identity.gid, plan.identity.uid_map) == (1001, 7, ())
    assert plan.process.capabilities == "none"


def test_the_callers_own_ids_need_nothing() -> None:
    assert secured("uid:1000", "gid:100").identity == plan_for().identity


def test_labels_are_passed_on() -> None:
    assert secured("apparmor:unconfined").process.label == Label("apparmor", "unconfined")
    assert secured("selinux:system_u:system_r:t:s0:c1,c2").process.label == Label(
        "selinux", "system_u:system_r:t:s0:c1,c2"
    )


def test_setuid_programs_for_root_and_for_a_root_of_many_ids() -> None:
    assert not secured(host=ROOT, allow_setuid=True).process.no_new_privs
    assert not secured(line="--fakeroot", ids=RANGES, allow_setuid=True).process.no_new_privs
    with pytest.raises(SolitonError, match="`--allow-setuid` needs root"):
        secured(allow_setuid=True)
    with pytest.raises(SolitonError, match="`--allow-setuid` needs root"):
        secured(line="--fakeroot", allow_setuid=True)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (("uid:1001",), "`--security uid:` and `gid:` need subordinate ids"),
        (("gid:5",), "`--security uid:` and `gid:` need subordinate ids"),
        (("uid",), "`uid` of `--security` is not known"),
        (("uid:",), "`uid:` of `--security` is not known"),
        (("capability:x",), "`capability:x` of `--security` is not known"),
        (("uid:ada",), "`uid:ada` of `--security` is not a number"),
        (("uid:-1",), "`uid:-1` of `--security` is not a number"),
        (("uid:4294967295",), "`uid:4294967295` of `--security` is not a number"),
        (("uid:1:2",), "`uid:1:2` of `--security` is more than one user"),
        (("uid:1", "uid:2"), "`--security uid:` is given twice"),
        (("selinux:a", "apparmor:b"), "`--security selinux:` and `apparmor:` exclude"),
        (("apparmor:a b",), "`a b` of `--security` is not a label"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: tuple[str, ...], what: str) -> None:
    with pytest.raises(SolitonError) as caught:
        secured(*settings)
    assert caught.value.what.startswith(what)


def test_an_id_beyond_the_range_is_refused() -> None:
    with pytest.raises(SolitonError, match="the id 70000 of `--security` is beyond"):
        secured("uid:70000", ids=RANGES)
