"""Capabilities by name (capabilities(7))."""

from __future__ import annotations

from soliton.errors import SolitonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)


def named(words: Sequence[str]) -> frozenset[str]:
    """What the words of `--add-caps` and `--drop-caps` name; `CAP_` may be left out, `all` is every one."""
    upper = {word.strip().upper() for word in words} - {""}
    full = {word if word.startswith("CAP_") else f"CAP_{word}" for word in upper - {"ALL"}}
    for name in sorted(full - set(NAMES)):
        raise SolitonError(f"`{name}` is not a capability", remedy="see capabilities(7) for their names")
    return frozenset(NAMES) if "ALL" in upper else frozenset(full)


def kept(base: Sequence[str], *, added: Sequence[str], dropped: Sequence[str]) -> tuple[str, ...]:
    """The base without what is dropped and with what is added, in the kernel's order. Raises SolitonError."""
    result = set(base) - named(dropped) | named(added)
    return tuple(name for name in NAMES if name in result)
