"""A network of the container's own: what gets in and out, and that nothing of it outlives the container."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.program import AMPLE, Program, eventually
from tests.system.registry import free_port

HELPERS = ("pasta", "slirp4netns")


@contextmanager
def answering(text: bytes) -> Iterator[int]:
    """A server on the loopback that says one thing to everybody; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(AMPLE)

        def serve() -> None:
            try:
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(text)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def descendants(program: int) -> set[int]:
    """Processes that were started from this one, by the group or the keeper's name."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {program} & set(parents)
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def test_a_loopback_is_all_that_network_none_has(soliton: Program, busybox_sif: Path) -> None:
    out = soliton("exec", "--net", "--network", "none", busybox_sif, "cat", "/proc/net/dev").ok().out
    assert [line.split(":")[0].strip() for line in out.splitlines()[2:]] == ["lo"]


@pytest.mark.parametrize("helper", HELPERS)
def test_a_connection_has_an_interface_and_a_route(soliton: Program, busybox_sif: Path, helper: str) -> None:
    for options in ((), ("--pid",), ("--fakeroot",), ("--containall",)):
        out = soliton("exec", "--network", helper, *options, busybox_sif, "cat", "/proc/net/route").ok().out
        assert "00000000" in [line.split()[1] for line in out.splitlines()[1:]], options


def test_connections_go_out(soliton: Program, busybox_sif: Path) -> None:
    # A host's network of the test's own, in which an address is served that is only reached by a route.
    script = """
        set -e
        ip link set lo up; ip addr add 203.0.113.5/32 dev lo
        ip tuntap add out mode tap; ip addr add 198.51.100.7/24 dev out; ip link set out up
        ip route add default via 198.51.100.1
        "$PYTHON" -c 'import socket
server = socket.create_server(("203.0.113.5", 7070)); print("ready", flush=True); server.accept()[0].sendall(b"answer")' > "$1" &
        trap "kill $! 2>/dev/null || :" EXIT
        until grep -q ready "$1"; do sleep 0.1; done
        # Input that does not end: old versions of pasta lose what arrives after the client's half has been closed.
        mkfifo "$1.input"
        "$SOLITON" exec --net "$2" busybox nc -w 100 203.0.113.5 7070 0<> "$1.input"
    """
    words = ["unshare", "--user", "--net", "--map-current-user", "--keep-caps", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*words, str(soliton.cwd / "log"), str(busybox_sif)],
        env={
            **soliton.environment(),
            "SOLITON": soliton.name,
            "PYTHON": str(Path(soliton.name).parent / "python"),
        },
        cwd=soliton.cwd,
        capture_output=True,
        text=True,
        timeout=AMPLE,
    )
    assert (done.returncode, done.stdout) == (0, "answer"), done.stderr


def test_a_port_of_the_host_leads_inside(soliton: Program, busybox_sif: Path) -> None:
    port = free_port()
    arguments = f"portmap=127.0.0.1:{port}:80/tcp"
    server = "echo inside | busybox nc -l -p 80"
    process = soliton.start("exec", "--net", "--network-args", arguments, busybox_sif, "sh", "-c", server)
    heard = b""

    def ask() -> bool:
        nonlocal heard
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=AMPLE) as connection:
                heard = connection.recv(100)
        except OSError:
            return False
        return bool(heard)

    eventually(lambda: ask() or process.poll() is not None)
    assert (process.wait(timeout=AMPLE), heard) == (0, b"inside\n"), process.communicate()


def test_a_port_in_use_is_told_before_anything_starts(soliton: Program, busybox_sif: Path) -> None:
    with answering(b"x") as port:
        arguments = f"portmap=127.0.0.1:{port}:80/tcp"
        result = soliton("exec", "--net", "--network-args", arguments, busybox_sif, "true")
    assert result.status == 255
    assert f"the port {port}/tcp of this machine cannot be mapped" in result.err


def test_the_loopback_of_the_host_is_reached_where_that_is_asked_for(
    soliton: Program, busybox_sif: Path
) -> None:
    with answering(b"license") as port:
        # Input that does not end, as above.
        nc = f"busybox mkfifo $HOME/input-$$; exec busybox nc -w 100 127.0.0.1 {port} 0<> $HOME/input-$$"
        ask = ["sh", "-c", nc]
        arguments = f"hostport={port}/tcp"
        reached = soliton("exec", "--net", "--network-args", arguments, busybox_sif, *ask)
        assert reached.ok().out == "license"
        assert soliton("exec", "--net", busybox_sif, *ask).status != 0


@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("victim", ["container", "keeper", "helper"])
def test_nothing_of_a_network_outlives_it(
    soliton: Program, busybox_sif: Path, helper: str, victim: str
) -> None:
    process = soliton.start("exec", "--network", helper, busybox_sif, "sh", "-c", "echo up; exec sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    keeper = next(pid for pid in descendants(process.pid) if processes.name_of(pid) == "soliton-net")
    carriers = descendants(keeper) - {keeper}
    carrier = next(pid for pid in carriers if processes.status(pid).get("PPid") == str(keeper))
    os.kill({"container": process.pid, "keeper": keeper, "helper": carrier}[victim], signal.SIGKILL)
    gone = carriers | {keeper}
    try:
        eventually(lambda: all(processes.ended(pid) for pid in gone))
    finally:
        process.kill()
        process.communicate(timeout=AMPLE)


def test_the_network_of_another_container_can_be_joined(soliton: Program, busybox_sif: Path) -> None:
    script = "echo up; exec sleep 600"
    process = soliton.start("exec", "--network", "none", busybox_sif, "sh", "-c", script)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        place = f"/proc/{process.pid}/ns/net"
        inside = soliton("exec", "--netns-path", place, busybox_sif, "readlink", "/proc/self/ns/net").ok()
        assert inside.out.strip() == os.readlink(place)
    finally:
        process.kill()
        process.communicate(timeout=AMPLE)


def test_a_namespace_that_cannot_be_joined_is_named(soliton: Program, busybox_sif: Path) -> None:
    for path, why in (("/etc/passwd", "not a network namespace"), ("/missing", "No such file")):
        result = soliton("exec", "--netns-path", path, busybox_sif, "true")
        assert result.status == 255
        assert f"`{path}` cannot be joined" in result.err
        assert why in result.err
