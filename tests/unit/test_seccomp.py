"""Seccomp profiles: what the compiled program says of a call, judged by the rules of classic BPF, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from soliton.errors import SolitonError
from soliton.launch.seccomp import compile_profile

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026


def compiled(
    profile: Any, *, machine: str = "x86_64", release: str = "6.1.0-9-amd64", caps: tuple[str, ...] = ()
) -> Any:
    text = profile if isinstance(profile, str) else json.dumps(profile)
    return compile_profile(text, name="p.json", machine=machine, release=release, capabilities=caps)


def verdict(program: tuple[int, ...], number: int, *arguments: int, abi: int = X86_64) -> int:
    """What the kernel would do: an interpreter of the instructions in use."""
    data = {0: number, 4: abi}
    for index, value in enumerate(arguments):
        data[16 + 8 * index], data[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    at = value = 0
    while True:
        word = program[at]
        code, jt, jf, k = word >> 48, word >> 40 & 255, word >> 32 & 255, word & 0xFFFFFFFF
        at += 1
        if code == 0x20:
            value = data.get(k, 0)
        elif code == 0x54:
            value &= k
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k}[code]
            at += jt if holds else jf


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": names, "action": action, **more}


def test_what_is_listed_is_allowed_and_the_rest_is_not() -> None:
    program = compiled(
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read", "write", "openat", "mkdir")]}
    )
    allowed = {number for number in range(500) if verdict(program, number) == ALLOW}
    assert allowed == {0, 1, 257, 83}
    assert verdict(program, 2) == EPERM


def test_the_other_abi_has_numbers_of_its_own_and_unnamed_ones_are_ended() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("mkdir")]}
    assert verdict(compiled(profile), 39, abi=X86) == ALLOW
    assert verdict(compiled(profile), 83, abi=X86) == EPERM
    only = compiled({**profile, "architectures": ["SCMP_ARCH_X86_64"]})
    assert verdict(only, 39, abi=X86) == KILL
    assert verdict(only, 83 | 0x40000000) == ENOSYS
    assert verdict(compiled(profile, machine="aarch64"), 34, abi=AARCH64) == EPERM


@pytest.mark.parametrize(
    ("operation", "value", "two", "yes", "no"),
    [
        ("EQ", 5, 0, [5], [4, 6, 5 + (1 << 32)]),
        ("NE", 5, 0, [4, 6, 5 + (1 << 32)], [5]),
        ("GT", 1 << 32, 0, [(1 << 32) + 1, 1 << 33], [0, 1 << 32, (1 << 32) - 1]),
        ("GE", 1 << 32, 0, [1 << 32, (1 << 32) + 1, 1 << 33], [0, (1 << 32) - 1]),
        ("LT", 1 << 32, 0, [0, (1 << 32) - 1], [1 << 32, (1 << 32) + 1, 1 << 33]),
        ("LE", 1 << 32, 0, [0, (1 << 32) - 1, 1 << 32], [(1 << 32) + 1, 1 << 33]),
        (
            "MASKED_EQ",
            0xF00000000F,
            0x1000000002,
            [0x1000000002, 0x10000000F2],
            [2, 0x2000000002, 0x1000000003],
        ),
    ],
)
def test_conditions(operation: str, value: int, two: int, yes: list[int], no: list[int]) -> None:
    one = {"index": 1, "op": f"SCMP_CMP_{operation}", "value": value, "valueTwo": two}
    also = {"index": 0, "op": "SCMP_CMP_EQ", "value": 7}
    for extra, first in (([], 0), ([also], 7)):
        program = compiled(
            {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("personality", args=[one, *extra])]}
        )
        assert [argument for argument in yes + no if verdict(program, 135, first, argument) == ALLOW] == yes
        if extra:
            assert all(verdict(program, 135, 8, argument) == EPERM for argument in yes)


def test_conditions_on_one_argument_are_alternatives_and_rules_are_tried_in_turn() -> None:
    either = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (0, 8)]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [rule("personality", args=either), rule("personality", action="SCMP_ACT_KILL_PROCESS")],
    }
    program = compiled(profile)
    assert [verdict(program, 135, value) for value in (0, 8, 1)] == [ALLOW, ALLOW, KILL]


def test_rules_for_other_capabilities_machines_and_kernels_do_not_count() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            rule("mount", includes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("clone3", action="SCMP_ACT_ERRNO", errnoRet=1, excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("ptrace", includes={"minKernel": "4.8"}),
            rule("reboot", includes={"minKernel": "7.0"}),
            rule("bpf", includes={"arches": ["arm64"]}),
            rule("acct", excludes={"arches": ["amd64"]}),
        ],
    }
    plain, mighty = compiled(profile), compiled(profile, caps=("CAP_SYS_ADMIN",))
    assert [verdict(plain, n) for n in (165, 435, 101, 169, 321, 163)] == [
        ENOSYS,
        EPERM,
        ALLOW,
        ENOSYS,
        ENOSYS,
        ENOSYS,
    ]
    assert [verdict(mighty, n) for n in (165, 435)] == [ALLOW, ENOSYS]


def test_a_large_profile_fits_and_every_number_has_its_verdict() -> None:
    from soliton.launch.seccomp import _table

    table = _table()
    names = [name for name in sorted(table) if sum(map(ord, name)) % 2]
    program = compiled({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule(*names)]})
    for abi, column in ((X86_64, "x86_64"), (X86, "x86")):
        allowed = {table[name][column] for name in names if column in table[name]}
        assert {number for number in range(1000) if verdict(program, number, abi=abi) == ALLOW} == allowed


GOOD = {"defaultAction": "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("{", "it is not JSON"),
        ("[" * 100000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ({}, "`defaultAction` is null"),
        ({"defaultAction": "ALLOW"}, '`defaultAction` is "ALLOW"'),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "needs a supervisor"),
        ({**GOOD, "listenerPath": "/s"}, "`listenerPath` needs a supervisor"),
        ({**GOOD, "defaultErrnoRet": 5000}, "`defaultErrnoRet` is larger"),
        ({**GOOD, "defaultErrnoRet": -1}, "`defaultErrnoRet` is not a number"),
        ({**GOOD, "syscalls": {}}, "`syscalls` is not a list"),
        ({**GOOD, "syscalls": [3]}, "`syscalls[0]` is not an object"),
        ({**GOOD, "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, "`syscalls[0]` names no system call"),
        ({**GOOD, "syscalls": [{"names": [1], "action": "SCMP_ACT_ALLOW"}]}, "`syscalls[0].names` is not"),
        ({**GOOD, "syscalls": [{"names": ["read"]}]}, "`syscalls[0].action` is null"),
        ({**GOOD, "syscalls": [rule("read", args=[{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}])]}, "args[0].index` is 6"),
        ({**GOOD, "syscalls": [rule("read", args=[{"index": 0, "op": "EQ", "value": 1}])]}, 'args[0].op` is "EQ"'),
        ({**GOOD, "syscalls": [rule("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}])]}, "64 bits"),
        ({**GOOD, "syscalls": [rule("read", includes={"minKernel": "new"})]}, "minKernel` is not a version"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("raed", action="SCMP_ACT_ERRNO")]}, "forbids `raed`"),
        ({**GOOD, "archMap": [{}]}, "`archMap[0]` has no architecture"),
    ],
)  # fmt: skip
def test_a_profile_that_makes_no_sense_is_refused_with_the_place(profile: Any, why: str) -> None:
    with pytest.raises(SolitonError) as caught:
        compiled(profile)
    assert caught.value.what == "the seccomp profile `p.json` cannot be used"
    assert why in (caught.value.why or "")


def test_a_profile_that_is_too_long_is_refused() -> None:
    many = [
        rule("personality", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": number}])
        for number in range(3000)
    ]
    with pytest.raises(SolitonError) as caught:
        compiled({**GOOD, "syscalls": many})
    assert "the kernel takes 4096" in (caught.value.why or "")
