"""`hello://`: a container made from nothing but this file, as the first check of any machine.

Its only program is a few dozen bytes of machine code around a greeting, put together here: write(2), exit(2).
"""

from __future__ import annotations

import io
import os
import struct
import tarfile

from soliton.errors import NotSupported

GREETING = (
    b"Hello from inside a container.\n"
    b"That you read this means: user namespaces, image mounts and the file system view all work here.\n"
)

#: What every container gets lines or contents of the host in.
_FILES = (
    ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/hello\n"),
    ("etc/group", 0o644, b"root:x:0:\n"),
    ("etc/hosts", 0o644, b""),
    ("etc/resolv.conf", 0o644, b""),
    ("etc/localtime", 0o644, b""),
)

_BASE = 0x400000
_HEADERS = 64 + 56


def program(machine: str, text: bytes) -> bytes:
    """A static ELF executable for `machine` (as uname(2) has it) that prints `text` and ends with status 0.

    Raises NotSupported for machines it does not know.
    """
    if machine == "x86_64":
        elf_machine = 62
        size = 37
        address = _BASE + _HEADERS + size
        code = b"".join(
            (
                b"\xb8\x01\x00\x00\x00",  # mov eax, 1 (write)
                b"\xbf\x01\x00\x00\x00",  # mov edi, 1
                b"\xbe" + struct.pack("<I", address),  # mov esi, text
                b"\xba" + struct.pack("<I", len(text)),  # mov edx, length
                b"\x0f\x05",  # syscall
                b"\xb8\x3c\x00\x00\x00",  # mov eax, 60 (exit)
                b"\x31\xff",  # xor edi, edi
                b"\x0f\x05",  # syscall
            )
        ).ljust(size, b"\x90")
    elif machine == "aarch64":
        elf_machine = 183
        address = _BASE + _HEADERS + 40

        def mov(register: int, value: int, half: int = 0) -> bytes:
            base = 0xF2800000 if half else 0xD2800000
            return struct.pack("<I", base | half << 21 | (value & 0xFFFF) << 5 | register)

        code = b"".join(
            (
                mov(8, 64),  # write
                mov(0, 1),
                mov(1, address & 0xFFFF),
                mov(1, address >> 16, 1),
                mov(2, len(text)),
                b"\x01\x00\x00\xd4",  # svc 0
                mov(8, 93),  # exit
                mov(0, 0),
                b"\x01\x00\x00\xd4",
                b"\x1f\x20\x03\xd5",  # nop
            )
        )
    else:
        raise NotSupported(f"`hello://` on {machine}")
    total = _HEADERS + len(code) + len(text)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        elf_machine,
        1,
        _BASE + _HEADERS,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, total, total, 0x1000)
    return header + segment + code + text


def layer(machine: str) -> bytes:
    """The whole image, as an uncompressed tar layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = ("bin", "dev", "etc", "home", "proc", "sys", "tmp", "var", "var/tmp", ".singularity.d")
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        content = program(machine, GREETING)
        files = (("bin/hello", 0o755, content), (".singularity.d/runscript", 0o755, content), *_FILES)
        for name, mode, data in files:
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make(directory: str) -> str:
    """The image as a file in `directory`, made if it is not there yet; its path."""
    from soliton import core

    machine = os.uname().machine
    path = os.path.join(directory, f"hello-2-{machine}.squashfs")
    if os.path.exists(path):
        return path
    data = layer(machine)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    tar = os.memfd_create("hello")
    try:
        os.write(tar, data)
        os.lseek(tar, 0, os.SEEK_SET)
        out = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            request = {"layers": [{"kind": "tar", "fd": tar}], "output": {"fd": out, "offset": 0}, "epoch": 0}
            core.converse("squash", request, pass_fds=(tar, out))
        finally:
            os.close(out)
        os.rename(partial, path)
    finally:
        os.close(tar)
        if os.path.exists(partial):
            os.unlink(partial)
    return path
