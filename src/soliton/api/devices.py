"""GPUs and other devices in a plan: what `--nv`, `--rocm`, `--intel-hpu`, `--device` and `--containlibs` add to it."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from soliton import core, messages
from soliton.errors import SolitonError
from soliton.launch import nvidia
from soliton.launch.cdi import edits
from soliton.launch.plan import Bind, Plan, Root
from soliton.record import replace
from soliton.site import drivers, elf
from soliton.site.host import program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config

LIBRARIES = "/.singularity.d/libs"
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
#: Where an image's C library may be.
_LIBC = (
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/usr/lib64/libc.so.6",
    "/usr/lib/libc.so.6",
    "/lib/libc.so.6",
)
_LARGEST_LIBC = 16 << 20
_LARGEST_SPECIFICATION = 8 << 20


def furnished(plan: Plan, request: ActionRequest, config: Config, environment: Mapping[str, str]) -> Plan:
    """The plan with the devices that are asked for. environment: the caller's."""
    settled = request.settled()
    mounts: list[Bind] = []
    libraries: list[tuple[str, str]] = []
    for asked, always, never, flag, name in (
        (settled.nv, config.always_use_nv, request.no_nv, "nv", "nvliblist.conf"),
        (request.rocm, config.always_use_rocm, request.no_rocm, "rocm", "rocmliblist.conf"),
    ):
        if never or not (asked or always):
            continue
        if flag == "nv" and (request.nvccli or config.use_nvidia_container_cli):
            plan = nvidia.by_container_cli(
                plan,
                settled,
                config,
                environment,
                tool=program("nvidia-container-cli"),
                ldconfig=program("ldconfig"),
            )
            continue
        driver = drivers.find(name)
        if not driver:
            at = messages.WARNING if asked else messages.VERBOSE
            messages.say(at, f"Could not find any {flag} files on this host!")
        origin = f"--{flag}"
        libraries += driver.libraries
        mounts += [
            Bind(path, f"/usr/bin/{os.path.basename(path)}", read_only=True, optional=True, origin=origin)
            for path in driver.programs
        ]
        mounts += [Bind(path, path, optional=True, origin=origin) for path in driver.files]
        if settled.contain:
            visible = environment.get("NVIDIA_VISIBLE_DEVICES")
            nodes = drivers.nvidia_devices(visible) if flag == "nv" else drivers.amd_devices()
            mounts += [Bind(node, node, nodev=False, origin=origin) for node in nodes]
    if request.intel_hpu and settled.contain:
        accelerators = drivers.gaudi_devices(environment.get("HABANA_VISIBLE_DEVICES"))
        if not accelerators:
            messages.warning("Could not find any Gaudi devices on this host!")
        mounts += [Bind(node, node, nodev=False, origin="--intel-hpu") for node in accelerators]
    chosen = (
        edits(request.device, _specifications(request.cdi_dirs or CDI_FOLDERS)) if request.device else None
    )
    if chosen:
        if chosen.hooks:
            messages.warning(
                f"{chosen.hooks} hooks of the CDI specification are not run: soliton runs no programs of the host for a container"
            )
        mounts += chosen.mounts
        # What a hook would have the image's linker told.
        libraries += [
            (library.soname, mount.source)
            for mount in chosen.mounts
            if ".so" in mount.source and (library := elf.read(mount.source)) and library.soname
        ]
    mounts += _library_binds(libraries, plan.root)
    for path in request.containlibs:
        full = os.path.abspath(path)
        if not os.path.isfile(full):
            raise SolitonError(f"`{path}` of `--containlibs` is not a file")
        mounts.append(
            Bind(full, f"{LIBRARIES}/{os.path.basename(full)}", read_only=True, origin="--containlibs")
        )
    process = plan.process
    if chosen and chosen.environment:
        variables = replace(
            process.environment, fixed={**process.environment.fixed, **dict(chosen.environment)}
        )
        process = replace(process, environment=variables)
    return replace(plan, mounts=_before_the_users(plan, mounts), process=process)


def for_step(plan: Plan) -> Plan:
    """The plan of a build's step whose environment no script of the image completes: libraries are found there, too."""
    shown = any(isinstance(mount, Bind) and mount.target.startswith(f"{LIBRARIES}/") for mount in plan.mounts)
    environment = plan.process.environment
    if environment.scripts or not shown:
        return plan
    there = environment.fixed.get("LD_LIBRARY_PATH")
    fixed = {**environment.fixed, "LD_LIBRARY_PATH": f"{there}:{LIBRARIES}" if there else LIBRARIES}
    return replace(plan, process=replace(plan.process, environment=replace(environment, fixed=fixed)))


def version_of(request: ActionRequest) -> str:
    """What tells one driver from another: its files, whose names have a version, and their sizes."""
    found: list[tuple[str, str, int]] = []
    for asked, name in ((request.nv, "nvliblist.conf"), (request.rocm, "rocmliblist.conf")):
        if asked:
            driver = drivers.find(name)
            for path in (*(path for _, path in driver.libraries), *driver.programs, *driver.files):
                real = os.path.realpath(path)
                found.append((name, real, os.stat(real).st_size if os.path.exists(real) else 0))
    return json.dumps([request.intel_hpu, sorted(found)])


def _before_the_users(plan: Plan, added: list[Bind]) -> tuple[Any, ...]:
    """The mounts with some more: the user's own binds and the working directory stay behind them."""
    own = ("--bind", "--mount", "--data", "current directory")
    at = next((i for i, mount in enumerate(plan.mounts) if mount.origin in own), len(plan.mounts))
    return (*plan.mounts[:at], *dict.fromkeys(added), *plan.mounts[at:])


def _library_binds(libraries: list[tuple[str, str]], root: Root) -> list[Bind]:
    """Libraries of the driver at the place where images look for them, but none that their C library is too old for."""
    if not libraries:
        return []
    version = _glibc(root)
    binds: list[Bind] = []
    too_new: list[str] = []
    for name, path in dict(libraries).items():
        library = elf.read(path)
        if library and version and library.glibc > version:
            too_new.append(f"{name} ({library.glibc[0]}.{library.glibc[1]})")
            continue
        binds.append(Bind(path, f"{LIBRARIES}/{name}", read_only=True, origin="driver"))
    if too_new and version:
        messages.warning(
            f"left out, for the image's glibc {version[0]}.{version[1]} is too old for them: {', '.join(too_new)}"
        )
    return binds


def _glibc(root: Root) -> tuple[int, int] | None:
    """The version of the image's C library, if it can be told."""
    try:
        found = core.read_files(root, _LIBC, limit=_LARGEST_LIBC)
    except SolitonError:
        return None
    for path in _LIBC:
        file = found.get(path)
        match = (
            re.search(rb"GNU C Library [^\n]{0,100}version (\d{1,3})\.(\d{1,3})", file.data) if file else None
        )
        if match:
            return int(match[1]), int(match[2])
    return None


def _specifications(folders: tuple[str, ...]) -> list[tuple[int, str, Any]]:
    found: list[tuple[int, str, Any]] = []
    for priority, folder in enumerate(folders):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SolitonError(f"the CDI directory `{folder}` cannot be read", why=error.strerror) from None
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith((".yaml", ".yml")):
                messages.verbose(f"`{path}` is left out: CDI specifications are read in JSON")
            if not name.endswith(".json"):
                continue
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    found.append((priority, path, json.loads(file.read(_LARGEST_SPECIFICATION))))
            except (OSError, ValueError, RecursionError) as error:
                raise SolitonError(f"the CDI specification `{path}` cannot be read", why=str(error)) from None
    return found
