"""What is mounted where, by flag, variable and directive."""

from __future__ import annotations

import pytest

from soliton.errors import SolitonError
from soliton.launch.plan import (
    Bind,
    DataBind,
    Dev,
    ExtRoot,
    GroupFile,
    ImageRoot,
    PasswdFile,
    Proc,
    SynthesizedFile,
    Sys,
    Tmpfs,
)
from soliton.launch.stack import Over
from soliton.record import replace
from soliton.site.config import Config
from tests.unit.compiled import CALLER, ROOT, SANDBOX, at, bound, plan_for

SIZE = 64 << 20


def described(line: str | list[str] = "exec IMAGE true", **how: object) -> list[str]:
    """Every mount in order, as `kind target`, binds with their source where it differs."""
    plan = plan_for(line, **how)  # type: ignore[arg-type]
    return [
        f"{m.kind} {m.source}:{m.target}"
        if isinstance(m, Bind) and m.source != m.target
        else f"{m.kind} {m.target}"
        for m in plan.mounts
    ]


DEFAULT = [
    "dev /dev",
    "bind /etc/localtime",
    "bind /etc/hosts",
    "proc /proc",
    "sys /sys",
    "bind /home/ada",
    "bind /tmp",
    "bind /var/tmp",
    "passwd /etc/passwd",
    "group /etc/group",
    "bind /etc/resolv.conf",
    "bind /scratch/job",
]


def without(*gone: str) -> list[str]:
    return [mount for mount in DEFAULT if mount not in gone]


def test_the_default_view_in_the_order_of_the_peers() -> None:
    assert described() == DEFAULT
    assert all(
        mount.nosuid and mount.nodev and not mount.read_only
        for mount in plan_for().mounts
        if isinstance(mount, Bind)
    )


def test_every_mount_says_where_it_comes_from() -> None:
    plan = plan_for(
        "exec -B /a --mount type=bind,src=/b,dst=/b --scratch /s --dns 1.1.1.1 --hostname h IMAGE x"
    )
    assert [mount.origin for mount in plan.mounts if not mount.origin] == []


@pytest.mark.parametrize(
    ("text", "binds"),
    [
        ("/data", [("/data", "/data", "rw")]),
        ("/data:/mnt", [("/data", "/mnt", "rw")]),
        ("/data:/mnt:ro", [("/data", "/mnt", "ro")]),
        ("/data:/mnt:rw", [("/data", "/mnt", "rw")]),
        ("/data::ro", [("/data", "/data", "ro")]),
        ("/a,/b:/c", [("/a", "/a", "rw"), ("/b", "/c", "rw")]),
        ("/a:/a:ro,/b", [("/a", "/a", "ro"), ("/b", "/b", "rw")]),
        ("/a:/x:ro,rw", [("/a", "/x", "rw")]),
        ("file.txt:/f", [("/scratch/job/file.txt", "/f", "rw")]),
        ("../up", [("/scratch/up", "/scratch/up", "rw")]),
        ("~/x:/x", [("/home/ada/x", "/x", "rw")]),
        (r"/with\:colon:/x", [("/with:colon", "/x", "rw")]),
        (r"/with\,comma:/x", [("/with,comma", "/x", "rw")]),
        ("/with blank/é:/x", [("/with blank/é", "/x", "rw")]),
        ("/a//b/:/x//y/", [("/a/b", "/x/y", "rw")]),
        (",/a, /b:/x ,,", [("/a", "/a", "rw"), ("/b", "/x", "rw")]),
    ],
)
def test_bind_in_all_its_forms(text: str, binds: list[tuple[str, str, str]]) -> None:
    assert bound(plan_for(["exec", "--bind", text, "IMAGE", "x"]), "--bind") == binds
    assert bound(plan_for(["exec", "-B" + text, "IMAGE", "x"]), "--bind") == binds
    assert bound(plan_for(["exec", "--bind", text, "--bind", "", "IMAGE", "x"]), "--bind") == binds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (":/x", "is not a bind"),
        ("/a:/b:ro:rw", "is not a bind"),
        ("/a:b", "is not an absolute path"),
        ("/", "would cover the whole container"),
        ("/a:/", "would cover the whole container"),
        ("/a://b/..", "would cover the whole container"),
        ("/a:/b:roo", "is not a bind option"),
        ("/a:/b:nosuid", "is not a bind option"),
    ],
)
def test_a_bind_that_makes_no_sense_is_named(text: str, why: str) -> None:
    with pytest.raises(SolitonError, match=why):
        plan_for(["exec", "--bind", text, "IMAGE", "x"])


@pytest.mark.parametrize(
    ("words", "image", "wanted"),
    [
        (["--bind", "/a.img:/b:image-src=/x"], ("/a.img", None), ("/x", "/b", False)),
        (["--bind", "/a.img:/b:ro,image-src=/x"], ("/a.img", None), ("/x", "/b", True)),
        (["--bind", "/a.sif:/b:id=4"], ("/a.sif", 4), ("/", "/b", False)),
        (
            ["--mount", "type=bind,source=/a,destination=/b,image-src=/x,id=2,ro"],
            ("/a", 2),
            ("/x", "/b", True),
        ),
        (["--data", "/a:/b"], ("/a", None), ("/", "/b", True)),
    ],
)
def test_images_are_bound_from(
    words: list[str], image: tuple[str, int | None], wanted: tuple[str, str, bool]
) -> None:
    over = Over(images={image: ExtRoot(image[0], 0, 1 << 26, writable=not wanted[2])})
    (bind,) = at(plan_for(["exec", *words, "IMAGE", "x"], over=over), wanted[1])
    assert isinstance(bind, DataBind)
    assert (bind.source, bind.target, bind.read_only) == wanted


def test_what_cannot_be_written_is_bound_read_only() -> None:
    over = Over(images={("/a", None): ImageRoot("/a", 0, 4096)})
    (bind,) = at(plan_for("exec --bind /a:/b:image-src=/ IMAGE x", over=over), "/b")
    assert isinstance(bind, DataBind)
    assert bind.read_only


@pytest.mark.parametrize(
    "words",
    [
        ["--bind", "/a:/b:image-src=x"],
        ["--bind", "/a:/b:id=x"],
        ["--bind", "/a:/b:id=0"],
        ["--mount", "type=bind,src=/a,dst=/b,id=-1"],
        ["--mount", "type=bind,src=/a,dst=/b,image-src=rel"],
        ["--data", "/a"],
        ["--data", "/a:b"],
        ["--data", "/a:/"],
        ["--data", "/a:/b:ro"],
    ],
)
def test_a_bind_out_of_an_image_that_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SolitonError) as caught:
        plan_for(["exec", *words, "IMAGE", "x"])
    assert words[1].split(",")[0].split(":")[0][:3] in caught.value.args[0]


@pytest.mark.parametrize(
    ("text", "binds"),
    [
        ("type=bind,source=/a,destination=/b", [("/a", "/b", "rw")]),
        ("type=bind,src=/a,dst=/b,ro", [("/a", "/b", "ro")]),
        ("target=/b,type=bind,src=rel,readonly=true", [("/scratch/job/rel", "/b", "ro")]),
        ('type=bind,"src=/with,comma",dst=/b', [("/with,comma", "/b", "rw")]),
        ("type=bind,src=/with:colon,dst=/b,nonested", [("/with:colon", "/b", "rw")]),
        ("source=/a,destination=/b", [("/a", "/b", "rw")]),
        ("type=bind,src=/a,dst=/a\ntype=bind,src=/b,dst=/b,ro\n", [("/a", "/a", "rw"), ("/b", "/b", "ro")]),
    ],
)
def test_mount_in_all_its_forms(text: str, binds: list[tuple[str, str, str]]) -> None:
    assert bound(plan_for(["exec", "--mount", text, "IMAGE", "x"]), "--mount") == binds


@pytest.mark.parametrize(
    "text",
    [
        "type=,source=/a,destination=/b",
        "type=tmpfs,destination=/b",
        "type=bind,destination=/b",
        "type=bind,source=/a",
        "type=bind,source=/a,destination=b",
        "type=bind,source=/a,destination=/",
        "type=bind,source=/a,destination=/b,rw",
        "type=bind,source=/a,destination=/b,bind-propagation=shared",
        "type=bind,source=/a,destination=/b,ro=no",
        "type=bind,source=/a,destination=/" + "b" * 200000,
    ],
)
def test_a_mount_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SolitonError):
        plan_for(["exec", "--mount", text, "IMAGE", "x"])


def test_binds_are_sorted_by_destination_so_that_outer_ones_come_first() -> None:
    plan = plan_for("exec -B /1:/a/b -B /2:/a-b,/3:/a --mount type=bind,src=/4,dst=/a/b/c IMAGE x")
    targets = [m.target for m in plan.mounts if m.origin in ("--bind", "--mount")]
    assert targets == ["/a", "/a/b", "/a/b/c", "/a-b"]


@pytest.mark.parametrize(
    ("variables", "binds"),
    [
        ({"SINGULARITY_BIND": "/s"}, ["/s"]),
        ({"SINGULARITY_BINDPATH": "/s"}, ["/s"]),
        ({"APPTAINER_BIND": "/a", "SINGULARITY_BIND": "/s"}, ["/a"]),
        ({"SOLITON_BIND": "/o", "APPTAINER_BIND": "/a", "SINGULARITY_BIND": "/s"}, ["/o"]),
        ({"APPTAINER_BIND": "/a", "APPTAINER_BINDPATH": "/p"}, ["/a"]),
        ({"SINGULARITY_BIND": "/s", "SOLITON_BINDPATH": "/p"}, ["/s"]),
        ({"SOLITON_BIND": "  ", "SINGULARITY_BIND": "/s , /t"}, ["/s", "/t"]),
    ],
)
def test_binds_of_variables_come_in_addition_to_those_of_the_command(
    variables: dict[str, str], binds: list[str]
) -> None:
    (variable,) = {
        mount.origin for mount in plan_for("exec IMAGE x", variables).mounts if mount.origin in variables
    }
    assert [b[0] for b in bound(plan_for("exec IMAGE x", variables), variable)] == binds
    both = plan_for("exec -B /line IMAGE x", variables)
    assert [b[0] for b in bound(both, variable)] == binds
    assert [b[0] for b in bound(both, "--bind")] == ["/line"]


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        ("dev", ["dev /dev"]),
        ("proc", ["proc /proc"]),
        ("sys", ["sys /sys"]),
        ("home", ["bind /home/ada"]),
        ("tmp", ["bind /tmp", "bind /var/tmp"]),
        ("cwd", ["bind /scratch/job"]),
        ("bind-paths", ["bind /etc/localtime", "bind /etc/hosts"]),
        ("/etc/hosts", ["bind /etc/hosts"]),
        ("proc,sys", ["proc /proc", "sys /sys"]),
        ("hostfs", []),
        ("devpts", []),
    ],
)
def test_no_mount_leaves_out_what_it_names(names: str, gone: list[str]) -> None:
    assert described(f"exec --no-mount {names} IMAGE x") == without(*gone)
    assert described("exec IMAGE x", variables={"SINGULARITY_NO_MOUNT": names}) == without(*gone)


def test_no_mount_names_a_configured_bind_by_its_destination() -> None:
    config = Config(bind_path=("/site/software:/sw", "/etc/hosts"))
    assert [b[1] for b in bound(plan_for(config=config), "bind path")] == ["/sw", "/etc/hosts"]
    assert bound(plan_for("exec --no-mount /sw IMAGE x", config=config), "bind path") == [
        ("/etc/hosts", "/etc/hosts", "rw")
    ]
    assert len(bound(plan_for("exec --no-mount /site/software IMAGE x", config=config), "bind path")) == 2


def test_no_mount_refuses_what_is_no_mount() -> None:
    with pytest.raises(SolitonError, match="`procc` is not a mount"):
        plan_for("exec --no-mount procc IMAGE x")


@pytest.mark.parametrize(
    ("config", "gone"),
    [
        (Config(mount_proc=False), ["proc /proc"]),
        (Config(mount_sys=False), ["sys /sys"]),
        (Config(mount_dev="no"), ["dev /dev"]),
        (Config(mount_home=False), ["bind /home/ada"]),
        (Config(mount_tmp=False), ["bind /tmp", "bind /var/tmp"]),
        (Config(config_passwd=False), ["passwd /etc/passwd"]),
        (Config(config_group=False), ["group /etc/group"]),
        (Config(config_resolv_conf=False), ["bind /etc/resolv.conf"]),
        (Config(bind_path=()), ["bind /etc/localtime", "bind /etc/hosts"]),
    ],
)
def test_a_directive_leaves_its_mount_out(config: Config, gone: list[str]) -> None:
    assert described(config=config) == without(*gone)


def test_configured_binds_may_be_missing_and_those_of_the_user_may_not() -> None:
    plan = plan_for("exec -B /data IMAGE x")
    optional = {m.target: m.optional for m in plan.mounts if isinstance(m, Bind)}
    assert optional == {
        "/etc/localtime": True,
        "/etc/hosts": True,
        "/home/ada": True,
        "/tmp": True,
        "/var/tmp": True,
        "/etc/resolv.conf": True,
        "/data": False,
        "/scratch/job": True,
    }


@pytest.mark.parametrize("flag", ["--contain", "-c", "--containall", "-C", "--compat"])
def test_contain_shows_nothing_of_the_host_s_files(flag: str) -> None:
    plan = plan_for(f"exec {flag} IMAGE x")
    assert [f"{m.kind} {m.target}" for m in plan.mounts] == [
        "dev /dev",
        "bind /etc/localtime",
        "bind /etc/hosts",
        "proc /proc",
        "sys /sys",
        "tmpfs /home/ada",
        "tmpfs /tmp",
        "tmpfs /var/tmp",
        "passwd /etc/passwd",
        "group /etc/group",
        "bind /etc/resolv.conf",
    ]
    assert at(plan, "/dev") == [Dev(minimal=True, origin="--contain")]
    assert at(plan, "/home/ada") == [Tmpfs("/home/ada", SIZE, 0o700, origin="--contain")]
    assert at(plan, "/tmp") == [Tmpfs("/tmp", SIZE, 0o1777, origin="--contain")]


def test_contain_keeps_only_hosts_and_localtime_of_the_configured_binds() -> None:
    config = Config(bind_path=("/etc/hosts", "/site", "/etc/localtime"))
    assert [b[0] for b in bound(plan_for("exec -c IMAGE x", config=config), "bind path")] == [
        "/etc/hosts",
        "/etc/localtime",
    ]


def test_contain_keeps_what_the_user_asks_for() -> None:
    plan = plan_for("exec -c -B /data -H /h:/inside IMAGE x")
    assert bound(plan, "--bind") == [("/data", "/data", "rw")]
    assert bound(plan, "--home") == [("/h", "/inside", "rw")]


def test_the_size_of_memory_mounts_is_the_site_s() -> None:
    plan = plan_for("exec -c --scratch /s IMAGE x", config=Config(sessiondir_max_size=1 << 20))
    assert {m.size for m in plan.mounts if isinstance(m, Tmpfs)} == {1 << 20}


@pytest.mark.parametrize("workdir", ["/work", "/work/"])
def test_workdir_holds_what_contain_would_keep_in_memory(workdir: str) -> None:
    plan = plan_for(f"exec -c -W {workdir} -S /s,/deep/er IMAGE x")
    assert bound(plan, "--workdir") == [
        ("/work/home", "/home/ada", "rw"),
        ("/work/tmp", "/tmp", "rw"),
        ("/work/var_tmp", "/var/tmp", "rw"),
    ]
    assert bound(plan, "--scratch") == [
        ("/work/scratch/s", "/s", "rw"),
        ("/work/scratch/deep/er", "/deep/er", "rw"),
    ]


def test_a_relative_workdir_is_below_the_working_directory() -> None:
    plan = plan_for("exec -c -W w -S /../s IMAGE x")
    assert [b[0] for b in bound(plan, "--workdir")] == [
        "/scratch/job/w/home",
        "/scratch/job/w/tmp",
        "/scratch/job/w/var_tmp",
    ]
    assert bound(plan, "--scratch") == [("/scratch/job/w/scratch/s", "/s", "rw")]


def test_scratch_without_workdir_is_in_memory() -> None:
    plan = plan_for("exec --scratch /s --scratch /t IMAGE x")
    assert at(plan, "/s") == [Tmpfs("/s", SIZE, 0o1777, origin="--scratch")]
    assert len(at(plan, "/t")) == 1
    with pytest.raises(SolitonError, match="`s` is not an absolute path"):
        plan_for("exec --scratch s IMAGE x")


HOME = "/home/ada"


@pytest.mark.parametrize(
    ("words", "mount", "home"),
    [
        ("", Bind(HOME, HOME, optional=True, origin="mount home"), HOME),
        ("--home /h", Bind("/h", "/h", origin="--home"), "/h"),
        ("--home /h:/inside", Bind("/h", "/inside", origin="--home"), "/inside"),
        ("-H rel:/inside", Bind("/scratch/job/rel", "/inside", origin="--home"), "/inside"),
        ("--no-home", None, HOME),
        ("--no-home --home /h:/inside", None, "/inside"),
        ("--no-mount home", None, HOME),
        ("--contain", Tmpfs(HOME, SIZE, 0o700, origin="--contain"), HOME),
        ("--contain --no-home", None, HOME),
        ("--contain --home /h", Bind("/h", "/h", origin="--home"), "/h"),
        ("--fakeroot", Bind(HOME, "/root", optional=True, origin="mount home"), "/root"),
        ("--fakeroot --contain", Tmpfs("/root", SIZE, 0o700, origin="--contain"), "/root"),
        ("--fakeroot --home /h", Bind("/h", "/h", origin="--home"), "/h"),
    ],
)
def test_home_in_all_its_forms(words: str, mount: Bind | Tmpfs | None, home: str) -> None:
    plan = plan_for(f"exec {words} IMAGE x")
    origins = {"mount home", "--home"}
    found = [m for m in plan.mounts if m.origin in origins or m.target in (HOME, "/root")]
    assert found == ([] if mount is None else [mount])
    assert plan.process.environment.fixed["HOME"] == home
    (passwd,) = at(plan, "/etc/passwd")
    assert isinstance(passwd, PasswdFile) and passwd.home == home


def test_a_home_that_is_the_root_directory_is_not_mounted() -> None:
    assert at(plan_for(host=replace(CALLER, home="/")), "/") == []


@pytest.mark.parametrize("text", [":/x", "/a:b", "/a:/b:/c"])
def test_a_home_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SolitonError):
        plan_for(f"exec --home {text} IMAGE x")


def test_the_caller_gets_lines_in_passwd_and_group() -> None:
    plan = plan_for()
    assert at(plan, "/etc/passwd") == [
        PasswdFile(1000, 100, "ada", "Ada L.", HOME, "/bin/zsh", origin="config passwd")
    ]
    assert at(plan, "/etc/group") == [
        GroupFile((("users", 100), ("physics", 2000)), "ada", origin="config group")
    ]


def test_fakeroot_is_called_root_whoever_calls() -> None:
    plan = plan_for("exec --fakeroot IMAGE x")
    assert at(plan, "/etc/passwd") == [
        PasswdFile(0, 0, "root", "Ada L.", "/root", "/bin/zsh", origin="config passwd")
    ]
    assert at(plan, "/etc/group") == [GroupFile((("root", 0),), "root", origin="config group")]


@pytest.mark.parametrize("line", ["exec --fakeroot --writable IMAGE x", "exec --writable IMAGE x"])
def test_root_in_a_writable_container_has_the_image_s_own_users(line: str) -> None:
    plan = plan_for(line, root=SANDBOX, host=CALLER if "fakeroot" in line else ROOT)
    assert at(plan, "/etc/passwd") == at(plan, "/etc/group") == []


def test_others_in_a_writable_container_have_their_lines() -> None:
    assert at(plan_for("exec --writable IMAGE x", root=SANDBOX), "/etc/passwd")


def test_names_are_looked_up_as_on_the_host_unless_dns_is_given() -> None:
    assert at(plan_for(), "/etc/resolv.conf") == [
        Bind("/etc/resolv.conf", "/etc/resolv.conf", optional=True, origin="config resolv_conf")
    ]
    assert at(plan_for(host=replace(CALLER, resolv_conf=False)), "/etc/resolv.conf") == []
    for line in ("exec --dns 10.0.0.1,10.0.0.2 IMAGE x", "exec --dns 10.0.0.1 --dns 10.0.0.2 IMAGE x"):
        text = "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"
        assert at(plan_for(line), "/etc/resolv.conf") == [
            SynthesizedFile("/etc/resolv.conf", text, optional=True, origin="--dns")
        ]


def test_a_hostname_is_in_its_file_too() -> None:
    plan = plan_for("exec --hostname box IMAGE x")
    assert at(plan, "/etc/hostname") == [
        SynthesizedFile("/etc/hostname", "box\n", optional=True, origin="--hostname")
    ]
    assert (plan.hostname, plan.namespaces) == ("box", ("uts",))


@pytest.mark.parametrize(
    ("cwd", "mounted"),
    [
        ("/scratch/job", True),
        ("/optical", True),
        ("/usr/local/x", True),
        ("/home/ada", False),
        ("/home/ada/deep", False),
        ("/home/adam", True),
        ("/tmp/x", False),
        ("/var/tmp", False),
        *(
            (top, False)
            for top in ("/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64")
        ),
        *((below, False) for below in ("/sys", "/sys/fs", "/proc/1", "/dev/shm")),
        (None, False),
    ],
)
def test_the_working_directory_is_mounted_where_it_is_not_there_yet(cwd: str | None, mounted: bool) -> None:
    plan = plan_for(host=replace(CALLER, cwd=cwd))
    expected = [Bind(cwd, cwd, optional=True, origin="current directory")] if cwd and mounted else []
    assert [m for m in plan.mounts if m.origin == "current directory"] == expected


def test_the_working_directory_is_not_mounted_twice_below_a_bind() -> None:
    assert bound(plan_for("exec -B /scratch IMAGE x"), "current directory") == []
    assert len(bound(plan_for("exec -B /scratch:/else IMAGE x"), "current directory")) == 1


def test_dev_is_minimal_where_the_site_wants_it() -> None:
    assert at(plan_for(), "/dev") == [Dev(minimal=False, origin="mount dev")]
    assert at(plan_for(config=Config(mount_dev="minimal")), "/dev") == [Dev(minimal=True, origin="mount dev")]
    assert at(plan_for(), "/proc") == [Proc(origin="mount proc")]
    assert at(plan_for(), "/sys") == [Sys(origin="mount sys")]


def test_a_home_in_tmp_is_mounted_after_it() -> None:
    host = replace(CALLER, home="/tmp/ada")
    for line in ("exec -c IMAGE x", "exec -c -W /w IMAGE x", "exec IMAGE x"):
        targets = [mount.target for mount in plan_for(line, host=host).mounts]
        assert targets.index("/tmp/ada") > targets.index("/tmp")
    targets = [mount.target for mount in plan_for("exec -c IMAGE x").mounts]
    assert targets.index("/home/ada") < targets.index("/tmp")
