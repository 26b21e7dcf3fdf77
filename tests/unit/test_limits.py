"""Limits of resources as files of a control group: a table of what is asked for and what is written."""

from __future__ import annotations

from typing import Any

import pytest

from soliton.errors import SolitonError
from soliton.launch.limits import Asked, compile_limits, cpu_weight, io_weight, size
from soliton.site import cgroups


def written(**asked: Any) -> list[tuple[str, str]]:
    settings = compile_limits(Asked(**asked), processors=8, devices={"/dev/sda": "8:0"})
    return [(setting.file, setting.value) for setting in settings]


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        ({}, []),
        ({"cpus": "1.5"}, [("cpu.max", "150000 100000")]),
        ({"cpus": "0.01"}, [("cpu.max", "1000 100000")]),
        ({"cpu_shares": 1024}, [("cpu.weight", "100")]),
        ({"cpuset_cpus": "0-3,5"}, [("cpuset.cpus", "0-3,5")]),
        ({"cpuset_mems": "0"}, [("cpuset.mems", "0")]),
        ({"memory": "512m"}, [("memory.max", "536870912")]),
        ({"memory_reservation": "1G"}, [("memory.low", "1073741824")]),
        (
            {"memory": "1g", "memory_swap": "3g"},
            [("memory.max", "1073741824"), ("memory.swap.max", "2147483648")],
        ),
        ({"memory": "1g", "memory_swap": "1g"}, [("memory.max", "1073741824"), ("memory.swap.max", "0")]),
        ({"memory_swap": "-1"}, [("memory.swap.max", "max")]),
        ({"pids_limit": 100}, [("pids.max", "100")]),
        ({"pids_limit": -1}, [("pids.max", "max")]),
        ({"blkio_weight": 500}, [("io.weight", "default 4950")]),
        ({"blkio_weight_device": ("/dev/sda:10",)}, [("io.weight", "8:0 1")]),
        ({"file": "[pids]\nlimit = 7\n", "pids_limit": 9}, [("pids.max", "9")]),
    ],
)
def test_options(asked: dict[str, Any], files: list[tuple[str, str]]) -> None:
    assert written(**asked) == files


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cpus": "0"}, "from 0.01 to 8"),
        ({"cpus": "9"}, "from 0.01 to 8"),
        ({"cpus": "nan"}, "from 0.01 to 8"),
        ({"cpu_shares": -7}, "2 to 262144"),
        ({"cpu_shares": 1 << 20}, "2 to 262144"),
        ({"cpuset_cpus": "3-1"}, "ranges"),
        ({"cpuset_cpus": "0;1"}, "ranges"),
        ({"memory": "much"}, "a size"),
        ({"memory": "-1"}, "a size"),
        ({"memory": "1e999"}, "a size"),
        ({"memory_swap": "1g"}, "with `--memory`"),
        ({"memory": "2g", "memory_swap": "1g"}, "no less"),
        ({"memory": "1g", "memory_reservation": "2g"}, "no more"),
        ({"oom_kill_disable": True}, "version 2"),
        ({"pids_limit": -2}, "number of processes"),
        ({"blkio_weight": 9}, "10 to 1000"),
        ({"blkio_weight_device": ("/dev/sda",)}, "DEVICE:WEIGHT"),
    ],
)
def test_options_that_make_no_sense(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SolitonError, match=words) as caught:
        written(**asked)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_ends_and_the_usual_values_of_weights_meet() -> None:
    assert [cpu_weight(shares, "") for shares in (2, 1024, 262144)] == [1, 100, 10000]
    assert [io_weight(weight, "") for weight in (10, 1000)] == [1, 10000]
    weights = [cpu_weight(shares, "") for shares in range(2, 5000)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("1b", 1),
        ("2k", 2048),
        ("2KB", 2048),
        ("1.5GiB", 1610612736),
        (" 3 m ", 3 << 20),
        ("1t", 1 << 40),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert size(text, "") == number


FILE = """
[cpu]
shares = 1024
quota = 50000
period = 200000
cpus = "0-1"
mems = "0"
[memory]
limit = 1000000
reservation = 500000
swap = 1500000
[blockIO]
weight = 1000
[[blockIO.weightDevice]]
major = 8
minor = 16
weight = 10
[[blockIO.throttleReadBpsDevice]]
major = 8
minor = 16
rate = 1048576
[pids]
limit = 5
[[hugepageLimits]]
pageSize = "2MB"
limit = 4194304
[rdma.mlx5_0]
hcaHandles = 2
[[devices]]
allow = true
access = "rwm"
[unified]
"memory.high" = "900000"
"""


def test_the_peers_file() -> None:
    assert written(file=FILE) == [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 200000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.max", "1000000"),
        ("memory.low", "500000"),
        ("memory.swap.max", "500000"),
        ("io.weight", "default 10000"),
        ("io.weight", "8:16 1"),
        ("io.max", "8:16 rbps=1048576"),
        ("pids.max", "5"),
        ("hugetlb.2MB.max", "4194304"),
        ("rdma.max", "mlx5_0 hca_handle=2"),
        ("memory.high", "900000"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cpu\n", "not TOML"),
        ("[cpu]\nshare = 1\n", "cpu.share"),
        ("[cpus]\n", "cpus"),
        ('[memory]\nlimit = "1g"\n', "whole number"),
        ("[memory]\nlimit = true\n", "whole number"),
        ("[memory]\nswappiness = 0\n", "version 2"),
        ("cpu = 3\n", "not a table"),
        ("[[devices]]\nallow = false\n", "needs privilege"),
        ('[unified]\n"../cgroup.procs" = "1"\n', "not a limit"),
        ('[unified]\n"cgroup.procs" = "1"\n', "not a limit"),
        ("hugepageLimits = [1]\n", "not a table"),
        ("[network]\nclassID = 1\n", "version 2"),
    ],
)
def test_a_file_that_makes_no_sense(text: str, words: str) -> None:
    with pytest.raises(SolitonError, match=words):
        written(file=text)


def test_a_site_may_keep_systemd_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cgroups, "look", lambda: cgroups.Here("/nowhere", "/"))

    def scope(name: str) -> bool:
        asked.append(name)
        return False

    monkeypatch.setattr(cgroups, "_scope", scope)
    monkeypatch.setattr(cgroups, "_of_version_1", set)
    for variable in cgroups._JOBS:
        monkeypatch.delenv(variable, raising=False)
    settings = compile_limits(Asked(memory="1G"), processors=1, devices={})
    with pytest.raises(SolitonError):
        cgroups.enter(settings, "one")
    assert asked == ["one"]
    with pytest.raises(SolitonError, match="`systemd-cgroups = false`"):
        cgroups.enter(settings, "two", by_systemd=False)
    assert asked == ["one"]
