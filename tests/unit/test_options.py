"""Every option of the contract is there, under its name, letter and variables: the tables against a list of their own.

The lists are written by hand from the contract, in its notation: `name/letter=default{KEY,OTHER}`; `†` bare names count too,
`+` a variable adds to the command line, `(h)` not in help, `(d)` deprecated.
"""

from __future__ import annotations

import pytest

from soliton.cli import commands
from soliton.cli.options import (
    Option,
    ValueProblem,
    assignments,
    boolean,
    duration,
    fields,
    integer,
    permissions,
)
from soliton.cli.tables.root import GLOBALS

EVERY_ACTION = """
add-caps{ADD_CAPS} allow-setuid{ALLOW_SETUID} app{APP,APPNAME} apply-cgroups{APPLY_CGROUPS} authfile{AUTH_FILE}
bind/B{BIND,BINDPATH}+ blkio-weight=0{BLKIO_WEIGHT} blkio-weight-device{BLKIO_WEIGHT_DEVICE} cleanenv/e{CLEANENV}
compat{COMPAT} contain/c{CONTAIN} containall/C{CONTAINALL} containlibs{CONTAINLIBS}(h) cpu-shares=-1{CPU_SHARES}
cpus{CPU_SHARES} cpuset-cpus{CPUSET_CPUS} cpuset-mems{CPUSET_MEMS} disable-cache{DISABLE_CACHE} dns{DNS}
docker-host{DOCKER_HOST}† docker-login{DOCKER_LOGIN} docker-password{DOCKER_PASSWORD}†(h)
docker-username{DOCKER_USERNAME}†(h) drop-caps{DROP_CAPS} env env-file{ENV_FILE} fakeroot/f{FAKEROOT}
fusemount{FUSESPEC} home/H{HOME} hostname{HOSTNAME} ignore-fakeroot-command{IGNORE_FAKEROOT_COMMAND}(h)
ignore-subuid{IGNORE_SUBUID}(h) ignore-userns{IGNORE_USERNS}(h) intel-hpu{INTEL_HPU} ipc/i{IPC,UNSHARE_IPC}
keep-privs{KEEP_PRIVS} memory{MEMORY} memory-reservation{MEMORY_RESERVATION} memory-swap{MEMORY_SWAP} mount{MOUNT}+
net/n{NET,UNSHARE_NET} netns-path{NETNS_PATH} network{NETWORK} network-args{NETWORK_ARGS} no-env{NOENV}
no-eval{NO_EVAL} no-home{NO_HOME} no-https{NOHTTPS,NO_HTTPS} no-init{NOSHIMINIT} no-mount{NO_MOUNT}
no-nv{NV_OFF,NO_NV}(h) no-privs{NO_PRIVS} no-rocm{ROCM_OFF,NO_ROCM}(h) no-umask{NO_UMASK} nohttps(d)(h) nv{NV}
nvccli{NVCCLI} oom-kill-disable{OOM_KILL_DISABLE} overlay/o{OVERLAY,OVERLAYIMAGE} passphrase pem-path
pids-limit=0{PIDS_LIMIT} rocm{ROCM} scratch/S{SCRATCH,SCRATCHDIR} security{SECURITY} tmpdir{TMPDIR}(h)
underlay{UNDERLAY}(d)(h) unsquash{UNSQUASH} userns/u{USERNS,UNSHARE_USERNS} uts{UTS,UNSHARE_UTS} workdir/W{WORKDIR}
writable/w{WRITABLE} writable-tmpfs{WRITABLE_TMPFS}
oci(h) no-oci(h) keep-layers(h) no-compat(h) data(h) sif-fuse(h) tmp-sandbox(h) no-tmp-sandbox(h) no-setgroups(h) proot(h)
"""
FOREGROUND = """
cdi-dirs cwd{CWD,TARGET_CWD} device no-pid{NO_PID} pid/p{PID,UNSHARE_PID} pwd{PWD,TARGET_PWD}(h) sharens{SHARENS}
"""
BACKGROUND = "boot{BOOT} dmtcp-launch{DMTCP_LAUNCH} dmtcp-restart{DMTCP_RESTART} pid-file{PID_FILE}"
TIMEOUT = "runscript-timeout{RUNSCRIPT_TIMEOUT}"
DOCKER = (
    "docker-host{DOCKER_HOST}† docker-login{DOCKER_LOGIN} docker-username{DOCKER_USERNAME}†(h)"
    " docker-password{DOCKER_PASSWORD}†(h)"
)
IGNORE = "ignore-subuid{IGNORE_SUBUID}(h) ignore-userns{IGNORE_USERNS}(h) ignore-fakeroot-command{IGNORE_FAKEROOT_COMMAND}(h)"
OCI_STARTING = "bundle/b{BUNDLE} log-path/l log-format=kubernetes pid-file sync-socket/s"

CONTRACT = {
    "exec": EVERY_ACTION + FOREGROUND,
    "shell": EVERY_ACTION + FOREGROUND + "shell/s{SHELL}",
    "run": EVERY_ACTION + FOREGROUND + TIMEOUT,
    "test": EVERY_ACTION + FOREGROUND,
    "instance start": EVERY_ACTION + BACKGROUND,
    "instance run": f"{EVERY_ACTION} {BACKGROUND} {TIMEOUT}",
    "build": f"""
        arch{{BUILD_ARCH}} arch-variant{{BUILD_ARCH_VARIANT}} authfile{{AUTH_FILE}} bind/B build-arg build-arg-file
        buildkit-host{{BUILDKIT_HOST}}† data{{DATA}} disable-cache{{DISABLE_CACHE}} {DOCKER} encrypt/e
        fakeroot/f{{FAKEROOT}} fix-perms{{FIXPERMS}} force/F{{FORCE}} json{{JSON}} library{{LIBRARY}}
        mksquashfs-args{{MKSQUASHFS_ARGS}} mount{{MOUNT}}+ no-cleanup{{NO_CLEANUP}} no-https{{NOHTTPS,NO_HTTPS}}
        nohttps(d)(h) notest/T{{NOTEST}} nv nvccli{{NVCCLI}} rocm passphrase pem-path reproducible{{REPRODUCIBLE}}
        sandbox/s{{SANDBOX}} section=all{{SECTION}} tmpdir{{TMPDIR}}(h) update/u{{UPDATE}} userns{{USERNS}}
        warn-unused-build-args writable-tmpfs{{WRITABLE_TMPFS}} {IGNORE} remote/r(h) builder(h) detached/d(h) oci(h)
        no-oci(h) keep-layers(h) no-setgroups(h)""",
    "pull": f"""
        arch{{PULL_ARCH}} arch-variant{{PULL_ARCH_VARIANT}} authfile{{AUTH_FILE}} dir{{PULLDIR,PULLFOLDER}}
        disable-cache{{DISABLE_CACHE}} {DOCKER} force/F{{FORCE}} library{{LIBRARY}} name{{PULL_NAME}}(h)
        no-cleanup{{NO_CLEANUP}} no-https{{NOHTTPS,NO_HTTPS}} nohttps(d)(h) reproducible{{REPRODUCIBLE}}
        sandbox{{SANDBOX}} tmpdir{{TMPDIR}}(h) allow-unsigned/U(d)(h) allow-unauthenticated(h) oci(h) no-oci(h)
        keep-layers(h) platform{{PLATFORM}} with-cosign(h)""",
    "push": """
        allow-unsigned/U{ALLOW_UNSIGNED} description/D library{LIBRARY} authfile{AUTH_FILE} docker-host{DOCKER_HOST}†
        no-https{NOHTTPS,NO_HTTPS} nohttps(d)(h) layer-format(h) with-cosign(h)""",
    "sign": "group-id/g sif-id/i key{SIGN_KEY} keyidx/k groupid(d)(h) id(d)(h) all/a(d)(h) cosign/c(h)",
    "verify": """
        url/u{URL} group-id/g sif-id/i certificate{VERIFY_CERTIFICATE} certificate-intermediates{VERIFY_INTERMEDIATES}
        certificate-roots{VERIFY_ROOTS} ocsp-verify{VERIFY_OCSP} key{VERIFY_KEY} local/l{LOCAL_VERIFY} json/j all/a
        legacy-insecure groupid(d)(h) id(d)(h) cosign/c(h)""",
    "key newpair": "name/N email/E comment/C password/P push/U bit-length/b=4096 keysdir/d",
    "key list": "global/g keysdir/d secret/s{SECRET} private(h)",
    "key export": "global/g keysdir/d secret/s armor/a private(h)",
    "key import": "global/g keysdir/d new-password",
    "key pull": "url/u{URL} global/g keysdir/d",
    "key push": "url/u{URL} global/g keysdir/d",
    "key search": "url/u{URL} long-list/l",
    "key remove": "global/g keysdir/d public/p secret/s both/b",
    "key generate-cosign-key-pair": "output-key-prefix",
    "cache clean": "type/T=all days/D=0 dry-run/n force/f",
    "cache list": "type/T=all verbose/v",
    "inspect": (
        "app all deffile/d environment/e helpfile/H json/j labels/l list-apps runscript/r startscript/s test/t"
    ),
    "run-help": "app",
    "overlay create": "size/s=64 sparse/S{SPARSE} create-dir fakeroot/f{FAKEROOT} tmpdir{TMPDIR}(h)",
    "instance list": "user/u{USER} json/j{JSON} logs/l{LOGS} all/a{ALL}",
    "instance stop": "user/u all/a{ALL} force/F{FORCE} signal/s=SIGINT{SIGNAL} timeout/t=10",
    "instance stats": "user/u json/j no-stream",
    "remote add": "config/c global/g insecure/i{ADD_INSECURE} no-default/n no-login tokenfile",
    "remote remove": "config/c global/g",
    "remote use": "config/c global/g exclusive/e",
    "remote list": "config/c",
    "remote login": """
        config/c username/u{LOGIN_USERNAME} password/p{LOGIN_PASSWORD} password-stdin tokenfile
        insecure/i{LOGIN_INSECURE}""",
    "remote logout": "config/c",
    "remote status": "config/c",
    "remote get-login-password": "config/c",
    "remote add-keyserver": "config/c insecure/i order/o",
    "remote remove-keyserver": "config/c",
    "registry login": "config/c username/u password/p password-stdin authfile{AUTH_FILE}",
    "registry logout": "config/c authfile{AUTH_FILE}",
    "registry list": "config/c",
    "keyserver add": "config/c insecure/i order/o",
    "keyserver remove": "config/c",
    "keyserver list": "config/c",
    "keyserver login": "config/c username/u password/p password-stdin",
    "keyserver logout": "config/c",
    "capability add": "user/u{CAP_USER} group/g{CAP_GROUP}",
    "capability drop": "user/u{CAP_USER} group/g{CAP_GROUP}",
    "capability list": "",
    "capability avail": "",
    "config fakeroot": "add/a remove/r enable/e disable/d",
    "config global": "set/s unset/u get/g reset/r dry-run/d",
    "oci create": f"{OCI_STARTING} empty-process",
    "oci run": OCI_STARTING,
    "oci kill": "signal/s=SIGTERM force/f timeout/t",
    "oci state": "sync-socket/s",
    "oci update": "from-file/f",
    "sif add": """
        datatype filename groupid=1(h) group=1 link alignment parttype partfs partarch signhash signentity sbomformat""",
    "search": "library{LIBRARY} arch{SEARCH_ARCH} signed",
    "delete": "arch/A force/F library{LIBRARY} no-https{NOHTTPS,NO_HTTPS} timeout=15(h)",
    "plugin compile": "out/o",
    "checkpoint instance": "home/H",
}

WITHOUT_OPTIONS = """
version|help|buildcfg|confgen|sif list|sif header|sif info|sif dump|sif new|sif del|sif setprim|overlay seal|overlay sync
|data package|checkpoint create|checkpoint delete|checkpoint list|oci start|oci attach|oci delete|oci pause|oci resume
|oci exec|oci mount|oci umount|plugin install|plugin create|plugin enable|plugin disable|plugin uninstall|plugin inspect
|plugin list|completion bash|completion zsh|completion fish|completion powershell
"""


def in_the_contracts_words(option: Option) -> str:
    text = option.name
    if option.short:
        text += f"/{option.short}"
    if option.default is not None:
        default = option.default
        text += f"={','.join(default) if isinstance(default, tuple) else default}"
    if option.keys:
        text += f"{{{','.join(option.keys)}}}"
    if option.bare:
        text += "†"
    if option.additive:
        text += "+"
    if option.deprecated:
        text += "(d)"
    if option.hidden:
        text += "(h)"
    return text


#: What the peers do not have.
BEYOND = {
    **dict.fromkeys(("exec", "run", "shell", "test"), "no-guard{NO_GUARD} umask{UMASK} explain json"),
    **dict.fromkeys(("instance start", "instance run"), "no-guard{NO_GUARD} umask{UMASK}"),
    "help": "man",
    "config get": "json/j",
    "config import": "system user force/F dry-run/d",
    "config set": "system user dry-run/d",
    "config show": "origin json/j",
    "config unset": "system user dry-run/d",
    "build": "intel-hpu{INTEL_HPU} keep-logs{KEEP_LOGS} lock{LOCK} locked{LOCKED} no-cache explain-cache debug-shell pull target context secret ssh",
    "diff": "json/j ignore",
    "doctor": "json/j apparmor-profile",
    "inspect": "provenance",
    "mounts list": "json/j",
    "mounts stop": "",
    "rebuild": f"""
        check json/j force/F run-setup build-arg build-arg-file secret ssh context bind/B mount{{MOUNT}}+ authfile{{AUTH_FILE}}
        disable-cache{{DISABLE_CACHE}} no-https{{NOHTTPS,NO_HTTPS}} nohttps(d)(h) {DOCKER} tmpdir{{TMPDIR}}(h)
        ignore-subuid{{IGNORE_SUBUID}}(h)""",
}
COMMANDS_BEYOND = {
    "doctor",
    *(f"config {name}" for name in ("get", "import", "set", "show", "unset")),
    "diff",
    "mounts list",
    "mounts stop",
    "rebuild",
}


def commands_of_the_contract() -> set[str]:
    return set(CONTRACT) | {name.strip() for name in WITHOUT_OPTIONS.split("|")} | COMMANDS_BEYOND


def leaves() -> dict[str, commands.Command]:
    return {" ".join(path): command for path, command in commands.walk() if not command.subcommands}


def test_every_command_of_the_contract_is_known_and_no_other() -> None:
    assert set(leaves()) == commands_of_the_contract()


@pytest.mark.parametrize("command", sorted({*CONTRACT, *BEYOND}))
def test_a_command_has_the_options_of_the_contract(command: str) -> None:
    found = sorted(in_the_contracts_words(option) for option in leaves()[command].options)
    assert found == sorted(f"{CONTRACT.get(command, '')} {BEYOND.get(command, '')}".split())


@pytest.mark.parametrize("command", sorted({name.strip() for name in WITHOUT_OPTIONS.split("|")} - {*BEYOND}))
def test_a_command_without_options_has_none(command: str) -> None:
    assert leaves()[command].options == ()


def test_the_options_before_the_command() -> None:
    assert [in_the_contracts_words(option) for option in GLOBALS] == [
        "debug/d{DEBUG}",
        "verbose/v{VERBOSE}",
        "quiet/q{QUIET}",
        "silent/s{SILENT}",
        "nocolor{NOCOLOR}",
        "config/c{CONFIG_FILE}",
        "build-config(h)",
    ]


def test_aliases_of_groups() -> None:
    for alias, name in (("caps", "capability"), ("keys", "key"), ("plugins", "plugin"), ("siftool", "sif")):
        found = commands.find(alias)
        assert found is not None
        assert found.name == name
        assert alias in found.aliases


@pytest.mark.parametrize(("path", "command"), [(" ".join(p), c) for p, c in commands.walk()])
def test_names_letters_and_handlers_of_a_command_fit_together(path: str, command: commands.Command) -> None:
    names = [option.name for option in command.options]
    letters = [option.short for option in command.options if option.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    assert "h" not in letters
    for option in command.options:
        assert option.help, option.name
        assert (option.metavar is None) == (option.kind == "flag"), option.name
        assert not option.short or len(option.short) == 1
        if option.alias:
            target = next(o for o in command.options if o.name == option.alias)
            assert target.kind == option.kind
            assert option.hidden
    assert command.most is None or command.least <= command.most
    if command.subcommands:
        assert command.handler is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("1", "t", "T", "TRUE", "true", "True")),
        *((word, False) for word in ("0", "f", "F", "FALSE", "false", "False")),
    ],
)
def test_booleans_are_those_of_go(text: str, value: bool) -> None:
    assert boolean(text) is value


@pytest.mark.parametrize("text", ["", "yes", "no", "tRUE", "2", " 1", "on"])
def test_nothing_else_is_a_boolean(text: str) -> None:
    with pytest.raises(ValueProblem, match="true or false"):
        boolean(text)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-1", -1), ("+7", 7), ("0x10", 16), ("9223372036854775807", 2**63 - 1)]
)
def test_whole_numbers(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize("text", ["", "1.5", "ten", "1_000", " 1", "٣", "9223372036854775808", "1" * 5000])
def test_not_whole_numbers(text: str) -> None:
    with pytest.raises(ValueProblem, match="whole number"):
        integer(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("250ms", 0.25), ("0", 0.0), ("1h1m1s", 3661.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "90", "s", "1x", "1.2.3s", "-1s", ".s", "1s ", "1 s"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueProblem, match="duration"):
        duration(text)


@pytest.mark.parametrize("text", ["27", "027", "0027", "0o27"])
def test_permissions_are_octal(text: str) -> None:
    assert permissions(text) == 0o27


@pytest.mark.parametrize(
    "text", ["", "0o", "8", "1000", "00027", "-1", "+7", "0x7", " 7", "٣", "u=rwx", "7_7"]
)
def test_not_permissions(text: str) -> None:
    with pytest.raises(ValueProblem, match="octal digits from 0 to 777"):
        permissions(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        ("a,", ("a", "")),
        ('"a,b",c', ("a,b", "c")),
        ('"say ""hi""",x', ('say "hi"', "x")),
        (" a , b ", (" a ", " b ")),
    ],
)
def test_lists_are_records_of_csv(text: str, values: tuple[str, ...]) -> None:
    assert fields(text) == values


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', '"'])
def test_lists_with_wrong_quotes(text: str) -> None:
    with pytest.raises(ValueProblem):
        fields(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1", {"A": "1"}),
        ("A=1,2,3", {"A": "1,2,3"}),
        ("A=1,B=2", {"A": "1", "B": "2"}),
        ('A=1,"B=2,3"', {"A": "1", "B": "2,3"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=", {"A": ""}),
        ("", {}),
    ],
)
def test_assignments_keep_the_commas_of_a_single_one(text: str, values: dict[str, str]) -> None:
    assert assignments(text) == values


@pytest.mark.parametrize("text", ["A", "=1", "A=1,2,B=3"])
def test_not_assignments(text: str) -> None:
    with pytest.raises(ValueProblem):
        assignments(text)
