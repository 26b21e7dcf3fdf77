"""Programs of another architecture in the steps of a build: run as they are, by an emulator that the machine's administrator has
registered, or by one that the container registers for itself.

Since Linux 6.7 every user namespace may have a table of interpreters of its own (binfmt_misc), so nobody's privilege is needed: only
a static qemu of the host's.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from soliton.errors import BuildError
from soliton.images import architecture
from soliton.launch.plan import Emulator, Plan
from soliton.record import replace

#: OCI name → qemu's, where they differ.
_QEMU = {
    "386": "i386",
    "amd64": "x86_64",
    "arm64": "aarch64",
    "mipsle": "mipsel",
    "mips64le": "mips64el",
    "loong64": "loongarch64",
}
PACKAGE = "qemu-user-static"
#: The first kernel whose user namespaces have tables of their own.
_SINCE = (6, 7)


def furnished(plan: Plan, name: str, what: str, environment: Mapping[str, str]) -> Plan:
    """The plan of a step in an image for `name`, which may be empty. what: the image, for messages. Raises BuildError if programs for it cannot run here."""
    if not name or architecture.runnable(name):
        return plan
    program = find(name, environment)
    if program is None:
        raise BuildError(f"`{what}` cannot run on this machine", why=why_not(name), remedy=remedy())
    mount = Emulator(rule(name, program), origin=f"emulation of {name}")
    return replace(plan, mounts=(*plan.mounts, mount))


def possible(name: str, environment: Mapping[str, str]) -> bool:
    return architecture.runnable(name) or find(name, environment) is not None


def find(name: str, environment: Mapping[str, str]) -> str | None:
    """A static emulator of the host's for programs of an architecture, if this kernel lets a container have one."""
    if architecture.elf_head(name) is None or not has_tables(os.uname().release):
        return None
    qemu = f"qemu-{_QEMU.get(name, name)}"
    for word in (f"{qemu}-static", qemu):
        path = shutil.which(word, path=environment.get("PATH", os.defpath))
        if path is not None and _is_static(path):
            return os.path.realpath(path)
    return None


def has_tables(release: str) -> bool:
    """Whether this kernel has a table of interpreters for every user namespace."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return match is not None and (int(match[1]), int(match[2])) >= _SINCE


def why_not(name: str) -> str:
    here = architecture.host_architecture()
    return f"it is made for {name}, and this machine is {here} and has no emulator for {name}"


def remedy() -> str:
    if has_tables(os.uname().release):
        return f"have the Debian package {PACKAGE} installed, or build on such a machine"
    return (
        f"have one registered with binfmt_misc (flag F; Debian: {PACKAGE}), or build on such a machine: "
        f"only since Linux {_SINCE[0]}.{_SINCE[1]} a container can do that itself"
    )


def rule(name: str, program: str) -> str:
    """What is written to the table: programs and libraries for this architecture go to `program`, which is opened at once (F) and
    told by what name they were called (P).
    """
    head = architecture.elf_head(name)
    assert head is not None
    # Any ABI, and e_type both of programs at a fixed place and of others.
    kinds = b"\xfe\xff" if head[5] == 1 else b"\xff\xfe"
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + kinds + b"\xff\xff"
    end = next(mark for mark in ":|;!%\t" if mark not in program)
    fields = ("", f"soliton-{name}", "M", "", _escaped(head), _escaped(mask), program, "PF")
    return end.join(fields)


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def _is_static(path: str) -> bool:
    """What is not needs a loader, which the container has not."""
    try:
        with open(path, "rb") as file:
            return architecture.is_static(file.read(1 << 16))
    except OSError:
        return False
