"""Who the payload is, what it may, where and how it starts: by flag, variable and fact of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from soliton.errors import ImageError, LaunchError, NotSupported, SolitonError, UsageError
from soliton.launch.capabilities import NAMES
from soliton.launch.plan import (
    DirectoryRoot,
    DirectSurface,
    Identity,
    IdRange,
    ImageRoot,
    ReadOnlySurface,
    TmpfsSurface,
)
from soliton.record import replace
from soliton.site.config import Config
from tests.unit.compiled import CALLER, IMAGE, RANGES, ROOT, SANDBOX, plan_for


def test_the_caller_is_the_same_inside_as_outside() -> None:
    plan = plan_for()
    assert plan.identity == Identity(1000, 100, (IdRange(1000, 1000, 1),), (IdRange(100, 100, 1),))
    assert plan.root == replace(IMAGE, ids="caller")


def test_fakeroot_is_root_of_subordinate_ids_where_there_are_any() -> None:
    plan = plan_for("exec --fakeroot IMAGE x", subordinate=RANGES)
    assert plan.identity == Identity(
        0,
        0,
        (IdRange(0, 1000, 1), IdRange(1, 100000, 65536)),
        (IdRange(0, 100, 1), IdRange(1, 200000, 65536)),
        "/usr/bin/newuidmap",
        "/usr/bin/newgidmap",
    )
    assert plan.root == replace(IMAGE, ids="stored")


def test_fakeroot_is_root_alone_where_there_are_none() -> None:
    plan = plan_for("exec -f IMAGE x")
    assert plan.identity == Identity(0, 0, (IdRange(0, 1000, 1),), (IdRange(0, 100, 1),))
    assert plan.root == replace(IMAGE, ids="caller")


def test_real_root_needs_no_user_namespace() -> None:
    plan = plan_for(host=ROOT)
    assert plan.identity == Identity(0, 0, groups=(0, 10))
    assert plan.root == replace(IMAGE, ids="stored")
    assert plan_for("exec --fakeroot IMAGE x", host=ROOT).identity == Identity(0, 0)


def test_a_sandbox_is_its_directory() -> None:
    plan = plan_for(root=SANDBOX)
    assert plan.root == SANDBOX
    assert plan.name == "sandbox"
    assert plan_for(root=DirectoryRoot("/images/with blank/")).name == "with blank"


@pytest.mark.parametrize(
    ("words", "privileged", "capabilities"),
    [
        ("", False, "none"),
        ("--fakeroot", False, "all"),
        ("--fakeroot --keep-privs", False, "all"),
        ("--fakeroot --no-privs", False, "none"),
        ("--fakeroot --ignore-subuid", False, "all"),
        ("", True, "all"),
        ("--keep-privs", True, "all"),
        ("--no-privs", True, "none"),
        ("--add-caps CAP_NET_RAW", False, ("CAP_NET_RAW",)),
        ("--add-caps net_raw,chown", False, ("CAP_CHOWN", "CAP_NET_RAW")),
        ("--add-caps net_raw --add-caps Cap_Chown", False, ("CAP_CHOWN", "CAP_NET_RAW")),
        ("--add-caps all", False, NAMES),
        ("--drop-caps all", False, "none"),
        ("--fakeroot --drop-caps all", False, ()),
        ("--fakeroot --drop-caps ALL --add-caps kill", False, ("CAP_KILL",)),
        ("--fakeroot --no-privs --add-caps kill", False, ("CAP_KILL",)),
        ("--drop-caps CAP_SYS_ADMIN", True, tuple(name for name in NAMES if name != "CAP_SYS_ADMIN")),
        (
            "--fakeroot --drop-caps mknod,bpf",
            False,
            tuple(n for n in NAMES if n not in ("CAP_MKNOD", "CAP_BPF")),
        ),
        ("--fakeroot --add-caps chown", False, NAMES),
    ],
)
def test_capabilities(words: str, privileged: bool, capabilities: Any) -> None:
    plan = plan_for(f"exec {words} IMAGE x", host=ROOT if privileged else CALLER)
    assert plan.process.capabilities == capabilities


def test_root_who_lacks_a_capability_is_not_promised_it() -> None:
    host = replace(ROOT, capabilities=0b1011)
    assert plan_for("exec --drop-caps CAP_DAC_OVERRIDE IMAGE true", host=host).process.capabilities == (
        "CAP_CHOWN",
        "CAP_FOWNER",
    )
    # What is asked for by name is never left out in silence: the core fails where it cannot be had.
    added = plan_for("exec --add-caps CAP_KILL --drop-caps all IMAGE true", host=host)
    assert added.process.capabilities == ("CAP_KILL",)


@pytest.mark.parametrize("flag", ["--add-caps", "--drop-caps"])
def test_a_capability_that_does_not_exist_is_named(flag: str) -> None:
    with pytest.raises(SolitonError, match="`CAP_FLY` is not a capability"):
        plan_for(f"exec --fakeroot {flag} fly IMAGE x")


def test_the_names_of_capabilities_are_in_the_kernel_s_order() -> None:
    # linux/capability.h numbers them without a gap.
    assert len(NAMES) == len(set(NAMES)) == 41
    assert (NAMES[0], NAMES[21], NAMES[27], NAMES[40]) == (
        "CAP_CHOWN",
        "CAP_SYS_ADMIN",
        "CAP_MKNOD",
        "CAP_CHECKPOINT_RESTORE",
    )


def test_nobody_gains_privileges_by_a_program() -> None:
    assert plan_for().process.no_new_privs
    assert plan_for("exec --add-caps all IMAGE x").process.no_new_privs


@pytest.mark.parametrize(
    ("words", "namespaces", "init"),
    [
        ("", (), True),
        ("--contain", (), True),
        ("--pid", ("pid",), True),
        ("-p --no-init", ("pid",), False),
        ("--ipc", ("ipc",), True),
        ("-i -p", ("pid", "ipc"), True),
        ("--uts", ("uts",), True),
        ("--hostname here", ("uts",), True),
        ("--net --network none", ("net",), True),
        ("--network none", ("net",), True),
        ("--containall", ("pid", "ipc"), True),
        ("--containall --no-pid", ("ipc",), True),
        ("--pid --no-pid", (), True),
        ("--compat", ("pid", "ipc"), False),
        ("--userns", (), True),
    ],
)
def test_namespaces(words: str, namespaces: tuple[str, ...], init: bool) -> None:
    plan = plan_for(f"exec {words} IMAGE x")
    assert (plan.namespaces, plan.process.init) == (namespaces, init)


@pytest.mark.parametrize(
    ("variable", "namespaces"),
    [
        ("UNSHARE_PID", ("pid",)),
        ("PID", ("pid",)),
        ("UNSHARE_IPC", ("ipc",)),
        ("UNSHARE_UTS", ("uts",)),
        ("CONTAINALL", ("pid", "ipc")),
    ],
)
@pytest.mark.parametrize("prefix", ["SOLITON_", "APPTAINER_", "SINGULARITY_"])
def test_namespaces_by_variable(variable: str, namespaces: tuple[str, ...], prefix: str) -> None:
    for value in ("1", "t", "T", "TRUE", "true", "True"):
        assert plan_for("exec IMAGE x", {prefix + variable: value}).namespaces == namespaces
    for value in ("0", "f", "F", "FALSE", "false", "False", " "):
        assert plan_for("exec IMAGE x", {prefix + variable: value}).namespaces == ()


def test_a_variable_that_is_no_truth_value_is_fatal() -> None:
    with pytest.raises(SolitonError) as caught:
        plan_for("exec IMAGE x", {"APPTAINER_PID": "yes"})
    assert caught.value.status == 255


@pytest.mark.parametrize(
    "words",
    ["--keep-layers", "--proot x", "--ignore-userns"],
)
def test_what_is_not_built_is_refused(words: str) -> None:
    with pytest.raises(NotSupported):
        plan_for(f"exec {words} IMAGE x")


@pytest.mark.parametrize(
    ("words", "surface"),
    [
        ("", ReadOnlySurface("auto")),
        ("--underlay", ReadOnlySurface("underlay")),
        ("--writable-tmpfs", TmpfsSurface(1 << 20)),
        ("--compat", TmpfsSurface(1 << 20)),
        ("--writable", DirectSurface()),
        ("--compat --writable", DirectSurface()),
    ],
)
def test_the_surface_of_the_root(words: str, surface: object) -> None:
    config = Config(sessiondir_max_size=1 << 20)
    assert plan_for(f"exec {words} IMAGE x", root=SANDBOX, config=config).surface == surface


def test_an_image_file_cannot_be_written() -> None:
    with pytest.raises(ImageError, match=r"`/images/a.sif` cannot be written"):
        plan_for("exec --writable IMAGE x")


def test_two_ways_to_write_exclude_each_other() -> None:
    with pytest.raises(SolitonError, match="exclude each other"):
        plan_for("exec -w --writable-tmpfs IMAGE x", root=SANDBOX)


@pytest.mark.parametrize(
    ("words", "cwd", "required"),
    [
        ("", ("/scratch/job", "/home/ada", "/"), False),
        ("--contain", ("/home/ada", "/"), False),
        ("--containall", ("/home/ada", "/"), False),
        ("--no-home", ("/scratch/job", "/home/ada", "/"), False),
        ("--home /h:/inside", ("/scratch/job", "/inside", "/"), False),
        ("--fakeroot", ("/scratch/job", "/root", "/"), False),
        ("--cwd /data", ("/data",), True),
        ("--pwd /data", ("/data",), True),
        ("--contain --pwd /data", ("/data",), True),
    ],
)
def test_where_it_starts(words: str, cwd: tuple[str, ...], required: bool) -> None:
    process = plan_for(f"exec {words} IMAGE x").process
    assert (process.cwd, process.cwd_required) == (cwd, required)


def test_where_it_starts_when_the_directory_is_gone() -> None:
    assert plan_for(host=replace(CALLER, cwd=None)).process.cwd == ("/home/ada", "/")


@pytest.mark.parametrize(
    "variable", ["SOLITON_CWD", "APPTAINER_TARGET_CWD", "SINGULARITY_PWD", "SINGULARITY_TARGET_PWD"]
)
def test_where_it_starts_by_variable(variable: str) -> None:
    process = plan_for("exec IMAGE x", {variable: "/data"}).process
    assert (process.cwd, process.cwd_required) == (("/data",), True)


def test_a_place_to_start_is_absolute() -> None:
    with pytest.raises(LaunchError, match="`data` is not an absolute path"):
        plan_for("exec --cwd data IMAGE x")


@pytest.mark.parametrize(
    ("words", "variables", "umask"),
    [
        ("", {}, 0o027),
        ("--no-umask", {}, 0o022),
        ("--compat", {}, 0o022),
        ("--umask 0", {}, 0),
        ("--umask 0077", {"SOLITON_UMASK": "7"}, 0o077),
        ("", {"SINGULARITY_UMASK": "777"}, 0o777),
        ("", {"SINGULARITY_UMASK": "1", "APPTAINER_UMASK": "2"}, 0o002),
        # What is said by name counts over what --compat stands for, and a flag over a variable.
        ("--compat --umask 077", {}, 0o077),
        ("--compat", {"SOLITON_UMASK": "077"}, 0o077),
        ("--umask 077", {"APPTAINER_NO_UMASK": "1"}, 0o077),
        ("--no-umask", {"APPTAINER_UMASK": "077"}, 0o022),
        ("--umask 077 --no-umask=false", {}, 0o077),
    ],
)
def test_the_umask_is_the_caller_s_unless_told_otherwise(
    words: str, variables: dict[str, str], umask: int
) -> None:
    assert plan_for(f"exec {words} IMAGE x", variables).process.umask == umask


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ("--umask 077 --no-umask", {}),
        ("--compat --umask 077 --no-umask", {}),
        ("", {"SOLITON_UMASK": "077", "APPTAINER_NO_UMASK": "1"}),
    ],
)
def test_there_is_one_umask(words: str, variables: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="`--umask` and `--no-umask` exclude each other"):
        plan_for(f"exec {words} IMAGE x", variables)


@pytest.mark.parametrize(
    ("line", "action", "argv"),
    [
        (["exec", "IMAGE", "ls", "-l", "--", "-e"], "exec", ("ls", "-l", "--", "-e")),
        (["exec", "IMAGE", "--", "ls"], "exec", ("--", "ls")),
        (["exec", "--", "IMAGE", "ls"], "exec", ("ls",)),
        (["exec", "IMAGE", "two words", "é\udcff"], "exec", ("two words", "é\udcff")),
        (["run", "IMAGE"], "run", ()),
        (["run", "IMAGE", "--pid", "x"], "run", ("--pid", "x")),
        (["test", "IMAGE", "x"], "test", ("x",)),
        (["shell", "IMAGE", "-c", "true"], "shell", ("-c", "true")),
    ],
)
def test_everything_behind_the_image_is_the_payload_s(
    line: list[str], action: str, argv: tuple[str, ...]
) -> None:
    plan = plan_for(line)
    assert (plan.process.action, plan.process.argv) == (action, argv)
    assert plan.namespaces == ()


def test_a_shell_can_be_chosen() -> None:
    standard = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")
    assert plan_for("shell IMAGE").process.shells == standard
    assert plan_for("shell -s /bin/zsh IMAGE").process.shells == ("/bin/zsh",)
    assert plan_for("shell IMAGE", {"APPTAINER_SHELL": "/bin/zsh"}).process.shells == ("/bin/zsh",)


@pytest.mark.parametrize("variable", ["SOLITON_APP", "APPTAINER_APPNAME"])
def test_an_app_can_be_chosen(variable: str) -> None:
    assert plan_for("run --app calc IMAGE").process.app == "calc"
    assert plan_for("run IMAGE", {variable: "calc"}).process.app == "calc"
    assert plan_for("run IMAGE").process.app is None


@pytest.mark.parametrize(
    ("variables", "hostname"),
    [
        ({"SINGULARITY_HOSTNAME": "s"}, "s"),
        ({"SINGULARITY_HOSTNAME": "s", "APPTAINER_HOSTNAME": "a"}, "a"),
        ({"SINGULARITY_HOSTNAME": "s", "APPTAINER_HOSTNAME": "a", "SOLITON_HOSTNAME": "o"}, "o"),
        ({"SINGULARITY_HOSTNAME": "s", "SOLITON_HOSTNAME": " "}, "s"),
        ({"HOSTNAME": "bare"}, None),
    ],
)
def test_the_strongest_prefix_counts_and_the_command_line_beats_it(
    variables: dict[str, str], hostname: str | None
) -> None:
    assert plan_for("exec IMAGE x", variables).hostname == hostname
    assert plan_for("exec --hostname line IMAGE x", variables).hostname == "line"


@pytest.mark.parametrize("root", [IMAGE, SANDBOX])
def test_the_same_request_gives_the_same_plan(root: ImageRoot | DirectoryRoot) -> None:
    line = "exec -C -B /a,/b --env X=1,Y=2 --writable-tmpfs IMAGE x"
    assert plan_for(line, {"A": "1"}, root=root) == plan_for(line, {"A": "1"}, root=root)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--hostname a_b!", "`a_b!` is not a host name"),
        (f"--hostname {'a' * 65}", "is not a host name"),
        ("--dns example.org", "`example.org` of `--dns` is not the address"),
        ("--dns 10.0.0.256", "`10.0.0.256` of `--dns`"),
        ("--dns 10.0.0", "`10.0.0` of `--dns`"),
        ("--cwd here", "the working directory `here` is not an absolute path"),
        ("--scratch here", "the scratch directory `here` is not an absolute path"),
        ("--no-mount nothing", "`nothing` is not a mount that can be left out"),
        ("--add-caps CAP_FLY", "`CAP_FLY` is not a capability"),
        ("--drop-caps fly", "`CAP_FLY` is not a capability"),
        ("--bind a:b:c:d", "`a:b:c:d` is not a bind"),
        ("--bind /a:relative", "`relative` in the bind"),
        ("--bind /a:/b:fast", "`fast` in the bind `/a:/b:fast` is not a bind option"),
        ("--keep-privs", "`--keep-privs` needs root"),
        ("--mount type=tmpfs,destination=/b", "is not of type=bind"),
        ("--mount type=bind,source=/a", "needs a source and an absolute destination"),
        ("--mount type=bind,source=/a,destination=/b,rw", "`rw` in the mount"),
        ("--home a:b:c", "`a:b:c` is not a home"),
        ("--home /a:b", "the home `b` inside the container is not an absolute path"),
        ("--writable --writable-tmpfs", "exclude each other"),
    ],
)
def test_a_value_that_makes_no_sense_is_answered_in_three_lines_at_most(words: str, what: str) -> None:
    with pytest.raises(SolitonError) as caught:
        plan_for(f"exec {words} IMAGE x", root=SANDBOX)
    assert what in caught.value.what
    assert caught.value.status == 255
    assert len(str(caught.value).splitlines()) <= 3


def test_the_time_for_scripts() -> None:
    assert plan_for("run IMAGE").process.patience is None
    assert plan_for("run --runscript-timeout 1m30s IMAGE").process.patience == 90
    assert plan_for("run --runscript-timeout 1ms IMAGE").process.patience == 1
    assert plan_for("run --runscript-timeout 0 IMAGE").process.patience is None
    with pytest.raises(SolitonError, match="no time that can be waited for"):
        plan_for("run --runscript-timeout 9999999h IMAGE")
