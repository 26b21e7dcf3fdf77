"""Containers in the background: what a user sees of them, and that none of their processes is ever left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from soliton.launch import doors
from soliton.site import cgroups
from tests.system import repositories
from tests.system.processes import ended, own, status
from tests.system.program import AMPLE, Program, Result, eventually, interrupt
from tests.zoo import PLAIN, write_layout

ME = pwd.getpwuid(os.getuid()).pw_name

RECIPE = """\
Bootstrap: busybox

%startscript
    trap 'echo ended by INT; exit 0' INT
    trap 'echo ended by USR1; exit 0' USR1
    echo complaint >&2
    echo "started: $*"
    while :; do sleep 0.1; done

%runscript
    echo "run: $*"

%appstart one
    echo "app one: $*"
    exec sleep 1000
"""


@pytest.fixture(scope="session")
def service(shared: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose startscript goes on until it is told to end."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "service.def").write_text(RECIPE)
    target = folder / "service äöü.sif"
    shared("build", target, folder / "service.def").ok()
    return target


@pytest.fixture
def instances(soliton: Program) -> Iterator[Program]:
    """The program; whatever runs at the end of the test is stopped, and nothing remains."""
    # A server that images share outlives those whom it serves by a while.
    alone = soliton.having(SOLITON_IMAGE_SERVER="off")
    # Their numbers may be others' by now.
    SESSIONS.clear()
    yield alone
    alone("instance", "stop", "--all", "--force")
    eventually(lambda: not processes(soliton), lambda: f"left: {processes(soliton)}")
    assert not list(soliton.home.glob(".apptainer/instances/app/*/*/*"))


#: Of every monitor that was seen: each leads a session, which all processes of its container stay in.
SESSIONS: set[int] = set()


def processes(soliton: Program) -> set[int]:
    """Processes of soliton that have not ended and were started with this home."""
    mark = f"HOME={soliton.home}".encode()
    found = set()
    for pid in own():
        with contextlib.suppress(OSError):
            fields = status(pid)
            if not fields.get("Name", "").startswith("soliton"):
                continue
            session = os.getsid(pid)
            if session == pid and is_monitor(pid, Path("/proc", fields["PPid"]), soliton):
                SESSIONS.add(session)
            if session in SESSIONS or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def is_monitor(pid: int, parent: Path, soliton: Program) -> bool:
    """Whether it is one of this home's: nobody may look into it, so its starter and its record tell."""
    with contextlib.suppress(OSError):
        if f"HOME={soliton.home}".encode() in (parent / "environ").read_bytes().split(b"\0"):
            return True
    for path in soliton.home.glob(f".apptainer/instances/app/*/{ME}/*/*.json"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["ppid"] == pid:
                return True
    return False


def record(soliton: Program, name: str) -> dict[str, object]:
    (path,) = soliton.home.glob(f".apptainer/instances/app/*/{ME}/{name}/{name}.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def names(soliton: Program, *words: str) -> list[str]:
    listed = json.loads(soliton("instance", "list", "--json", *words).ok().out)
    return [entry["instance"] for entry in listed["instances"]]


def log(soliton: Program, name: str, kind: str = "out") -> str:
    (path,) = soliton.home.glob(f".apptainer/instances/logs/*/{ME}/{name}.{kind}")
    return path.read_text()


def begin(soliton: Program, *words: str | Path) -> None:
    """Starts an instance of the service, and waits until it listens to signals."""
    soliton("instance", "start", *words).ok()
    eventually(lambda: "started" in log(soliton, str(words[-1])))


def fatal(result: Result) -> str:
    assert result.status == 255, result
    lines = [line for line in result.err.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert lines and lines[0].startswith("FATAL:   ") and len(lines) <= 3, result.err
    return "\n".join(lines)


@pytest.fixture(scope="session")
def machine(shared: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with an init that has something to do."""
    folder = tmp_path_factory.mktemp("machine")
    table = (
        "::sysinit:/bin/echo system is up\\n::respawn:/bin/sleep 1000\\n::shutdown:/bin/echo going down\\n"
    )
    (folder / "m.def").write_text(f"Bootstrap: busybox\n\n%post\n    printf '{table}' > /etc/inittab\n")
    shared("build", folder / "m.sif", folder / "m.def").ok()
    return folder / "m.sif"


def test_an_image_is_booted(instances: Program, machine: Path) -> None:
    """Its init is process 1 and root, tends what is orphaned, and is asked to shut down."""
    instances("instance", "start", "--boot", machine, "box").ok()
    eventually(lambda: "system is up" in log(instances, "box"))
    inside = instances.once()

    def said(script: str) -> str:
        return inside("exec", "instance://box", "sh", "-c", script).ok().out.strip()

    assert said("readlink /proc/1/exe; id -u; hostname; ls -A /run /tmp").split() == [
        "/bin/busybox",
        "0",
        "box",
        "/run:",
        "lock",
        "/tmp:",
    ]
    assert "container=soliton" in said("tr '\\0' '\\n' < /proc/1/environ")
    assert said("awk '/^(Uid|NoNewPrivs)/ { print $2 }' /proc/1/status").split() == ["0", "1"]
    assert said("ls /sys/class/net") == "lo" or said("cat /proc/net/dev | grep -c :") == "1"
    # No other descriptor than the first three.
    assert said("echo /proc/1/fd/*").split() == [f"/proc/1/fd/{number}" for number in range(3)]
    # An orphan is process 1's, and is reaped when it ends.
    orphan = said("(sleep 0.2 >/dev/null 2>&1 & echo $!)")
    eventually(lambda: said(f"test -e /proc/{orphan} || echo gone") == "gone")
    eventually(lambda: said("pidof sleep || :"))
    first = said("pidof sleep")
    said(f"kill {first}")
    eventually(lambda: said("pidof sleep || :") not in ("", first))
    pid = record(instances, "box")["pid"]
    result = instances("instance", "stop", "--timeout", "120", "box").ok()
    assert "Killing" not in result.err
    assert "going down" in log(instances, "box")
    assert ended(pid) and names(instances) == []


def test_an_init_can_power_off_and_dies_with_its_monitor(instances: Program, machine: Path) -> None:
    instances("instance", "start", "--boot", machine, "box", "ignored").ok()
    eventually(lambda: "system is up" in log(instances, "box"))
    pid = record(instances, "box")["pid"]
    instances.once()("exec", "instance://box", "poweroff")
    eventually(lambda: ended(pid) and names(instances) == [])
    instances("instance", "start", "--boot", machine, "box").ok()
    known = record(instances, "box")
    os.kill(int(str(known["ppid"])), signal.SIGKILL)
    eventually(lambda: ended(known["pid"]))
    assert names(instances) == []
    # An explicit signal is what the init gets; this one it does not know, and after the timeout it is killed.
    instances("instance", "start", "--boot", machine, "box").ok()
    assert "Killing" in instances("instance", "stop", "--signal", "URG", "--timeout", "0", "box").ok().err


SYSTEMD = """\
Bootstrap: oci
From: layout

%post
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd systemd-sysv
    cd /etc/systemd/system
    printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/sh -c "id -un > /mnt/started"\\n' > work.service
    printf 'ExecStop=/bin/sh -c "echo in order > /mnt/stopped"\\n[Install]\\nWantedBy=multi-user.target\\n' >> work.service
    printf '[Service]\\nUser=games\\nExecStart=/bin/sleep 1000\\n[Install]\\nWantedBy=multi-user.target\\n' > other.service
    systemctl enable work.service other.service
"""


@pytest.fixture(scope="session")
def with_systemd(shared: Program, fixtures: Path) -> Path:
    """A Debian that boots; both users of the tests have the same."""

    def make(work: Path, target: Path) -> None:
        write_layout(work / "layout", [((fixtures / "debian.tar").read_bytes(), PLAIN)])
        (work / "systemd.def").write_text(SYSTEMD)
        shared.within(work)("build", target / "systemd.sif", "systemd.def", timeout=600).ok()

    return repositories.shared("systemd", make) / "systemd.sif"


def test_systemd_boots_looks_after_services_and_shuts_down(
    instances: Program, with_systemd: Path, has_subordinate_ids: bool
) -> None:
    notes = instances.cwd / "notes ü"
    notes.mkdir()
    words = ("instance", "start", "--boot", "--bind", f"{notes}:/mnt", with_systemd)
    if not owns_control_groups():
        assert "systemd makes control groups, and may not here" in fatal(instances(*words, "box"))
        return
    group = cgroups.look().folder()
    before = set(os.listdir(group))
    # Two of them keep out of each other's way.
    for name in ("box", "other"):
        instances(*words, name).ok()
    inside = instances.once()

    def said(name: str, *command: str) -> str:
        return inside("exec", f"instance://{name}", *command).out.strip()

    def is_up(name: str) -> bool:
        return said(name, "systemctl", "is-system-running") in ("running", "degraded")

    eventually(lambda: is_up("box") and is_up("other"))
    assert (notes / "started").read_text() == "root\n"
    assert said("box", "systemctl", "is-active", "work.service") == "active"
    # Whoever is not root inside is somebody else outside.
    expected = "active" if has_subordinate_ids else "failed"
    eventually(lambda: said("box", "systemctl", "is-active", "other.service") == expected)
    failed = said("box", "systemctl", "--failed", "--no-legend", "--plain")
    assert [line.split()[0] for line in failed.splitlines()] == (
        [] if has_subordinate_ids else ["other.service"]
    )
    result = instances("instance", "stop", "--timeout", "240", "box").ok()
    assert "Killing" not in result.err
    assert (notes / "stopped").read_text() == "in order\n"
    assert said("other", "systemctl", "is-active", "work.service") == "active"
    instances("instance", "stop", "--timeout", "240", "other").ok()
    left = [
        entry
        for entry in set(os.listdir(group)) - before
        if entry.endswith(("-box", ".scope", ".slice")) or "-box-" in entry
    ]
    assert not left


def owns_control_groups() -> bool:
    """Whether this process is in a part of their tree that is the user's, as under a systemd of theirs."""
    tree = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    own = [line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"]
    return bool(tree and own) and os.access(tree[0] + "/" + own[0], os.W_OK)


def test_what_cannot_be_booted(instances: Program, busybox_sandbox: Path) -> None:
    bare = instances.cwd / "bare"
    (bare / "bin").mkdir(parents=True)
    for name in ("sbin", "etc", "tmp", "proc", "dev", "sys", "root", "run", "var"):
        (bare / name).mkdir()
    text = fatal(instances("instance", "start", "--boot", bare, "box"))
    assert "the image cannot be booted" in text and "it has no /sbin/init" in text
    if owns_control_groups():
        assert not [entry for entry in os.listdir(cgroups.look().folder()) if "-box-" in entry]
    text = fatal(instances("instance", "start", "--boot", "--app", "x", bare, "box"))
    assert "`--boot` and `--app` exclude each other" in text
    # One that ends at once, without a word, where it has no control groups of its own.
    systemd = bare / "lib/systemd/systemd"
    systemd.parent.mkdir(parents=True)
    shutil.copy(busybox_sandbox / "bin/busybox", systemd)
    (bare / "sbin/init").symlink_to("/lib/systemd/systemd")
    if not owns_control_groups():
        text = fatal(instances("instance", "start", "--boot", bare, "box"))
        assert "systemd makes control groups, and may not here" in text
    assert names(instances) == []


def test_a_home_without_room_is_named(instances: Program, service: Path) -> None:
    home = instances.cwd / "full"
    home.mkdir()
    fill = 'mount -t tmpfs -o size=4k,mode=700 full "$0"; dd if=/dev/zero of="$0/f" bs=4k count=9 2> /dev/null; HOME=$0 exec "$@"'
    inside = (
        "unshare",
        "--user",
        "--mount",
        "--map-current-user",
        "--keep-caps",
        "sh",
        "-c",
        fill,
        str(home),
    )
    text = fatal(replace(instances, wrapper=inside)("instance", "start", service, "box"))
    assert "instances cannot be recorded in" in text and "No space left on device" in text


def test_a_life(instances: Program, service: Path) -> None:
    """Start, look, join, stop; the shapes of output are the peers'."""
    result = instances("instance", "start", service, "web.1", "one", "two").ok()
    assert (result.out, result.err) == ("", "INFO:    instance started successfully\n")

    known = record(instances, "web.1")
    assert known["user"] == ME and known["image"] == str(service) and known["userns"] is True
    title = Path(f"/proc/{known['ppid']}/cmdline").read_bytes()
    assert title.startswith(f"Apptainer instance: {ME} [web.1]\0".encode())

    pid = str(known["pid"])
    assert instances("instance", "list").ok().out == (
        f"INSTANCE NAME    PID{' ' * (len(pid) + 1)}IP    IMAGE\nweb.1            {pid}    {'':6}{service}\n"
    )
    listed = json.loads(instances("instance", "list", "-j", "w*").ok().out)["instances"]
    assert [(entry["instance"], entry["pid"], entry["img"]) for entry in listed] == [
        ("web.1", known["pid"], str(service))
    ]
    assert instances("instance", "list", "--json", "x*").ok().out == '{\n\t"instances": []\n}\n'
    logs = instances("instance", "list", "--logs").ok().out.splitlines()
    assert logs[0].split() == ["INSTANCE", "NAME", "PID", "LOGS"]
    assert logs[1].endswith("web.1.err") and logs[2].strip().endswith("web.1.out")

    inside = instances(
        "exec", "instance://web.1", "sh", "-c", "id -u; pwd; cat /proc/1/comm; echo $APPTAINER_INSTANCE"
    )
    assert inside.ok().out.split() == [str(os.getuid()), str(instances.cwd), "soliton-init", "web.1"]
    assert instances("run", "instance://web.1", "a").ok().out == "run: a\n"
    assert instances("shell", "instance://web.1", stdin="echo $((6*7))\n").ok().out.strip().endswith("42")
    assert instances("exec", "instance://web.1", "sh", "-c", "exit 7").status == 7

    eventually(lambda: "started" in log(instances, "web.1"))
    stopped = instances("instance", "stop", "web.1").ok()
    assert stopped.err == f"INFO:    Stopping web.1 instance of {service} (PID={pid})\n"
    assert log(instances, "web.1") == "started: one two\nended by INT\n"
    assert log(instances, "web.1", "err") == "complaint\n"
    assert names(instances) == []


def test_all_namespaces_are_joined(instances: Program, service: Path) -> None:
    instances(
        "instance",
        "start",
        "--ipc",
        "--uts",
        "--hostname",
        "there",
        "--net",
        "--network",
        "none",
        service,
        "a",
    ).ok()
    look = (
        "for ns in user mnt pid ipc uts net; do readlink /proc/self/ns/$ns; done; hostname; cat /etc/hostname"
    )
    one, two = (instances("exec", "instance://a", "sh", "-c", look).ok().out.split() for _ in range(2))
    assert one == two and one[-2:] == ["there", "there"]
    here = {os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "ipc", "uts", "net")}
    assert not here & set(one)


def test_joining_takes_the_environment_of_the_caller_and_gives_nothing_more(
    instances: Program, service: Path
) -> None:
    instances.having(WHERE="start")(
        "instance", "start", "--umask", "070", "--env", "ONLY=start", service, "a"
    ).ok()
    show = "echo $WHERE-$ONLY-$ADDED; grep -E '^(CapEff|CapPrm|CapAmb|NoNewPrivs)' /proc/self/status; umask"
    out = (
        instances.having(WHERE="join")("exec", "--env", "ADDED=x", "instance://a", "sh", "-c", show).ok().out
    )
    head, *rest = out.split("\n")
    assert head == "join--x"
    assert "\n".join(rest).count("\t0000000000000000") == 3 and "NoNewPrivs:\t1" in rest
    warned = instances("exec", "--bind", "/tmp:/mnt", "instance://a", "true").ok().err
    assert warned == "WARNING: `--bind` has no effect in an instance that is running\n"
    assert instances.having(SOLITON_BIND="/tmp:/mnt")("exec", "instance://a", "true").ok().err == ""
    first = record(instances, "a")["pid"]
    (started,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    assert "Umask:\t0070\n" in Path(f"/proc/{started}/status").read_text()
    masked = instances("exec", "--umask", "007", "instance://a", "sh", "-c", "umask").ok()
    assert (masked.out, masked.err) == ("0007\n", "")
    elsewhere = instances("exec", "--cwd", "/etc", "instance://a", "pwd").ok().out
    assert elsewhere == "/etc\n"


def test_a_fakeroot_instance_is_joined_as_root(instances: Program, service: Path) -> None:
    instances("instance", "start", "--fakeroot", "--writable-tmpfs", service, "r").ok()
    instances("exec", "instance://r", "sh", "-c", "echo x > /etc/made; chmod 600 /etc/made").ok()
    out = instances("exec", "instance://r", "sh", "-c", "id -u; cat /etc/made; echo $HOME").ok().out
    assert out == "0\nx\n/root\n"


def test_the_container_outlives_its_startscript(instances: Program, busybox_sif: Path) -> None:
    """As with peers: images without a startscript make good instances, too."""
    instances("instance", "start", "--contain", busybox_sif, "idle").ok()
    instances("exec", "instance://idle", "sh", "-c", "sleep 1000 >&- 2>&- & echo $! > /tmp/pid").ok()
    assert instances("exec", "instance://idle", "sh", "-c", "kill -0 $(cat /tmp/pid)").ok()
    instances("instance", "run", busybox_sif, "ran").ok()
    assert names(instances) == ["idle", "ran"]
    instances("instance", "stop", "idle").ok()
    assert names(instances) == ["ran"]


def test_an_app_of_the_image(instances: Program, service: Path) -> None:
    instances("instance", "start", "--app", "one", service, "a", "x").ok()
    eventually(lambda: log(instances, "a") == "app one: x\n")


def test_an_app_that_is_missing_is_told_as_by_exec(instances: Program, service: Path) -> None:
    for action in ("start", "run"):
        failed = instances("instance", action, "--app", "two", service, "a")
        assert failed.status == 1
        assert failed.err == instances("run", "--app", "two", service).err
    failed = instances("instance", "run", "--app", "one", service, "a")
    assert (failed.status, "it has no script to run" in failed.err) == (1, True)
    assert names(instances) == []


def test_scripts_of_the_image_may_take_only_so_long(instances: Program, busybox_sandbox: Path) -> None:
    root = instances.cwd / "slow"
    instances("build", "--sandbox", root, busybox_sandbox).ok()
    (root / ".singularity.d/env/95-slow.sh").write_text("while true; do sleep 1; done\n")
    started = instances("instance", "run", "--runscript-timeout", "1s", root, "a")
    assert started.status == 255 and "they took longer than 1 s" in started.err
    assert names(instances) == []


def test_logs_are_appended_and_stay(instances: Program, busybox_sif: Path) -> None:
    for word in ("one", "two"):
        instances("instance", "run", busybox_sif, "a", "-c", f"echo {word}").ok()
        eventually(lambda word=word: word in log(instances, "a"))  # type: ignore[misc]
        instances("instance", "stop", "a").ok()
    assert log(instances, "a") == "one\ntwo\n"


def test_stopping(instances: Program, service: Path) -> None:
    for name in ("a1", "a2", "b"):
        begin(instances, service, name)
    instances("instance", "stop", "--signal", "usr1", "b").ok()
    assert log(instances, "b").endswith("ended by USR1\n")
    instances("instance", "stop", "a*").ok()
    assert names(instances) == []
    # Nobody listens to this one.
    begin(instances, service, "deaf")
    stubborn = instances("instance", "stop", "-s", "SIGWINCH", "-t", "0", "deaf").ok()
    assert "Killing deaf instance" in stubborn.err and names(instances) == []
    for words in (["nobody"], ["--all"]):
        nothing = instances("instance", "stop", *words)
        assert nothing.status == 1 and "no instance found" in nothing.err
    assert instances("instance", "stop").status == 1
    assert "is not a signal" in fatal(instances("instance", "stop", "-s", "SIGNOTHING", "b"))


def test_a_pid_file(instances: Program, service: Path) -> None:
    begin(instances, "--pid-file", "here.pid", service, "a")
    text = (instances.cwd / "here.pid").read_text()
    assert text == f"{record(instances, 'a')['pid']}\n"
    # What a service manager does with it.
    os.kill(int(text), signal.SIGINT)
    eventually(lambda: names(instances) == [])
    assert log(instances, "a").endswith("ended by INT\n")
    assert "pid file" in fatal(instances("instance", "start", "--pid-file", "/no/such/dir", service, "a"))
    assert names(instances) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "x" * 300])
def test_names_that_are_none(instances: Program, service: Path, name: str) -> None:
    assert "not a valid instance name" in fatal(instances("instance", "start", service, name))


def test_what_cannot_be_joined_or_started(instances: Program, service: Path) -> None:
    assert "no instance found" in fatal(instances("exec", "instance://nobody", "true"))
    instances("instance", "start", service, "a").ok()
    assert "already exists" in fatal(instances("instance", "start", service, "a"))
    assert "another instance" in fatal(instances("instance", "start", "instance://a", "b"))
    assert "no-such" in fatal(instances("exec", "instance://a", "no-such"))
    assert "missing.sif" in fatal(instances("instance", "start", "missing.sif", "b"))
    assert "/no/such" in fatal(instances("instance", "start", "--bind", "/no/such", service, "b"))
    assert names(instances) == ["a"]


def test_a_payload_that_cannot_be_executed_is_told(
    instances: Program, busybox_sandbox: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", busybox_sandbox, root], check=True)
    (root / ".singularity.d").mkdir()
    for text in ("#!/no/such/shell\ntrue\n", "no script\n"):
        (root / ".singularity.d/startscript").write_text(text)
        (root / ".singularity.d/startscript").chmod(0o755)
        if text.startswith("#!"):
            assert "startscript" in fatal(instances("instance", "start", root, "a"))
    (root / ".singularity.d/startscript").chmod(0o644)
    assert "startscript" in fatal(instances("instance", "start", root, "a"))
    assert names(instances) == []


def test_of_many_starts_of_one_name_one_wins(instances: Program, service: Path) -> None:
    starts = [instances.start("instance", "start", service, "one") for _ in range(6)]
    outcomes = [(*process.communicate(), process.returncode) for process in starts]
    assert sorted(status for _, _, status in outcomes) == [0] + [255] * 5
    assert names(instances) == ["one"]
    # And when a stale record is in the way of all.
    monitor = int(str(record(instances, "one")["ppid"]))
    os.kill(monitor, signal.SIGKILL)
    eventually(lambda: ended(monitor))
    starts = [instances.start("instance", "start", service, "one") for _ in range(6)]
    outcomes = [(*process.communicate(), process.returncode) for process in starts]
    assert sorted(status for _, _, status in outcomes) == [0] + [255] * 5


@pytest.mark.parametrize("who", ["monitor", "init", "payload"])
def test_when_one_of_its_processes_is_killed(instances: Program, service: Path, who: str) -> None:
    instances("instance", "start", service, "a").ok()
    known = record(instances, "a")
    payload = Path(f"/proc/{known['pid']}/task/{known['pid']}/children").read_text().split()
    victim = {"monitor": known["ppid"], "init": known["pid"], "payload": payload[0]}[who]
    os.kill(int(str(victim)), signal.SIGKILL)
    if who == "payload":
        eventually(lambda: ended(payload[0]))
        assert names(instances) == ["a"]
        instances("instance", "stop", "a").ok()
    eventually(lambda: all(ended(number) for number in (known["ppid"], known["pid"], *payload)))
    assert names(instances) == []


def test_a_record_of_before_the_boot_or_of_another_process_heals(instances: Program, service: Path) -> None:
    instances("instance", "start", service, "a").ok()
    (path,) = instances.home.glob(".apptainer/instances/app/*/*/a/a.json")
    text = path.read_text()
    instances("instance", "stop", "a").ok()
    for stale in (
        text,
        text.replace(f'"ppid": {json.loads(text)["ppid"]}', f'"ppid": {os.getpid()}'),
        "{",
        "",
    ):
        path.parent.mkdir()
        path.write_text(stale)
        assert names(instances) == []
        assert not path.parent.exists()
        path.parent.mkdir()
        path.write_text(stale)
        instances("instance", "start", service, "a").ok()
        instances("instance", "stop", "a").ok()


def test_neither_a_closed_terminal_nor_the_starters_end_matters(instances: Program, service: Path) -> None:
    """Started by a shell on a terminal of its own, which is then hung up."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(instances.cwd)
        os.execve(
            instances.name, [instances.name, "instance", "start", str(service), "a"], instances.environment()
        )
    while True:
        try:
            if not os.read(terminal, 1000):
                break
        except OSError:
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    known = record(instances, "a")
    assert os.getsid(int(str(known["ppid"]))) == known["ppid"]
    assert names(instances) == ["a"]


def test_its_output_does_not_keep_a_pipe_open(instances: Program, service: Path) -> None:
    result = instances("instance", "start", service, "a").ok()  # reads both streams to their ends
    assert result.err == "INFO:    instance started successfully\n"
    assert names(instances) == ["a"]


def test_nobody_looks_into_what_watches_over_it(instances: Program, service: Path) -> None:
    """Through its descriptors a program in another container of the user's would reach the host's directories."""
    instances("instance", "start", service, "a").ok()
    known = record(instances, "a")
    for number in (known["ppid"], known["pid"]):
        for name in ("fd", "root", "cwd", "exe", "ns/mnt"):
            with pytest.raises(PermissionError):
                os.stat(f"/proc/{number}/{name}/.")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_start_leaves_nothing(
    instances: Program, tmp_path: Path, busybox_sandbox: Path, how: int
) -> None:
    """The image's environment script holds the start up, so that it can be ended in the middle."""
    root = tmp_path / "slow"
    subprocess.run(["cp", "-a", busybox_sandbox, root], check=True)
    (root / ".singularity.d/env").mkdir(parents=True)
    (root / ".singularity.d/env/10-slow.sh").write_text("sleep 1000 & wait\n")
    process = instances.start("instance", "start", "--contain", root, "a")
    eventually(lambda: len(processes(instances)) >= 3)
    os.kill(process.pid, how)
    if how == signal.SIGKILL:
        process.communicate()
    else:
        assert interrupt(process).status != 0
    eventually(lambda: not processes(instances))
    assert names(instances) == []


def test_a_home_that_cannot_be_written(instances: Program, service: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    elsewhere = instances.having(HOME=str(closed), XDG_RUNTIME_DIR=str(runtime))
    elsewhere("instance", "start", service, "a").ok()
    assert names(elsewhere) == ["a"]
    elsewhere("exec", "instance://a", "true").ok()
    elsewhere("instance", "stop", "a").ok()
    assert names(elsewhere) == []


def test_many_things_at_once(instances: Program, service: Path) -> None:
    """Joining from several sides while others start and stop."""
    instances("instance", "start", service, "a").ok()
    failures: list[Result] = []

    def join() -> None:
        for _ in range(5):
            result = instances("exec", "instance://a", "true")
            if result.status:
                failures.append(result)

    threads = [threading.Thread(target=join) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        instances("instance", "start", service, f"b{number}").ok()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(instances) == ["a", "b0", "b1", "b2"]
    instances("instance", "stop", "--all").ok()


def test_all_who_come_at_once_are_let_in_and_nobody_keeps_them_out(instances: Program, service: Path) -> None:
    """However long the monitor was kept from looking, and whoever else knocks and says nothing."""
    instances("instance", "start", service, "a").ok()
    known = record(instances, "a")
    own = json.loads(b64decode(str(known["config"])))["soliton"]
    monitor = int(str(known["ppid"]))
    with contextlib.ExitStack() as opened:
        os.kill(monitor, signal.SIGSTOP)
        try:
            for _ in range(100):
                silent = opened.enter_context(socket.socket(socket.AF_UNIX))
                silent.connect(f"\0{own['door']}")
            visitors = [doors.knock(own["door"], own["token"]) for _ in range(200)]
        finally:
            os.kill(monitor, signal.SIGCONT)
        for visitor in visitors:
            assert visitor is not None
            with visitor:
                namespaces = doors.come_in(visitor)
            assert namespaces
            for fd in namespaces:
                os.close(fd)
        assert instances("exec", "instance://a", "echo", "in").ok().out == "in\n"


def test_an_instance_whose_image_is_served_to_others_too(soliton: Program, service: Path) -> None:
    soliton("exec", service, "true").ok()
    soliton("instance", "start", service, "a").ok()
    try:
        look = ("sh", "-c", "readlink /proc/self/ns/user; cat /proc/1/comm")
        user, first = soliton("exec", "instance://a", *look).ok().out.split()
        assert first == "soliton-init"
        assert user == soliton("exec", "instance://a", *look).ok().out.split()[0]
        assert soliton("exec", service, "cat", "/.singularity.d/runscript").ok().out
    finally:
        soliton("instance", "stop", "a").ok()


def test_a_command_inside_ends_with_the_instance_and_by_signals(instances: Program, service: Path) -> None:
    instances("instance", "start", service, "a").ok()
    joined = instances.start("exec", "instance://a", "sleep", "1000")
    other = instances.start("exec", "instance://a", "sleep", "1000")
    eventually(lambda: instances("exec", "instance://a", "ps").out.count("sleep 1000") >= 2)
    joined.terminate()
    assert joined.wait(AMPLE) == 128 + signal.SIGTERM
    instances("instance", "stop", "a").ok()
    assert other.wait(AMPLE) != 0
    for process in (joined, other):
        process.communicate()


def test_the_instance_stays_in_the_control_group_of_its_starter(instances: Program, service: Path) -> None:
    """So that the end of a batch job is the end of its instances."""
    instances("instance", "start", service, "a").ok()
    known = record(instances, "a")
    mine = Path("/proc/self/cgroup").read_text()
    for number in (known["ppid"], known["pid"]):
        assert Path(f"/proc/{number}/cgroup").read_text() == mine
