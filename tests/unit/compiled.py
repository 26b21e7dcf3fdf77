"""From words and variables to a plan, without a look at this machine: what the tests of the compiler share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from soliton.cli.action import request_of
from soliton.cli.parser import parse
from soliton.launch.compile import compile as compile_plan
from soliton.launch.plan import Bind, DirectoryRoot, ExtRoot, ImageRoot, Mount, Plan
from soliton.launch.stack import Over
from soliton.record import replace
from soliton.site.config import Config
from soliton.site.host import Host, SubordinateIds

if TYPE_CHECKING:
    from soliton.launch.request import Action
    from soliton.site.network import Network

IMAGE = ImageRoot("/images/a.sif", 32768, 4096)
SANDBOX = DirectoryRoot("/images/sandbox")
RANGES = SubordinateIds((100000, 65536), (200000, 65536), "/usr/bin/newuidmap", "/usr/bin/newgidmap")
CALLER = Host(
    uid=1000,
    gid=100,
    name="ada",
    gecos="Ada L.",
    home="/home/ada",
    shell="/bin/zsh",
    groups=(("users", 100), ("physics", 2000)),
    cwd="/scratch/job",
    environment={},
    umask=0o027,
    hostname="node1",
    resolv_conf=True,
    privileged=False,
)
ROOT = replace(
    CALLER, uid=0, gid=0, name="root", home="/root", groups=(("root", 0), ("wheel", 10)), privileged=True
)


def plan_for(
    line: str | list[str] = "exec IMAGE true",
    variables: Mapping[str, str] | None = None,
    *,
    host: Host = CALLER,
    root: ImageRoot | DirectoryRoot | ExtRoot = IMAGE,
    over: Over | None = None,
    config: Config | None = None,
    subordinate: SubordinateIds | None = None,
    program: str = "soliton",
    network: Network | None = None,
) -> Plan:
    """line: what follows the program's name; words without blanks may be given as one text."""
    words = line.split() if isinstance(line, str) else line
    invocation = parse(program, words, variables or {})
    request = request_of(cast("Action", invocation.command[0]), invocation)
    host = replace(host, environment=variables or {})
    return compile_plan(
        request,
        root,
        root.path,
        config or Config(),
        host,
        over=over,
        subordinate=subordinate,
        network=network,
    )


def at(plan: Plan, target: str) -> list[Mount]:
    """What is mounted at a place, in order."""
    return [mount for mount in plan.mounts if mount.target == target]


def bound(plan: Plan, origin: str) -> list[tuple[str, str, str]]:
    """Binds of an origin: (source, target, `ro` or `rw`)."""
    return [
        (mount.source, mount.target, "ro" if mount.read_only else "rw")
        for mount in plan.mounts
        if isinstance(mount, Bind) and mount.origin == origin
    ]
