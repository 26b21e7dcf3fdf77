"""Machine architectures under their four names: SIF code, OCI name, ELF header and `uname -m`.

The OCI name (`amd64`, `arm64`, …) is the one used everywhere else in the package. Tables and pure functions;
the only look at the machine is `host_architecture` and the binfmt_misc check of `runnable`.
"""

from __future__ import annotations

import os
import sys

from soliton.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

#: Two-digit codes of the SIF header and of partition descriptors.
SIF_CODES = {
    "386": "01",
    "amd64": "02",
    "arm": "03",
    "arm64": "04",
    "ppc64": "05",
    "ppc64le": "06",
    "mips": "07",
    "mipsle": "08",
    "mips64": "09",
    "mips64le": "10",
    "s390x": "11",
    "riscv64": "12",
    "loong64": "13",
}
_FROM_CODE = {code: name for name, code in SIF_CODES.items()}

UNKNOWN_CODE = "00"

#: OCI name → (ELF class: 1 for 32 bits, 2 for 64; data: 1 little-endian, 2 big; e_machine), see elf(5).
_ELF = {
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "ppc64": (2, 2, 21),
    "ppc64le": (2, 1, 21),
    "mips": (1, 2, 8),
    "mipsle": (1, 1, 8),
    "mips64": (2, 2, 8),
    "mips64le": (2, 1, 8),
    "s390x": (2, 2, 22),
    "riscv64": (2, 1, 243),
    "loong64": (2, 1, 258),
}
_FROM_ELF = {triple: name for name, triple in _ELF.items()}

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "ppc64": "ppc64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}

#: 32-bit programs that the kernel of a 64-bit machine runs as they are.
_COMPATIBLE = {"amd64": "386", "arm64": "arm", "ppc64": "ppc", "mips64": "mips", "mips64le": "mipsle"}


def from_sif_code(code: str) -> str | None:
    """OCI name for the code of a SIF, None for `00` and for codes nobody has given out."""
    return _FROM_CODE.get(code)


def sif_code(name: str | None) -> str:
    """Code for an OCI name, `00` where there is none."""
    return SIF_CODES.get(name or "", UNKNOWN_CODE)


def from_machine(machine: str) -> str:
    """OCI name for what `uname -m` says; an unknown machine keeps its own name."""
    if machine in _MACHINES:
        return _MACHINES[machine]
    if machine.startswith("arm"):
        return "arm"
    if len(machine) == 4 and machine[0] == "i" and machine.endswith("86"):
        return "386"
    if machine.startswith("mips"):
        return machine if sys.byteorder == "big" else f"{machine}le"
    return machine


def of_platform(text: str) -> tuple[str, str] | None:
    """(architecture, variant) of `linux/arm64/v8`, `linux/amd64` or `arm64`; None for what is no platform of Linux's."""
    parts = text.lower().split("/")
    if len(parts) > 1 and parts.pop(0) != "linux":
        return None
    name = parts[0] if parts[0] in SIF_CODES else from_machine(parts[0])
    if name not in SIF_CODES or len(parts) > 2:
        return None
    variant = parts[1] if len(parts) == 2 else ""
    return name, "" if (name, variant) in (("arm64", "v8"), ("amd64", "v1")) else variant


def host_architecture() -> str:
    """OCI name of this machine."""
    return from_machine(os.uname().machine)


def from_elf(head: bytes) -> str | None:
    """OCI name for a program from the first 20 bytes of its file, None if it is not ELF or not known."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    wide, data = head[4], head[5]
    if data not in (1, 2):
        return None
    machine = int.from_bytes(head[18:20], "little" if data == 1 else "big")
    return _FROM_ELF.get((wide, data, machine))


def elf_head(name: str) -> bytes | None:
    """The first 20 bytes of a static program for that architecture, as the kernel matches them."""
    if name not in _ELF:
        return None
    wide, data, machine = _ELF[name]
    order: Literal["little", "big"] = "little" if data == 1 else "big"
    return (
        b"\x7fELF" + bytes((wide, data, 1)) + bytes(9) + (2).to_bytes(2, order) + machine.to_bytes(2, order)
    )


def runnable(name: str, on: str | None = None) -> bool:
    """Whether programs of architecture `name` start on this machine (or on architecture `on`).

    Natively, as the 32-bit companion of a 64-bit machine, or by an emulator registered with binfmt_misc that
    the kernel holds open (flag F): only such a one is found from inside a container.
    """
    here = on or host_architecture()
    if name == here or _COMPATIBLE.get(here) == name:
        return True
    return on is None and _emulated(name, "/proc/sys/fs/binfmt_misc")


def require_runnable(name: str | None, image: str) -> None:
    """Raises ImageError unless programs of the image called `image`, made for `name`, start here. None is not known,
    and passes.
    """
    if name is None or runnable(name):
        return
    raise ImageError(
        f"`{image}` cannot run on this machine",
        why=f"it is made for {name}, and this machine is {host_architecture()}",
        remedy=f"get one for {host_architecture()}, or have an emulator for {name} registered with binfmt_misc (flag F)",
    )


def _emulated(name: str, folder: str) -> bool:
    head = elf_head(name)
    if head is None:
        return False
    try:
        entries = os.listdir(folder)
    except OSError:
        return False
    for entry in entries:
        if entry in ("register", "status"):
            continue
        try:
            with open(f"{folder}/{entry}", encoding="ascii", errors="replace") as file:
                text = file.read(4096)
        except OSError:
            continue
        if binfmt_entry_matches(text, head):
            return True
    return False


def binfmt_entry_matches(text: str, head: bytes) -> bool:
    """Whether an entry of binfmt_misc (its text as read from proc) takes files that begin with `head`."""
    lines = text.splitlines()
    if not lines or lines[0] != "enabled":
        return False
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    if "F" not in fields.get("flags:", "") or fields.get("offset", "0") != "0":
        return False
    try:
        magic = bytes.fromhex(fields.get("magic", ""))
        mask = bytes.fromhex(fields.get("mask", "")) or b"\xff" * len(magic)
    except ValueError:
        return False
    if not magic or len(magic) > len(head) or len(mask) != len(magic):
        return False
    return all((h ^ m) & k == 0 for h, m, k in zip(head, magic, mask, strict=False))


def is_static(program: bytes) -> bool:
    """Whether an ELF program is whole and has no interpreter (elf(5): no PT_INTERP among the program headers)."""
    if len(program) < 64 or program[:4] != b"\x7fELF":
        return False
    order = "little" if program[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(program[at : at + size], order)  # type: ignore[arg-type]

    wide = program[4] == 2
    table, entry, count = (
        (number(32, 8), number(54, 2), number(56, 2))
        if wide
        else (number(28, 4), number(42, 2), number(44, 2))
    )
    return all(number(table + index * entry, 4) != 3 for index in range(count))
