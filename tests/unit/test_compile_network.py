"""The network of a container: by name and argument, and what each wrong one is answered with."""

from __future__ import annotations

import pytest

from soliton.errors import SolitonError
from soliton.launch.plan import Helper, Plan, SynthesizedFile
from soliton.record import replace
from soliton.site.network import Network
from tests.unit.compiled import at, plan_for

BOTH = Network("/usr/bin/pasta", "/usr/bin/slirp4netns", nameservers=("10.0.0.53",))
NEITHER = Network()
NO_PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")


def plan(line: str, facts: Network | None = BOTH) -> Plan:
    return plan_for(f"exec {line} IMAGE true", network=facts)


def helper(line: str, facts: Network = BOTH) -> Helper:
    found = plan(line, facts).helper
    assert found is not None
    return found


@pytest.mark.parametrize(
    "line",
    ["--net", "-n", "--network bridge", "--network ptp,bridge", "--network pasta", "--network fakeroot"],
)
def test_a_network_with_a_connection_is_pasta(line: str) -> None:
    assert plan(line).namespaces == ("net",)
    argv = (
        "/usr/bin/pasta",
        "--quiet",
        "--config-net",
        "--no-map-gw",
        *NO_PORTS,
        "--netns-only",
        "--netns",
        "NETNS",
    )
    assert helper(line) == Helper(argv, "background")


def test_slirp4netns_where_it_is_asked_for_or_pasta_is_missing() -> None:
    for found in (helper("--network slirp4netns"), helper("--net", replace(BOTH, pasta=None))):
        assert found.argv[0] == "/usr/bin/slirp4netns"
        assert "--disable-host-loopback" in found.argv
        assert found.ready == "descriptor"


def test_a_loopback_needs_no_program() -> None:
    assert plan("--network none", None).helper is None
    assert plan("--net --network none", None).namespaces == ("net",)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("portmap=8080:80/tcp", "-t 8080:80"),
        ("portmap=8080/udp", "-u 8080:8080"),
        ("portmap=127.0.0.1:8080:80/tcp", "-t 127.0.0.1/8080:80"),
        ("bridge:portmap=8080:80/tcp", "-t 8080:80"),
        ("portmap=8080:80/tcp;portmap=8443:443/tcp", "-t 8080:80 -t 8443:443"),
        ("hostport=5432/tcp", "-T 5432:5432"),
        ("hostport=5432:15432/udp", "-U 15432:5432"),
    ],
)
def test_ports(argument: str, words: str) -> None:
    assert f" {words} " in " ".join(helper(f"--network-args {argument}").argv)


def test_a_name_server_of_the_hosts_loopback_is_reached_another_way() -> None:
    local = replace(BOTH, nameservers=("127.0.0.53",), resolver_options=("search example.org",))
    assert "--dns-forward" in helper("--net", local).argv
    assert at(plan("--net", local), "/etc/resolv.conf") == [
        SynthesizedFile(
            "/etc/resolv.conf",
            "nameserver 169.254.1.1\nsearch example.org\n",
            optional=True,
            origin="--network",
        )
    ]
    assert "--dns-forward" not in helper("--net --dns 10.0.0.1", local).argv
    assert at(plan("--network slirp4netns", local), "/etc/resolv.conf")[0] == SynthesizedFile(
        "/etc/resolv.conf", "nameserver 10.0.2.3\nsearch example.org\n", optional=True, origin="--network"
    )


def test_an_existing_namespace_is_joined_and_none_is_made() -> None:
    joined = plan("--netns-path /proc/7/ns/net", None)
    assert (joined.netns, joined.namespaces, joined.helper) == ("/proc/7/ns/net", (), None)


@pytest.mark.parametrize(
    ("line", "facts", "what", "remedy"),
    [
        ("--net", NEITHER, "a network of its own with a connection needs the program `pasta`", "`passt`"),
        ("--network pasta", NEITHER, "the network `pasta` needs the program `pasta`", "`passt`"),
        ("--network slirp4netns", NEITHER, "the network `slirp4netns` needs", "the package `slirp4netns`"),
        ("--network macvlan", BOTH, "the network `macvlan` needs root", "--network pasta"),
        ("--network corporate", BOTH, "there is no network `corporate`", "pasta"),
        ("--network none,bridge", BOTH, "the network `none` goes with no other", ""),
        ("--network none --network-args portmap=1:1/tcp", BOTH, "`--network-args` with `--network none`", ""),
        (
            "--network slirp4netns --network-args portmap=1:1/tcp",
            BOTH,
            "ports of the container",
            "--network pasta",
        ),
        (
            "--net --network-args portmap=1:1/tcp",
            replace(BOTH, pasta=None),
            "ports of the",
            "package `passt`",
        ),
        ("--network-args portmap=0:80/tcp", BOTH, "`portmap=0:80/tcp` of `--network-args` is not a port", ""),
        ("--network-args portmap=1:65536/tcp", BOTH, "`portmap=1:65536/tcp` of", ""),
        ("--network-args portmap=80:80", BOTH, "`portmap=80:80` of", ""),
        ("--network-args portmap=a:80/tcp", BOTH, "`portmap=a:80/tcp` of", ""),
        ("--network-args portmap=300.1.1.1:8:8/tcp", BOTH, "`portmap=300.1.1.1:8:8/tcp` of", ""),
        (
            "--network-args portmap=8:8/tcp,portmap=8:9/tcp",
            BOTH,
            "the port 8/tcp of the host is mapped twice",
            "",
        ),
        ("--network-args hostport=1:2:3/tcp", BOTH, "`hostport=1:2:3/tcp` of", ""),
        ("--network-args portmap", BOTH, "`portmap` of `--network-args` is not KEY=VALUE", "portmap="),
        ("--network-args ipRange=10.0.0.0/24", BOTH, "`ipRange` of `--network-args` is not known", ""),
        (
            "--network-args ptp:portmap=1:1/tcp",
            BOTH,
            "`ptp:portmap=1:1/tcp` of `--network-args` is for",
            "bridge",
        ),
        ("--netns-path /x --network none", BOTH, "`--netns-path` and `--network` exclude each other", ""),
        (
            "--net",
            replace(BOTH, privileged=True, slirp4netns=None),
            "`pasta`, which connects a network",
            "user",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(line: str, facts: Network, what: str, remedy: str) -> None:
    with pytest.raises(SolitonError) as caught:
        plan(line, facts)
    assert caught.value.what.startswith(what)
    assert remedy in (caught.value.remedy or "")
