"""The commands exec, run, shell and test."""

from __future__ import annotations

import os

from soliton import messages
from soliton.errors import SolitonError, UsageError
from soliton.launch.request import ActionRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from soliton.api.pull import PullOptions
    from soliton.cli.invocation import Invocation
    from soliton.launch.limits import Asked
    from soliton.launch.request import Action
    from soliton.launch.shortcut import Call


def exec_(invocation: Invocation) -> int:
    return _start("exec", invocation)


def run(invocation: Invocation) -> int:
    return _start("run", invocation)


def shell(invocation: Invocation) -> int:
    return _start("shell", invocation)


def test(invocation: Invocation) -> int:
    return _start("test", invocation)


def request_of(action: Action, invocation: Invocation) -> ActionRequest:
    """What the command line asks for."""
    known = invocation.options

    def flag(name: str) -> bool:
        return name in known and invocation.flag(name)

    def text(name: str) -> str | None:
        return invocation.text(name) if name in known else None

    words = invocation.words
    return ActionRequest(
        action=action,
        image=invocation.positionals[0],
        argv=tuple(invocation.positionals[1:]),
        program=invocation.program,
        app=text("app"),
        bind=words("bind"),
        mount=words("mount"),
        data=words("data"),
        overlay=words("overlay"),
        contain=flag("contain"),
        containall=flag("containall"),
        compat=flag("compat"),
        cleanenv=flag("cleanenv"),
        env=invocation.pairs("env"),
        env_files=tuple(_read(name) for name in words("env-file")),
        no_env=words("no-env"),
        no_eval=flag("no-eval"),
        no_guard=flag("no-guard"),
        runscript_timeout=invocation.seconds("runscript-timeout") if action == "run" else None,
        home=text("home"),
        no_home=flag("no-home"),
        no_mount=words("no-mount"),
        cwd=text("cwd"),
        workdir=text("workdir"),
        scratch=words("scratch"),
        pid=flag("pid"),
        no_pid=flag("no-pid"),
        ipc=flag("ipc"),
        uts=flag("uts"),
        net=flag("net"),
        network=words("network"),
        network_args=words("network-args"),
        netns_path=text("netns-path"),
        hostname=text("hostname"),
        dns=words("dns"),
        no_init=flag("no-init"),
        sharens=flag("sharens"),
        boot=flag("boot"),
        fusemount=words("fusemount"),
        fakeroot=flag("fakeroot"),
        writable=flag("writable"),
        writable_tmpfs=flag("writable-tmpfs"),
        underlay=flag("underlay"),
        unsquash=flag("unsquash"),
        umask=invocation.integer("umask"),
        no_umask=flag("no-umask"),
        no_privs=flag("no-privs"),
        keep_privs=flag("keep-privs"),
        security=words("security"),
        nv=flag("nv"),
        nvccli=flag("nvccli"),
        no_nv=flag("no-nv"),
        no_rocm=flag("no-rocm"),
        rocm=flag("rocm"),
        intel_hpu=flag("intel-hpu"),
        device=words("device") if "device" in invocation.options else (),
        cdi_dirs=words("cdi-dirs") if "cdi-dirs" in invocation.options else (),
        containlibs=words("containlibs"),
        allow_setuid=flag("allow-setuid"),
        add_caps=words("add-caps"),
        drop_caps=words("drop-caps"),
        ignore_subordinate_ids=flag("ignore-subuid"),
        no_setgroups=flag("no-setgroups"),
        shell=text("shell") if action == "shell" else None,
        tmpdir=text("tmpdir"),
        limits=_limits(invocation),
        origins=invocation.origins,
    )


def _read(name: str, called: str = "the environment file") -> str:
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise SolitonError(f"{called} `{name}` cannot be read", why=error.strerror) from None


_LIMITS = (
    "cpus",
    "cpu-shares",
    "cpuset-cpus",
    "cpuset-mems",
    "memory",
    "memory-reservation",
    "memory-swap",
    "oom-kill-disable",
    "pids-limit",
    "blkio-weight",
    "blkio-weight-device",
    "apply-cgroups",
)


def _limits(invocation: Invocation) -> Asked | None:
    """The limits of resources; whatever they need is imported only where there are some."""
    if not any(name in invocation.given for name in _LIMITS):
        return None
    from soliton.launch.limits import Asked

    text = invocation.text
    cpus, file = text("cpus"), text("apply-cgroups")
    if cpus and cpus.isdigit() and not any(word.startswith("-") for word in invocation.origins["cpus"]):
        # Its variable is also that of `--cpu-shares`, to whom a number like 1024 is meant.
        cpus = cpus if int(cpus) <= (os.cpu_count() or 1) else None
    return Asked(
        cpus=cpus,
        cpu_shares=invocation.integer("cpu-shares") or 0,
        cpuset_cpus=text("cpuset-cpus"),
        cpuset_mems=text("cpuset-mems"),
        memory=text("memory"),
        memory_reservation=text("memory-reservation"),
        memory_swap=text("memory-swap"),
        oom_kill_disable=invocation.flag("oom-kill-disable"),
        pids_limit=invocation.integer("pids-limit") or 0,
        blkio_weight=invocation.integer("blkio-weight") or 0,
        blkio_weight_device=invocation.words("blkio-weight-device"),
        file=None if file is None else _read(file, "the control group file"),
    )


def fetching_of(invocation: Invocation) -> Callable[[], PullOptions]:
    """How an image is fetched, asked only if it has to be."""

    def fetching() -> PullOptions:
        from soliton.cli.pull import options_of

        return options_of(invocation)._replace(offline_is_fine=True)

    return fetching


def _start(action: Action, invocation: Invocation) -> int:
    from soliton.api.action import start

    request, fetching = request_of(action, invocation), fetching_of(invocation)
    joining = request.image.startswith("instance://")
    if invocation.flag("explain"):
        if joining:
            raise SolitonError(
                "an instance that is running cannot be explained", remedy="use `--explain` with its image"
            )
        from soliton.cli.explain import show

        return show(request, fetching, as_json=invocation.flag("json"))
    if invocation.flag("json"):
        raise UsageError("`--json` is a form of `--explain`", remedy="give both, or leave `--json` out")
    if joining:
        from soliton.cli.instance import say_what_has_no_effect

        say_what_has_no_effect(invocation)
    return start(request, fetching, _storing(invocation))


def _storing(invocation: Invocation) -> Call | None:
    """What is needed to store the plan of this call, where the core has asked for it."""
    from soliton.cli.main import witness

    if witness is None:
        return None
    from soliton.launch.shortcut import Call

    return Call(len(invocation.positionals), invocation.given, messages.spoken(), witness)
