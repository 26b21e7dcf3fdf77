"""What each option and each directive changes in a plan, and that nothing else changes: one row each, and none may be missing.

The values are stated in `test_compile*.py`; here it is which parts of a plan depend on what.
"""

from __future__ import annotations

from typing import Any

import pytest

from soliton.cli import commands
from soliton.launch.capabilities import NAMES
from soliton.launch.plan import Plan
from soliton.record import names_of, replace
from soliton.site.config import Config
from soliton.site.directives import DIRECTIVES
from soliton.site.host import Host
from soliton.site.network import Network
from tests.unit.compiled import CALLER, RANGES, ROOT, SANDBOX, plan_for

VARIABLES = {"LANG": "de_DE.UTF-8", "PYTHONPATH": "/opt/x", "A": "1"}
PASTA = Network(pasta="/usr/bin/pasta", slirp4netns=None)

#: Option → what is written before the image, of it what is there without the option, and the parts that differ.
OPTIONS = {
    "add-caps": ("--add-caps CAP_CHOWN", "", "process.capabilities"),
    "app": ("--app a", "", "environment.fixed process.app"),
    "bind": ("--bind /a", "", "environment.fixed mounts"),
    "cleanenv": ("--cleanenv", "", "environment.host process.locale"),
    "compat": (
        "--compat",
        "--containall --no-init --no-umask --no-eval --writable-tmpfs",
        "",
    ),
    "contain": ("--contain", "", "environment.host mounts process.cwd"),
    "containall": ("--containall", "--contain --cleanenv --pid --ipc", ""),
    "cwd": ("--cwd /c", "", "process.cwd process.cwd_required"),
    "dns": ("--dns 10.0.0.1", "", "mounts"),
    "drop-caps": ("--fakeroot --drop-caps CAP_CHOWN", "--fakeroot", "process.capabilities"),
    "env": ("--env X=1", "", "environment.injected"),
    "env-file": ("--env-file /dev/null", "", "environment.files"),
    "fakeroot": ("--fakeroot", "", "environment.fixed identity mounts process.capabilities process.cwd root"),
    "home": ("--home /h", "", "environment.fixed mounts process.cwd"),
    "hostname": ("--hostname h", "--uts", "hostname mounts"),
    "ipc": ("--ipc", "", "namespaces"),
    "mount": ("--mount type=bind,source=/a,destination=/b", "", "environment.fixed mounts"),
    "net": ("--net", "", "helper namespaces"),
    "netns-path": ("--netns-path /n", "", "netns"),
    "network": ("--network none", "", "namespaces"),
    "network-args": ("--network-args portmap=8080:80/tcp", "--net", "helper"),
    "no-env": ("--no-env A", "", "environment.host"),
    "no-eval": ("--no-eval", "", "environment.evaluate environment.fixed"),
    "no-guard": ("--no-guard", "", "environment.host process.locale"),
    "no-home": ("--no-home", "", "environment.host mounts"),
    "no-init": ("--pid --no-init", "--pid", "process.init"),
    "no-mount": ("--no-mount proc", "", "mounts"),
    "no-pid": ("--containall --no-pid", "--containall", "namespaces"),
    "no-privs": ("--fakeroot --no-privs", "--fakeroot", "process.capabilities"),
    "no-setgroups": ("--fakeroot --no-setgroups", "--fakeroot", "identity"),
    "no-umask": ("--no-umask", "", "process.umask"),
    "pid": ("--pid", "", "namespaces"),
    "scratch": ("--scratch /s", "", "mounts"),
    "umask": ("--umask 007", "", "process.umask"),
    "underlay": ("--underlay", "", "surface"),
    "uts": ("--uts", "", "namespaces"),
    "workdir": ("--contain --workdir /w", "--contain", "mounts"),
    "writable-tmpfs": ("--writable-tmpfs", "", "surface"),
}
#: Those that need more than a line: their rows are below.
MORE = {"boot", "keep-privs", "runscript-timeout", "shell", "writable"}
#: Those whose effect is not the compiler's, and whose it is.
ELSEWHERE = {
    **dict.fromkeys(
        ("nv", "nvccli", "rocm", "intel-hpu", "no-nv", "no-rocm", "containlibs", "device", "cdi-dirs"),
        "api/devices.py",
    ),
    **dict.fromkeys(("overlay", "data"), "api/layers.py"),
    **dict.fromkeys(
        (
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
        ),
        "launch/limits.py",
    ),
    **dict.fromkeys(
        (
            "authfile",
            "disable-cache",
            "no-https",
            "docker-host",
            "docker-login",
            "docker-username",
            "docker-password",
        ),
        "api/pull.py",
    ),
    **dict.fromkeys(("security", "allow-setuid"), "launch/security.py"),
    **dict.fromkeys(("unsquash", "tmpdir"), "api/unpacked.py"),
    "ignore-subuid": "api/action.py",
    "explain": "api/explain.py",
    "json": "cli/explain.py",
    "pid-file": "api/instance.py",
    "sharens": "api/sharens.py",
    "fusemount": "launch/fusemount.py",
    **dict.fromkeys(
        ("userns", "ignore-fakeroot-command", "no-oci", "no-compat", "sif-fuse", "no-tmp-sandbox"),
        "nobody's: accepted, as it is so anyway",
    ),
}


def parts(plan: Plan) -> dict[str, Any]:
    """Every field by its name, those of the process and its environment one by one."""
    found = {name: getattr(plan, name) for name in names_of(plan) or () if name != "process"}
    process = plan.process
    found |= {
        f"process.{name}": getattr(process, name) for name in names_of(process) or () if name != "environment"
    }
    environment = process.environment
    return found | {f"environment.{name}": getattr(environment, name) for name in names_of(environment) or ()}


def difference(one: Plan, other: Plan) -> str:
    left, right = parts(one), parts(other)
    return " ".join(sorted(name for name in left if left[name] != right[name]))


def compiled(words: str, action: str = "exec", **facts: Any) -> Plan:
    network = PASTA if "--net" in words and "none" not in words and "netns" not in words else None
    return plan_for(f"{action} {words} IMAGE x", VARIABLES, network=network, subordinate=RANGES, **facts)


@pytest.mark.parametrize(("with_it", "without", "differs"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_changes_its_parts_of_the_plan_and_no_others(
    with_it: str, without: str, differs: str
) -> None:
    assert difference(compiled(with_it), compiled(without)) == differs


def test_options_that_need_more_than_a_line() -> None:
    careful = Config(root_default_capabilities="no")
    root: Host = ROOT
    assert (
        difference(
            compiled("--keep-privs", host=root, config=careful), compiled("", host=root, config=careful)
        )
        == "process.capabilities"
    )
    assert difference(compiled("--runscript-timeout 5s", "run"), compiled("", "run")) == "process.patience"
    assert difference(compiled("--shell /bin/zsh", "shell"), compiled("", "shell")) == "process.shells"
    assert difference(compiled("--writable", root=SANDBOX), compiled("", root=SANDBOX)) == "surface"
    booted = compiled("--boot", "instance start")
    isolated = compiled("--containall --uts --network none", "instance start")
    assert difference(booted, isolated) == ("environment.fixed mounts namespaces process.action sharing")
    assert [mount.target for mount in booted.mounts if mount not in isolated.mounts] == [
        "/run",
        "/run/lock",
        "/sys/fs/cgroup",
    ]
    assert booted.process.action == "boot" and booted.process.environment.fixed["container"] == "soliton"
    booted_as_root = compiled("--boot --fakeroot", "instance start")
    assert set(NAMES) - set(booted_as_root.process.capabilities) == {"CAP_SYS_RAWIO"}
    privileged = compiled("--boot", "instance start", host=root)
    without = set(compiled("--drop-caps all", "instance start", host=root).process.capabilities)
    assert not {"CAP_SYS_BOOT", "CAP_SYS_RAWIO"} & set(privileged.process.capabilities) and not without
    assert compiled("--boot --keep-privs", "instance start", host=root).process.capabilities == "all"


def test_every_option_has_its_row() -> None:
    built = {
        option.name
        for path, command in commands.walk()
        if path in (("exec",), ("run",), ("shell",), ("test",), ("instance", "start"), ("instance", "run"))
        for option in command.options
        if option.supported and not option.alias
    }
    rows = set(OPTIONS) | MORE | set(ELSEWHERE)
    # Rows of options that are not built yet do no harm.
    unbuilt = {
        option.name for _, command in commands.walk() for option in command.options if not option.supported
    }
    assert built - rows == set()
    assert rows - built <= unbuilt
    assert len(OPTIONS) + len(MORE) + len(ELSEWHERE) == len(rows)


#: Directive → another value than its default, the line, and the parts that differ.
DIRECTED: dict[str, tuple[Any, str, str]] = {
    "bind-path": (("/etc/hosts",), "", "mounts"),
    "mount-proc": (False, "", "mounts"),
    "mount-sys": (False, "", "mounts"),
    "mount-dev": ("minimal", "", "mounts"),
    "mount-devpts": (False, "--contain", "mounts"),
    "mount-home": (False, "", "environment.host mounts"),
    "mount-tmp": (False, "", "mounts"),
    "mount-hostfs": (True, "", "mounts"),
    "config-passwd": (False, "", "mounts"),
    "config-group": (False, "", "mounts"),
    "config-resolv-conf": (False, "", "mounts"),
    "guard": ("never", "", "environment.host process.locale"),
    "enable-overlay": ("no", "", "surface"),
    "enable-underlay": ("preferred", "", "surface"),
    "sessiondir-max-size": (1 << 20, "--contain --writable-tmpfs", "mounts surface"),
    "user-bind-control": (False, "", "mounts"),
}
DIRECTED_ELSEWHERE = {
    **dict.fromkeys(("cache-dir", "tmp-dir"), "site/paths.py"),
    "binary-path": "site/host.py",
    "download-concurrency": "api/pull.py",
    "mksquashfs-procs": "images/convert.py",
    "systemd-cgroups": "site/cgroups.py",
    **dict.fromkeys(
        ("always-use-nv", "always-use-rocm", "use-nvidia-container-cli"),
        "api/devices.py",
    ),
    "enable-fusemount": "launch/fusemount.py",
    # They forbid, and change nothing that is not forbidden: test_configuration.py.
    **dict.fromkeys(
        (
            directive.name
            for directive in DIRECTIVES
            if directive.policy and directive.name.startswith(("allow-", "limit-"))
        ),
        "launch/policy.py",
    ),
    "root-default-capabilities": "above, with --keep-privs",
}


@pytest.mark.parametrize("name", DIRECTED)
def test_a_directive_changes_its_parts_of_the_plan_and_no_others(name: str) -> None:
    value, line, differs = DIRECTED[name]
    host = replace(CALLER, mount_points=("/", "/data"), cwd="/data")
    config = replace(Config(), **{name.replace("-", "_"): value})
    assert difference(compiled(line, host=host, config=config), compiled(line, host=host)) == differs


def test_every_directive_has_its_row() -> None:
    assert set(DIRECTED) | set(DIRECTED_ELSEWHERE) == {directive.name for directive in DIRECTIVES}
    assert not set(DIRECTED) & set(DIRECTED_ELSEWHERE)
