"""`soliton.toml`: how it is read, who may say what, how it is changed, and what it does to a plan."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.api import config as api
from soliton.errors import ImageError, LaunchError, SolitonError
from soliton.images.detect import Image
from soliton.launch.plan import Bind, Dev, ReadOnlySurface
from soliton.launch.policy import require_image
from soliton.record import names_of, replace
from soliton.site import config as configuration
from soliton.site import paths, peer, settings, toml
from soliton.site.config import DEFAULTS, Config, Place, Settings, load
from soliton.site.directives import BY_NAME, DIRECTIVES, WITHOUT_MEANING, ValueProblem
from soliton.site.trust import distrust
from tests.unit.compiled import CALLER, IMAGE, ROOT, at, plan_for

POLICY = [directive for directive in DIRECTIVES if directive.policy and directive.built]
WISHES = [directive for directive in DIRECTIVES if not directive.policy and directive.built]


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is taken for one of root's."""
    monkeypatch.setattr(settings, "distrust", lambda path: None)


def files(folder: Path, **texts: str) -> tuple[Place, ...]:
    """Files of these roles, in the order in which they are read."""
    found = []
    for role, text in texts.items():
        path = folder / f"{role}.toml"
        path.write_text(text, encoding="utf-8")
        found.append(Place(role, str(path)))
    return tuple(found)


def says(folder: Path, **texts: str) -> Settings:
    return load(files(folder, **texts))


def other_than_default(directive: Any) -> object:
    """A value as the file has it that is not the default."""
    if directive.kind == "flag":
        return not directive.default
    if directive.kind == "choice":
        return next(word for word in directive.choices if word != directive.default)
    if directive.kind == "list":
        return ["/somewhere"]
    return {"mebibytes": 5, "count": 7}.get(directive.kind, "/somewhere")


def test_there_is_one_record_for_each_value_and_the_other_way_round() -> None:
    assert {directive.field for directive in DIRECTIVES} == set(names_of(DEFAULTS) or ())
    for directive in DIRECTIVES:
        assert directive.read(peer.plain(directive, directive.default)) == directive.default
        assert directive.help
        assert (directive.kind == "choice") == bool(directive.choices)


def test_every_directive_of_the_peers_is_known() -> None:
    known = {directive.peer for directive in DIRECTIVES} | set(WITHOUT_MEANING)
    for name in [
        "allow setuid",
        "max loop devices",
        "allow pid ns",
        "config passwd",
        "mount hostfs",
        "bind path",
        "user bind control\n    ",
        "enable overlay",
        "sessiondir max size",
        "limit container owners",
        "allow container sif",
        "allow setuid-mount extfs",
        "always use nv\n    ",
        "root default capabilities",
        "memory fs type",
        "cni plugin path",
        "binary path",
        "mksquashfs procs",
        "download concurrency",
        "systemd cgroups\n    ",
        "apptheus communication socket path",
        "config resolv_conf",
        "allow container encrypted",
        "shared loop devices",
    ]:
        assert name.strip() in known


def test_without_a_file_nothing_is_read(tmp_path: Path) -> None:
    found = load((Place("machine", f"{tmp_path}/a"), Place("user", f"{tmp_path}/a/b")))
    assert found.config is DEFAULTS
    assert found.looked_at == (f"{tmp_path}/a", f"{tmp_path}/a/b")


def test_a_later_file_wins_and_binds_of_the_user_add_up(tmp_path: Path) -> None:
    found = says(
        tmp_path,
        machine='mount-home = false\nmount-dev = "minimal"\n# note\nbind-path = ["/site"]\n',
        installation="mount-home = true\n",
        user='mount-dev = "yes"\nbind-path = [\n  "/site",\n  "/mine:/x:ro", # mine\n]\n',
    )
    assert (found.config.mount_home, found.config.mount_dev) == (True, "yes")
    assert found.config.bind_path == ("/site", "/mine:/x:ro")
    assert found.origins["mount-home"] == (f"{tmp_path}/installation.toml:1",)
    assert found.origins["bind-path"] == (f"{tmp_path}/machine.toml:4", f"{tmp_path}/user.toml:2")
    assert says(tmp_path, user='bind-path = ["/mine"]').config.bind_path == (*DEFAULTS.bind_path, "/mine")


@pytest.mark.parametrize("directive", WISHES, ids=[d.name for d in WISHES])
def test_every_wish_can_be_set_and_locked(directive: Any, tmp_path: Path, trusted: None) -> None:
    value = other_than_default(directive)
    line = f"{directive.name} = {toml.written(value)}\n"
    assert getattr(says(tmp_path, user=line).config, directive.field) != directive.default
    locked = says(tmp_path, machine=f'locked = ["{directive.name}"]\n', user=line)
    assert locked.config == DEFAULTS
    assert locked.notices == (
        f"`{directive.name}` in {tmp_path}/user.toml:1 is not used: {tmp_path}/machine.toml:1 locks it",
    )


@pytest.mark.parametrize("directive", POLICY, ids=[d.name for d in POLICY])
def test_a_rule_counts_only_in_a_file_of_root_s(directive: Any, tmp_path: Path) -> None:
    line = f"\n{directive.name} = {toml.written(other_than_default(directive))}\n"
    with pytest.raises(SolitonError, match=r"user.toml:2` is not for a user to say"):
        says(tmp_path, user=line)
    # No directory for temporary files is one that only root can write.
    with pytest.raises(
        SolitonError, match=r"machine.toml:2` is a rule of the site, and this file cannot make one"
    ):
        says(tmp_path, machine=line)


def test_locking_is_a_rule_too(tmp_path: Path) -> None:
    for role in ("user", "machine"):
        with pytest.raises(SolitonError, match=r"`locked` in .*toml:1"):
            says(tmp_path, **{role: 'locked = ["mount-home"]'})


def test_the_first_rule_of_the_site_holds(tmp_path: Path, trusted: None) -> None:
    found = says(tmp_path, machine="allow-pid-ns = false\n", installation="allow-pid-ns = true\n")
    assert not found.config.allow_pid_ns
    assert "machine.toml:1 locks it" in found.notices[0]


def test_binds_of_a_user_s_file_are_binds_of_the_user_s_choice(tmp_path: Path, trusted: None) -> None:
    found = says(tmp_path, machine="user-bind-control = false", user='bind-path = ["/mine"]')
    assert found.config.bind_path == DEFAULTS.bind_path
    assert "forbids binds of the user's choice" in found.notices[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mount-hom = true", "`mount-hom` in `FILE:1` is not a directive|did you mean `mount-home`?"),
        ("\nmount_home = true", "`mount_home` in `FILE:2` is not a directive|did you mean `mount-home`?"),
        ("allow-setuid = true", "`allow-setuid` in `FILE:1` is not a directive|it has no meaning here: it is about a setuid program, and soliton has none"),
        ("mount-home = 1", "`mount-home` in `FILE:1` has the value 1|expected true or false"),
        ('mount-dev = "mini"', '`mount-dev` in `FILE:1` has the value "mini"|expected one of yes, no, minimal'),
        ("sessiondir-max-size = 0", "`sessiondir-max-size` in `FILE:1` has the value 0|expected a number of MiB, at least 1"),
        ('bind-path = "/x"', '`bind-path` in `FILE:1` has the value "/x"|expected a list of texts in brackets'),
        ('bind-path = ["x"]', '`bind-path` in `FILE:1` has the value ["x"]|`x` is not /SRC, /SRC:/DST or /SRC:/DST:ro'),
        ("# a\n[site]\nproc = true", "`site` in `FILE:2` is not a directive|`soliton config show` lists all there are"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_an_error_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SolitonError) as caught:
        says(tmp_path, user=text)
    found = "|".join(part for part in (caught.value.what, caught.value.why, caught.value.remedy) if part)
    assert found.replace(f"{tmp_path}/user.toml", "FILE") == message


@pytest.mark.parametrize(
    "text",
    [
        "mount-home = yes",
        "mount-home",
        "= 1",
        'a = "',
        "a = [1",
        "a = 1\na = 2",
        "a = 01",
        "\x00",
        "[" * 5000,
    ],
)
def test_what_is_not_toml_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(SolitonError, match=r"user.toml` cannot be read"):
        says(tmp_path, user=text)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b'a = "x"\nb = "\xff"\n')
    with pytest.raises(SolitonError, match=r"binary:2` is not text in UTF-8"):
        load((Place("user", f"{tmp_path}/binary"),))
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(SolitonError, match=r"is not a file|cannot be read"):
            load((Place("user", f"{tmp_path}/{name}"),))
    (tmp_path / "large").write_bytes(b"#" * (toml.LARGEST + 1))
    with pytest.raises(SolitonError, match="too large"):
        load((Place("user", f"{tmp_path}/large"),))
    with pytest.raises(SolitonError, match="cannot be read"):
        load((Place("chosen", f"{tmp_path}/missing"),))


def test_a_file_of_the_site_that_anybody_can_write_is_not_used(tmp_path: Path) -> None:
    (place,) = files(tmp_path, installation="mount-home = false")
    os.chmod(place.path, 0o646)
    with pytest.raises(SolitonError, match="can be written by anybody"):
        load((place,))


def test_who_speaks_for_the_site(tmp_path: Path) -> None:
    # The files of the system are root's; the temporary directory can be written by everybody.
    assert distrust("/usr/bin/env") is None
    (tmp_path / "link").symlink_to("/usr/bin/env")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        assert distrust(str(tmp_path / name)) is not None
    assert distrust("/no/such") is not None


# --- the text


VALUES = st.recursive(
    st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=8).filter(lambda t: t.isprintable()),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,6}", fullmatch=True), VALUES, max_size=4))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    text = "".join(f"{name} = {toml.written(value)}\n" for name, value in values.items())
    assert {entry.name: entry.value for entry in toml.scan(text)} == values == tomllib.loads(text)


PIECES = ["a", "b-1", "=", " ", "\n", "[", "]", ",", "#", '"', "'", "\\", "true", "false", "0", "-1", "x y", "é", "\t", "\\n", "1_0", '"""', "."]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_the_quick_reader_never_differs_from_the_whole_one(text: str) -> None:
    try:
        found = {entry.name: entry.value for entry in toml.scan(text)}
    except toml.Unusual:
        return
    assert tomllib.loads(text) == found


@given(
    st.lists(
        st.sampled_from(["# note", "", "a = 1 # one", "b = [\n 1,\n]", 'c = "x"']), unique=True, max_size=5
    ),
    st.sampled_from("abcd"),
    st.none() | st.integers(0, 9),
)
def test_changing_one_value_leaves_everything_else(lines: list[str], name: str, value: int | None) -> None:
    before = "\n".join(lines)
    after = toml.set_value(before, name, value, "FILE")
    expected = {entry.name: entry.value for entry in toml.scan(before)}
    expected.pop(name, None)
    if value is not None:
        expected[name] = value
    assert {entry.name: entry.value for entry in toml.scan(after)} == expected
    assert before.count("# note") == after.count("# note")


def test_what_a_program_should_not_change_is_left_to_people() -> None:
    with pytest.raises(SolitonError, match="not changed by a program"):
        toml.set_value('a = """x\n"""', "b", 1, "FILE")


# --- changing files


def test_a_file_is_changed_in_one_step_and_keeps_its_mode(tmp_path: Path) -> None:
    (place,) = files(tmp_path, user="# mine\nmount-home = false\n")
    os.chmod(place.path, 0o600)
    api.write(place, api.changed(place, api.find("mount home"), ["yes"]))
    assert Path(place.path).read_text() == "# mine\nmount-home = true\n"
    assert os.stat(place.path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["user.toml"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("mount-home", ["maybe"]), ("mount-home", ["yes", "no"]), ("mount-dev", ["mini"]), ("mksquashfs-procs", ["x"]), ("bind-path", ["x"])],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_not_written(name: str, words: list[str], tmp_path: Path) -> None:
    (place,) = files(tmp_path, user="")
    with pytest.raises(SolitonError):
        api.changed(place, api.find(name), words)
    with pytest.raises(SolitonError, match="not for a user to say"):
        api.changed(place, api.find("allow-pid-ns"), ["no"])


PEER = """\
# a comment
allow setuid = yes
mount home = no
mount home = yes
bind path = /etc/localtime
bind path = /data, /sw:/opt/sw
sessiondir max size = 128
limit container paths =
limit container owners = root, ada
use nvidia-container-cli = yes
made up = 3
"""


def test_a_peer_s_configuration_is_taken_over(tmp_path: Path) -> None:
    text, warnings = peer.converted(PEER, "a.conf")
    assert tomllib.loads(text) == {
        "mount-home": False,
        "bind-path": ["/etc/localtime", "/data", "/sw:/opt/sw"],
        "sessiondir-max-size": 128,
        "use-nvidia-container-cli": True,
        "limit-container-owners": ["root", "ada"],
    }
    assert "allow setuid = yes  -- left out: it is about a setuid program" in text
    assert warnings == [
        "`made up` in a.conf:11 is not known and left out",
    ]
    settings.checked(Place("machine", "FILE"), text)


#: What both peers ship: `directive = value` as there, each behind comments; lists as lines of their own.
SHIPPED = """
allow setuid = yes|allow ipc ns = yes|allow pid ns = yes|allow user ns = yes|allow uts ns = yes|config passwd = yes
config group = yes|config resolv_conf = yes|mount proc = yes|mount sys = yes|mount dev = yes|mount devpts = yes
mount home = yes|mount tmp = yes|mount hostfs = no|bind path = /etc/localtime|bind path = /etc/hosts
user bind control = yes|enable fusemount = yes|enable underlay = yes|mount slave = yes|sessiondir max size = 64
max loop devices = 256|#limit container owners = gmk, singularity, nobody|#limit container groups = group1, nobody
#limit container paths = /scratch, /tmp, /global|allow container sif = yes|allow container encrypted = yes
allow container squashfs = yes|allow container extfs = yes|allow container dir = yes|#allow net users = gmk, singularity
#allow net groups = group1|#allow net networks = bridge|#allow netns paths = /var/run/netns/my_network
always use nv = no|use nvidia-container-cli = no|always use rocm = no|root default capabilities = full
memory fs type = tmpfs|#cni configuration path =|#cni plugin path =|mksquashfs procs = 0|# mksquashfs mem = 1G
shared loop devices = no|download concurrency = 3|download part size = 5242880|download buffer size = 32768
systemd cgroups = yes
"""
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHIPPED_BY = {
    "Apptainer": f"""
enable overlay = yes|allow setuid-mount encrypted = yes|allow setuid-mount squashfs = iflimited
allow setuid-mount extfs = no|sync writable extfs = no|binary path = $PATH:{SEARCHED}|# suidbinary path =|# image driver =
apptheus communication socket path = /run/apptheus/gateway.sock|allow monitoring = no
""",
    "SingularityCE": f"""
enable overlay = try|allow kernel squashfs = yes|allow kernel extfs = yes|# cryptsetup path =|# go path =
# ldconfig path =|# mksquashfs path =|# unsquashfs path =|# nvidia-container-cli path =|sif fuse = no|oci mode = no
tmp sandbox = yes|root search path = {SEARCHED}|user search path = $PATH:{SEARCHED}
""",
}


@pytest.mark.parametrize(
    ("name", "differs"), [("Apptainer", {}), ("SingularityCE", {"enable-overlay": "try"})]
)
def test_the_files_that_the_peers_ship_are_taken_over_whole(name: str, differs: dict[str, Any]) -> None:
    lines = (SHIPPED + SHIPPED_BY[name]).replace("|", "\n").splitlines()
    whole = "\n".join(
        f"# {line.partition('=')[0].upper()}: [BOOL]\n# DEFAULT: see above\n{line}\n"
        for line in lines
        if line
    )
    text, warnings = peer.converted(whole, "a.conf")
    assert (tomllib.loads(text), warnings) == (differs, [])


def test_root_s_capabilities_of_a_file_become_none() -> None:
    text, warnings = peer.converted("root default capabilities = file\n", "a.conf")
    assert tomllib.loads(text) == {"bind-path": [], "root-default-capabilities": "no"}
    assert warnings == [
        "`root default capabilities = file` in a.conf:1: capability.json is not read, it becomes `no`"
    ]


def test_a_peer_s_file_without_binds_binds_nothing() -> None:
    assert tomllib.loads(peer.converted("", "a.conf")[0]) == {"bind-path": []}


@pytest.mark.parametrize("text", ["mount home = maybe", "no directive", "mount dev = mini"])
def test_a_peer_s_file_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(SolitonError, match=r"a\.conf:1"):
        peer.converted(text, "a.conf")


@pytest.mark.parametrize(
    ("module", "prefix"),
    [
        ("/usr/lib/python3/dist-packages/soliton/site/config.py", "/usr"),
        ("/opt/x/lib/soliton/lib/python3.11/site-packages/soliton/site/config.py", "/opt/x"),
        ("/home/ada/.local/lib/python3.12/site-packages/soliton/site/config.py", "/home/ada/.local"),
    ],
)
def test_where_an_installation_is(module: str, prefix: str) -> None:
    assert configuration.prefix_of(module) == prefix


def test_a_configured_place_may_name_variables() -> None:
    def filled(text: str) -> str:
        return paths.filled("cache-dir", text, {"USER": "ada", "X": "x"}, "/home/ada")

    assert filled("/scratch/$USER/${X}y") == "/scratch/ada/xy"
    assert filled("~/c") == "/home/ada/c"
    with pytest.raises(SolitonError, match="`NOT_SET` is not set"):
        filled("/$NOT_SET/x")


# --- what directives do


def test_directives_of_the_root_file_system() -> None:
    assert plan_for(config=Config(enable_underlay="preferred")).surface == ReadOnlySurface("underlay")
    assert plan_for(config=Config(enable_overlay="no")).surface == ReadOnlySurface("underlay")
    assert plan_for(config=Config(enable_underlay="no")).surface == ReadOnlySurface("overlay")
    with pytest.raises(LaunchError, match="not possible here"):
        plan_for("exec --writable-tmpfs IMAGE x", config=Config(enable_overlay="no"))


def test_terminals_of_a_minimal_dev_can_be_left_out() -> None:
    for plan in (plan_for("exec -c IMAGE x", config=Config(mount_devpts=False)), plan_for("exec -c --no-mount devpts IMAGE x")):  # fmt: skip
        (dev,) = at(plan, "/dev")
        assert isinstance(dev, Dev) and dev.minimal and not dev.pts


def test_file_systems_of_the_host_appear_where_the_site_wants_them() -> None:
    host = replace(
        CALLER, mount_points=("/", "/data", "/data/deep", "/dev/shm", "/proc", "/run/user/1", "/sw")
    )
    config = Config(mount_hostfs=True)

    def shown(line: str) -> list[str]:
        return [
            m.target for m in plan_for(line, config=config, host=host).mounts if m.origin == "mount hostfs"
        ]

    assert shown("exec IMAGE x") == ["/data", "/sw"]
    assert shown("exec --no-mount hostfs IMAGE x") == shown("exec -c IMAGE x") == []


def test_root_s_capabilities() -> None:
    config = Config(root_default_capabilities="no")
    assert plan_for(host=ROOT, config=config).process.capabilities == "none"
    assert plan_for("exec --keep-privs IMAGE x", host=ROOT, config=config).process.capabilities == "all"


def test_a_configured_bind_can_be_read_only() -> None:
    (bind,) = at(plan_for(config=Config(bind_path=("/a:/b:ro",))), "/b")
    assert isinstance(bind, Bind) and bind.read_only and bind.optional


# --- rules


@pytest.mark.parametrize(
    ("config", "line"),
    [
        *((Config(user_bind_control=False), f"exec {words} IMAGE x") for words in ("-B /a", "--mount type=bind,src=/a,dst=/a", "-H /h", "-c -W /w")),
        (Config(allow_user_ns=False), "exec IMAGE x"),
        (Config(allow_pid_ns=False), "exec --pid IMAGE x"),
        (Config(allow_pid_ns=False), "exec -C IMAGE x"),
        (Config(allow_ipc_ns=False), "exec -i IMAGE x"),
        (Config(allow_uts_ns=False), "exec --hostname h IMAGE x"),
    ],
)  # fmt: skip
def test_what_a_rule_forbids_is_refused_except_to_root(config: Config, line: str) -> None:
    with pytest.raises(LaunchError, match="is not allowed here"):
        plan_for(line, config=config)
    plan_for(line, config=config, host=ROOT)


FLAGS = st.lists(
    st.sampled_from(["-B/a", "-C", "-c", "-p", "-i", "--uts", "-f", "-H/h:/i", "-S/s", "-W/w", "-u", "--compat", "--no-pid", "--writable-tmpfs", "--keep-privs", "--hostname=h", "--underlay", "--no-mount=cwd"]),
    max_size=5,
    unique=True,
)  # fmt: skip
VARIABLES = st.dictionaries(
    st.sampled_from([f"{p}{k}" for p in ("SOLITON_", "APPTAINER_", "SINGULARITY_") for k in ("BIND", "PID", "UNSHARE_IPC", "HOME", "UTS", "CONTAINALL", "WORKDIR", "ALLOW_PID_NS", "CONFIG_FILE", "USER_BIND_CONTROL")]),
    st.sampled_from(["1", "/a", "/a:/b"]),
    max_size=4,
)  # fmt: skip
RULES = st.fixed_dictionaries({name: st.booleans() for name in ("user_bind_control", "allow_pid_ns", "allow_ipc_ns", "allow_uts_ns", "allow_user_ns")})  # fmt: skip


@given(FLAGS, VARIABLES, RULES)
def test_no_flag_and_no_variable_loosens_a_rule(
    flags: list[str], variables: dict[str, str], rules: dict[str, bool]
) -> None:
    config = replace(DEFAULTS, **rules)
    try:
        plan = plan_for(["exec", *flags, "IMAGE", "x"], variables, config=config)
    except SolitonError:
        return
    for name in ("pid", "ipc", "uts"):
        assert rules[f"allow_{name}_ns"] or name not in plan.namespaces
    assert rules["allow_user_ns"] or not plan.identity.uid_map
    if not rules["user_bind_control"]:
        ours = {"bind path", "mount home", "mount tmp", "config resolv_conf"}
        assert {m.origin for m in plan.mounts if isinstance(m, Bind)} <= ours


@given(
    st.sampled_from(POLICY), st.sampled_from(DIRECTIVES), st.sampled_from(["installation", "user", "chosen"])
)
def test_no_later_file_loosens_a_rule(
    tmp_path_factory: pytest.TempPathFactory, rule: Any, other: Any, role: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "distrust", lambda path: None)
        folder = tmp_path_factory.mktemp("rules")
        machine = f"{rule.name} = {toml.written(other_than_default(rule))}\n"
        held = getattr(says(folder, machine=machine).config, rule.field)
        for text in (f"{rule.name} = {toml.written(peer.plain(rule, rule.default))}\n", "locked = []\n", f"{other.name} = {toml.written(other_than_default(other))}\n"):  # fmt: skip
            try:
                found = says(folder, machine=machine, **{role: text})
            except SolitonError:
                continue
            assert getattr(found.config, rule.field) == held


def image(kind: str = "sif", **more: object) -> Image:
    return Image("/images/a.sif", kind, IMAGE, os.stat("/"), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "kind", "path", "owner", "allowed"),
    [
        ({}, "sif", "/images/a.sif", "ada", True),
        ({"allow_container_sif": False}, "sif", "/images/a.sif", "ada", False),
        ({"allow_container_dir": False}, "sandbox", "/images/s", "ada", False),
        ({"allow_container_squashfs": False}, "squashfs", "/images/s", "ada", False),
        ({"allow_container_extfs": False}, "ext3", "/images/s", "ada", False),
        ({"limit_container_owners": ("root",)}, "sif", "/images/a.sif", "ada", False),
        ({"limit_container_owners": ("root", "ada")}, "sif", "/images/a.sif", "ada", True),
        ({"limit_container_owners": ("1000",)}, "sif", "/images/a.sif", "ada", True),
        ({"limit_container_groups": ("wheel",)}, "sif", "/images/a.sif", "ada", False),
        ({"limit_container_paths": ("/images",)}, "sif", "/images/a.sif", "ada", True),
        ({"limit_container_paths": ("/images/",)}, "sif", "/images/a.sif", "ada", True),
        ({"limit_container_paths": ("/images",)}, "sif", "/images-of-mallory/a.sif", "ada", False),
        ({"limit_container_paths": ("/",)}, "sif", "/images/a.sif", "ada", True),
    ],
)
def test_which_images_are_allowed(
    rules: dict[str, Any], kind: str, path: str, owner: str, allowed: bool
) -> None:
    def ask() -> None:
        require_image(
            image(kind), replace(DEFAULTS, **rules), path=path, owner=(owner, 1000), group=("users", 100)
        )

    if allowed:
        ask()
    else:
        with pytest.raises(ImageError, match="is not allowed here"):
            ask()


def test_encrypted_images_can_be_forbidden() -> None:
    rules = replace(DEFAULTS, allow_container_encrypted=False)
    with pytest.raises(ImageError):
        require_image(image(encryption="luks"), rules, path="/a", owner=("a", 1), group=("a", 1))


def test_values_that_no_directive_takes() -> None:
    for directive in DIRECTIVES:
        values: tuple[Any, ...] = (1.5, None, {}, [1], "a\nb\0")
        for value in values:
            with pytest.raises(ValueProblem):
                directive.read(value)
    assert BY_NAME["mount-dev"].read(True) == "yes"
