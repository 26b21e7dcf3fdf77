"""NVIDIA's own tool, `nvidia-container-cli`: what it is asked to do in a container. Pure, but for what it tells the user.

The caller's `NVIDIA_…` variables choose, as for Docker; the tool gets them as options, and neither them nor any others as variables.
"""

from __future__ import annotations

from soliton import messages
from soliton.errors import LaunchError, SolitonError
from soliton.launch.plan import ReadOnlySurface, TmpfsSurface
from soliton.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config

CAPABILITIES = ("compute", "compat32", "graphics", "utility", "video", "display")
USUAL_CAPABILITIES = ("compute", "utility")


def by_container_cli(
    plan: Plan,
    request: ActionRequest,
    config: Config,
    environment: Mapping[str, str],
    *,
    tool: str | None,
    ldconfig: str | None,
) -> Plan:
    """The plan with the tool as its outfitter, and with a surface that it can write to. request: settled. tool, ldconfig: where
    these programs are.
    """
    asked = "`--nvccli`" if request.nvccli else "`--nv` with `use-nvidia-container-cli = true`"
    for name, path in (("nvidia-container-cli", tool), ("ldconfig", ldconfig)):
        if path is None:
            raise LaunchError(
                f"{asked} needs the program {name}, which is not on this machine",
                remedy="leave `--nvccli` out: `--nv` needs no program, or ask for the package libnvidia-container-tools",
            )
    devices = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if not devices and request.contain:
        messages.warning(
            "with `--contain`, nvidia-container-cli shows no GPU unless NVIDIA_VISIBLE_DEVICES names some"
        )
    elif not devices:
        devices = "all"
    if isinstance(plan.surface, ReadOnlySurface):
        if config.enable_overlay == "no":
            raise LaunchError(
                f"{asked} is not possible here",
                why="it writes into the root by an overlay, and the configuration has `enable-overlay = false`",
            )
        messages.info("Setting --writable-tmpfs (required by nvidia-container-cli)")
        plan = replace(plan, surface=TmpfsSurface(config.sessiondir_max_size))
    mapped = ("--user",) if plan.identity.uid_map else ()
    words = (str(tool), *mapped, "configure", *flags(environment, devices), f"--ldconfig=@{ldconfig}", "ROOT")
    return replace(plan, outfitter=words)


def flags(environment: Mapping[str, str], devices: str) -> tuple[str, ...]:
    """What the `NVIDIA_…` variables stand for. devices: which are visible, "" for none."""
    found = ["--no-cgroups"]
    for variable, flag in (
        ("NVIDIA_MIG_CONFIG_DEVICES", "--mig-config"),
        ("NVIDIA_MIG_MONITOR_DEVICES", "--mig-monitor"),
    ):
        if environment.get(variable):
            found.append(f"{flag}={environment[variable]}")
    if devices:
        found.insert(1, f"--device={devices}")
    asked = environment.get("NVIDIA_DRIVER_CAPABILITIES", "")
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if "all" in names:
        names = list(CAPABILITIES)
    for name in names or USUAL_CAPABILITIES:
        if name not in CAPABILITIES:
            raise SolitonError(
                f"`{name}` in NVIDIA_DRIVER_CAPABILITIES is not known",
                why=f"they are all, {', '.join(CAPABILITIES)}",
                remedy="correct it or unset NVIDIA_DRIVER_CAPABILITIES",
            )
        found.append(f"--{name}")
    if "NVIDIA_DISABLE_REQUIRE" not in environment:
        found += [
            f"--require={value}"
            for name, value in sorted(environment.items())
            if name.startswith("NVIDIA_REQUIRE_")
        ]
    return tuple(found)
