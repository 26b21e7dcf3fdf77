"""What of a GPU's driver is on this machine: the files that a list names, and device nodes. Looks, changes nothing.

Programs of the host are run with an environment of ours and never with the image's or the caller's.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from soliton.site import elf
from soliton.site.host import program

#: Where a site keeps lists of its own.
_SITE = "/etc/soliton"
#: Where libraries are when there is no cache of the linker's (NixOS, WSL, Alpine).
_FOLDERS = (
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
    "/usr/lib64",
    "/usr/lib64/nvidia",
    f"/usr/lib/{os.uname().machine}-linux-gnu",
    f"/usr/lib/{os.uname().machine}-linux-gnu/nvidia/current",
    "/opt/rocm/lib",
    "/usr/lib",
    "/usr/local/lib",
)


@dataclass(frozen=True)
class Driver:
    """libraries: (name that programs look for, file). programs, files: absolute paths."""

    libraries: tuple[tuple[str, str], ...] = ()
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.libraries or self.programs or self.files)


def find(name: str, folder: str = _SITE) -> Driver:
    """What the list `name` names and this machine has."""
    site = Path(folder, name)
    if site.is_file():
        text = site.read_text("utf-8", errors="replace")
    else:
        from importlib.resources import files

        text = (files("soliton") / "data" / name).read_text("utf-8")
    words = [line.partition("#")[0].strip() for line in text.splitlines()]
    wanted = [word for word in words if word]
    libraries = _libraries([word for word in wanted if ".so" in word and "/" not in word])
    programs = [program(word) for word in wanted if ".so" not in word and "/" not in word]
    files_ = [word for word in wanted if word.startswith("/") and os.path.exists(word)]
    return Driver(tuple(libraries), tuple(path for path in programs if path), tuple(files_))


def _libraries(names: list[str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    if not names:
        return []
    machine = elf.own_machine()
    for name, path in _known():
        if any(name == wanted or name.startswith(f"{wanted}.") for wanted in names) and name not in found:
            library = elf.read(path)
            if library and (library.machine, library.bits) == machine:
                found[name] = path
    return sorted(found.items())


def _known() -> list[tuple[str, str]]:
    """Every library that the linker knows, as (name, file)."""
    known: list[tuple[str, str]] = []
    ldconfig = program("ldconfig")
    if ldconfig:
        try:
            done = subprocess.run(
                [ldconfig, "-p"],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0:
            for line in done.stdout.decode(errors="surrogateescape").splitlines():
                name, arrow, path = line.strip().partition(" => ")
                if arrow:
                    known.append((name.partition(" ")[0], path))
    for folder in _FOLDERS:
        try:
            known += [(name, f"{folder}/{name}") for name in sorted(os.listdir(folder)) if ".so" in name]
        except OSError:
            continue
    return known


def nvidia_devices(chosen: str | None) -> list[str]:
    """Device nodes of NVIDIA's. chosen: the value of NVIDIA_VISIBLE_DEVICES, None for all; indices or UUIDs."""
    common = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
    nodes = [f"/dev/{name}" for name in common] + _nodes("/dev/nvidia-caps", "nvidia-cap")
    cards = _nodes("/dev", "nvidia", numbered=True)
    if chosen in ("none", "void"):
        return []
    if chosen and chosen != "all":
        minors = _nvidia_minors()
        wanted = {minors.get(word.strip(), word.strip()) for word in chosen.split(",")}
        cards = [card for card in cards if card.removeprefix("/dev/nvidia") in wanted]
    return [node for node in (*cards, *nodes) if os.path.exists(node)]


def _nvidia_minors() -> dict[str, str]:
    """UUID → number of the device node, as the driver tells."""
    minors: dict[str, str] = {}
    try:
        for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            fields = {
                key.strip(): value.strip()
                for key, _, value in (line.partition(":") for line in information.read_text().splitlines())
            }
            if "GPU UUID" in fields and "Device Minor" in fields:
                minors[fields["GPU UUID"]] = fields["Device Minor"]
    except OSError:
        pass
    return minors


def amd_devices() -> list[str]:
    return [node for node in ("/dev/kfd", "/dev/dri") if os.path.exists(node)]


def gaudi_devices(chosen: str | None) -> list[str]:
    """Device nodes of Intel's Gaudi. chosen: the value of HABANA_VISIBLE_DEVICES."""
    nodes = _nodes("/dev/accel", "accel") + _nodes("/dev", "hl", numbered=True)
    if not chosen or chosen == "all":
        return nodes
    wanted = {word.strip() for word in chosen.split(",")}
    return [node for node in nodes if "".join(filter(str.isdigit, os.path.basename(node))) in wanted]


def _nodes(folder: str, prefix: str, *, numbered: bool = False) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        f"{folder}/{name}"
        for name in names
        if name.startswith(prefix) and (not numbered or name.removeprefix(prefix).isdigit())
    ]
