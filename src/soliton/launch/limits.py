"""Limits of resources: options and the peers' TOML file → files of a control group (cgroup v2) and what to write there. Pure.

Values are those of the peers, which think in cgroup v1, and are converted as OCI runtimes convert them. What has no counterpart in
cgroup v2, or needs privilege, is an error: a limit that was asked for is never passed over.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soliton.errors import SolitonError

_PERIOD = 100_000
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class Asked:
    """The options, as given; None, 0 or empty is not given. file: text of `--apply-cgroups`."""

    cpus: str | None = None
    cpu_shares: int = -1
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    memory: str | None = None
    memory_reservation: str | None = None
    memory_swap: str | None = None
    oom_kill_disable: bool = False
    pids_limit: int = 0
    blkio_weight: int = 0
    blkio_weight_device: tuple[str, ...] = ()
    file: str | None = None


@dataclass(frozen=True)
class Setting:
    """One line for one file of the control group. origin: the option or key it comes from."""

    file: str
    value: str
    origin: str

    @property
    def controller(self) -> str:
        """What has to be delegated for this file to exist."""
        return self.file.partition(".")[0]


def compile_limits(
    asked: Asked, *, processors: int, devices: Mapping[str, str] | None = None
) -> tuple[Setting, ...]:
    """What is to be written, in order. devices: number (`8:0`) of each device named in `blkio_weight_device`.

    Raises SolitonError for values that make no sense or cannot be had.
    """
    settings: list[Setting] = []
    if asked.file is not None:
        settings += from_toml(asked.file)

    def add(file: str, value: str, origin: str) -> None:
        # An option beats the file.
        settings[:] = [one for one in settings if one.file != file or ":" in value]
        settings.append(Setting(file, value, origin))

    if asked.cpus:
        add("cpu.max", f"{round(_cpus(asked.cpus, processors) * _PERIOD)} {_PERIOD}", "--cpus")
    if asked.cpu_shares >= 0:
        if asked.cpu_shares:
            add("cpu.weight", str(cpu_weight(asked.cpu_shares, "--cpu-shares")), "--cpu-shares")
    elif asked.cpu_shares != -1:
        raise _wrong("--cpu-shares", asked.cpu_shares, "a number from 2 to 262144")
    for text, file, origin in (
        (asked.cpuset_cpus, "cpuset.cpus", "--cpuset-cpus"),
        (asked.cpuset_mems, "cpuset.mems", "--cpuset-mems"),
    ):
        if text:
            add(file, _set(text, origin), origin)
    memory = size(asked.memory, "--memory") if asked.memory else None
    if memory is not None:
        add("memory.max", str(memory), "--memory")
    if asked.memory_reservation:
        reservation = size(asked.memory_reservation, "--memory-reservation")
        if memory is not None and reservation > memory:
            raise _wrong("--memory-reservation", asked.memory_reservation, "no more than `--memory`")
        add("memory.low", str(reservation), "--memory-reservation")
    if asked.memory_swap:
        add("memory.swap.max", _swap(asked.memory_swap, memory, "--memory-swap"), "--memory-swap")
    if asked.oom_kill_disable:
        raise _not_in_v2("--oom-kill-disable")
    if asked.pids_limit:
        if asked.pids_limit < -1:
            raise _wrong("--pids-limit", asked.pids_limit, "a number of processes, or -1 for no limit")
        add("pids.max", "max" if asked.pids_limit == -1 else str(asked.pids_limit), "--pids-limit")
    if asked.blkio_weight:
        add("io.weight", f"default {io_weight(asked.blkio_weight, '--blkio-weight')}", "--blkio-weight")
    for text in asked.blkio_weight_device:
        device, colon, weight = text.rpartition(":")
        if not colon or not device or not weight.isascii() or not weight.isdigit():
            raise _wrong("--blkio-weight-device", text, "DEVICE:WEIGHT, as /dev/sda:200")
        number = (devices or {}).get(device, device)
        settings.append(
            Setting(
                "io.weight",
                f"{number} {io_weight(int(weight), '--blkio-weight-device')}",
                "--blkio-weight-device",
            )
        )
    return tuple(settings)


def _cpus(text: str, processors: int) -> float:
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0.01 <= cpus <= processors:
        raise _wrong("--cpus", text, f"a number from 0.01 to {processors}, the processors of this machine")
    return cpus


def cpu_weight(shares: int, origin: str) -> int:
    """Shares (2 to 262144, 1024 is usual) as a weight (1 to 10000, 100 is usual); usual values meet, and so do the ends."""
    if not 0 < shares <= 262144:
        raise _wrong(origin, shares, "a number from 2 to 262144")
    if shares <= 2:
        return 1
    log = math.log2(shares)
    return min(10000, math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34) - 1e-9))


def io_weight(weight: int, origin: str) -> int:
    """A weight of 10 to 1000 on the scale of 1 to 10000."""
    if not 10 <= weight <= 1000:
        raise _wrong(origin, weight, "a weight from 10 to 1000")
    return 1 + (weight - 10) * 9999 // 990


def size(text: str, origin: str) -> int:
    """Bytes: `512`, `512m`, `1.5GiB`; units are powers of 1024."""
    word = text.strip().lower()
    number = word.rstrip("bikmgtp ")
    unit = word[len(number) :].strip().removesuffix("ib").removesuffix("b")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if unit not in _UNITS or not 0 < value < 2**63 or not math.isfinite(value * 1024 ** _UNITS.get(unit, 0)):
        raise _wrong(origin, text, "a size, as 512m or 1.5G")
    return int(value * 1024 ** _UNITS[unit])


def _swap(text: str, memory: int | None, origin: str) -> str:
    """Memory and swap together, as v1 has it, become swap alone."""
    if text.strip() == "-1":
        return "max"
    total = size(text, origin)
    if memory is None:
        raise _wrong(origin, text, "given with `--memory`: it limits memory and swap together")
    if total < memory:
        raise _wrong(origin, text, "no less than the limit of memory: it limits memory and swap together")
    return str(total - memory)


def _set(text: str, origin: str) -> str:
    """A list of numbers and ranges, as `0-3,8`."""
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(number.isascii() and number.isdigit() for number in numbers) or (
            dash and int(first) > int(last)
        ):
            raise _wrong(origin, text, "a list of numbers and ranges, as 0-3,8")
    return text.replace(" ", "")


def _wrong(origin: str, value: object, expected: str) -> SolitonError:
    return SolitonError(f"`{value}` makes no sense for `{origin}`", why=f"it has to be {expected}")


def _not_in_v2(origin: str) -> SolitonError:
    return SolitonError(
        f"`{origin}` cannot be had",
        why="control groups of version 2 have no such setting",
        remedy="leave it out, or set a higher limit of memory",
    )


def from_toml(text: str) -> list[Setting]:
    """The peers' file: tables cpu, memory, blockIO, pids, hugepageLimits, rdma, devices, unified."""
    if len(text) > _LARGEST_FILE:
        raise SolitonError("the file of `--apply-cgroups` is too large")
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SolitonError("the file of `--apply-cgroups` is not TOML", why=str(error)) from None
    reader = _Reader(tables)
    settings = [
        *_cpu(reader.table("cpu")),
        *_memory(reader.table("memory")),
        *_block_io(reader.table("blockIO")),
    ]
    pids = reader.table("pids")
    if (limit := pids.integer("limit")) is not None:
        settings.append(Setting("pids.max", "max" if limit <= 0 else str(limit), "pids.limit"))
    pids.done()
    for entry in reader.tables("hugepageLimits"):
        page, limit = entry.text("pageSize"), entry.integer("limit")
        if page is None or limit is None:
            raise SolitonError("an entry of `hugepageLimits` lacks `pageSize` or `limit`")
        settings.append(Setting(f"hugetlb.{_plain(page)}.max", str(limit), "hugepageLimits"))
        entry.done()
    rdma = reader.table("rdma")
    for device in rdma.names():
        entry = rdma.table(device)
        handles, objects = entry.integer("hcaHandles"), entry.integer("hcaObjects")
        words = [f"hca_handle={handles}"] * (handles is not None) + [f"hca_object={objects}"] * (
            objects is not None
        )
        settings.append(Setting("rdma.max", " ".join([_plain(device), *words]), f"rdma.{device}"))
        entry.done()
    for entry in reader.tables("devices"):
        if not entry.flag("allow"):
            raise SolitonError(
                "`devices` of the control group file cannot be had",
                why="to forbid devices needs privilege",
                remedy="use `--contain`: then there are none but the harmless ones",
            )
    for key in reader.table("network").names():
        raise _not_in_v2(f"network.{key}")
    unified = reader.table("unified")
    for file in unified.names():
        settings.append(Setting(_plain(file), unified.text(file) or "", f"unified.{file}"))
    reader.done()
    return settings


def _plain(name: str) -> str:
    """A name that is one name of a file."""
    if not name or name.startswith((".", "cgroup.")) or not all(c.isalnum() or c in "._-" for c in name):
        raise SolitonError(f"`{name}` in the control group file is not a limit")
    return name


def _cpu(table: _Reader) -> Iterable[Setting]:
    shares, quota, period = table.integer("shares"), table.integer("quota"), table.integer("period")
    if shares:
        yield Setting("cpu.weight", str(cpu_weight(shares, "cpu.shares")), "cpu.shares")
    if quota is not None or period is not None:
        amount = "max" if quota is None or quota <= 0 else str(quota)
        yield Setting("cpu.max", f"{amount} {period or _PERIOD}", "cpu.quota")
    for key in ("realtimeRuntime", "realtimePeriod"):
        if table.integer(key) is not None:
            raise _not_in_v2(f"cpu.{key}")
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if text := table.text(key):
            yield Setting(file, _set(text, f"cpu.{key}"), f"cpu.{key}")
    table.done()


def _memory(table: _Reader) -> Iterable[Setting]:
    limit, reservation, swap = table.integer("limit"), table.integer("reservation"), table.integer("swap")
    if limit is not None:
        yield Setting("memory.max", "max" if limit < 0 else str(limit), "memory.limit")
    if reservation is not None:
        yield Setting("memory.low", "max" if reservation < 0 else str(reservation), "memory.reservation")
    if swap is not None:
        value = _swap(str(swap), limit if limit and limit > 0 else None, "memory.swap")
        yield Setting("memory.swap.max", value, "memory.swap")
    if table.flag("disableOOMKiller"):
        raise _not_in_v2("memory.disableOOMKiller")
    for key in ("kernel", "kernelTCP", "swappiness"):
        if table.integer(key) is not None:
            raise _not_in_v2(f"memory.{key}")
    table.done()


def _block_io(table: _Reader) -> Iterable[Setting]:
    if weight := table.integer("weight"):
        yield Setting("io.weight", f"default {io_weight(weight, 'blockIO.weight')}", "blockIO.weight")
    if table.integer("leafWeight"):
        raise _not_in_v2("blockIO.leafWeight")
    for entry in table.tables("weightDevice"):
        number, weight = entry.device(), entry.integer("weight")
        if entry.integer("leafWeight"):
            raise _not_in_v2("blockIO.weightDevice.leafWeight")
        if weight:
            value = f"{number} {io_weight(weight, 'blockIO.weightDevice')}"
            yield Setting("io.weight", value, "blockIO.weightDevice")
        entry.done()
    for key, word in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for entry in table.tables(key):
            yield Setting(
                "io.max", f"{entry.device()} {word}={entry.integer('rate') or 'max'}", f"blockIO.{key}"
            )
            entry.done()
    table.done()


class _Reader:
    """A table of the file: every key is asked for by its type, and one that nobody asked for is an error."""

    def __init__(self, values: Any, path: str = "") -> None:
        if not isinstance(values, dict):
            raise SolitonError(f"`{path}` in the control group file is not a table")
        self.values = values
        self.path = path
        self.asked: set[str] = set()

    def _get(self, key: str) -> Any:
        self.asked.add(key)
        return self.values.get(key)

    def _typed(self, key: str, kind: type, called: str) -> Any:
        value = self._get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise SolitonError(f"`{self.path}{key}` in the control group file is not {called}")
        return value

    def integer(self, key: str) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "a text")
        return value

    def flag(self, key: str) -> bool:
        return bool(self._typed(key, bool, "true or false"))

    def table(self, key: str) -> _Reader:
        value = self._get(key)
        return _Reader({} if value is None else value, f"{self.path}{key}.")

    def tables(self, key: str) -> list[_Reader]:
        entries = self._typed(key, list, "a list of tables") or []
        return [_Reader(entry, f"{self.path}{key}.") for entry in entries]

    def names(self) -> list[str]:
        self.asked |= set(self.values)
        return list(self.values)

    def device(self) -> str:
        return f"{self.integer('major') or 0}:{self.integer('minor') or 0}"

    def done(self) -> None:
        unknown = sorted(set(self.values) - self.asked)
        if unknown:
            raise SolitonError(f"`{self.path}{unknown[0]}` in the control group file is not known")
