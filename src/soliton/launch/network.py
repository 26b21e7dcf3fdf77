"""The network that `--net`, `--network`, `--network-args` and `--netns-path` ask for. Pure.

Networks of the peers' configuration that need root are stood in for by a user-mode network: a program on the host carries the
connections of a network namespace. Imported only where one of the options is given.
"""

from __future__ import annotations

from soliton.errors import SolitonError
from soliton.launch.plan import Helper
from soliton.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.launch.request import ActionRequest
    from soliton.site.network import Network

#: Names of networks that a user-mode network is an answer to: the peers' defaults, and the programs themselves.
_CONNECTED = ("bridge", "ptp", "fakeroot", "pasta", "slirp4netns")
#: Of the peers' default networks, those that put the container on the wire: no program of a user's can.
_WIRE = ("ipvlan", "macvlan")
#: Where a name server of the host's loopback is reached from inside.
_PASTA_DNS = "169.254.1.1"
_SLIRP_DNS = "10.0.2.3"
_LARGEST_PORT = 65535


@record
class Port:
    """One port, seen from both sides. address: of the host, empty for all."""

    protocol: str
    outside: int
    inside: int
    address: str = ""


@record
class Connection:
    """What a container gets: the program that connects it, and its /etc/resolv.conf if the host's would not work."""

    helper: Helper | None
    resolv_conf: str | None = None


def asked_for(request: ActionRequest) -> bool:
    """Whether a program has to connect the container's network."""
    return request.net and not request.netns_path and tuple(request.network) != ("none",)


def connection(request: ActionRequest, facts: Network | None) -> Connection:
    """facts: None where no program is asked for. Raises SolitonError for names and arguments that make no sense, or if no program can do it."""
    names = [name.strip() for name in request.network if name.strip()] or ["bridge"]
    _check_names(names)
    forwarded, reached = ports(request.network_args, names)
    if names == ["none"]:
        if request.network_args:
            raise SolitonError(
                "`--network-args` with `--network none` asks for nothing",
                why="that network is a loopback only",
            )
        return Connection(None)
    assert facts is not None
    program = _program(names, facts, bool(forwarded or reached))
    local = [address for address in facts.nameservers if address.startswith("127.") or address == "::1"]
    away = local and not request.dns
    if program.endswith("pasta"):
        argv = [program, "--quiet", "--config-net", "--no-map-gw"]
        for option, list_of_ports, protocol in (
            ("-t", forwarded, "tcp"),
            ("-u", forwarded, "udp"),
            ("-T", reached, "tcp"),
            ("-U", reached, "udp"),
        ):
            own = [port for port in list_of_ports if port.protocol == protocol]
            for port in own:
                where = f"{port.address}/" if port.address else ""
                argv += [
                    option,
                    f"{where}{port.outside}:{port.inside}"
                    if option in "-t-u"
                    else f"{port.inside}:{port.outside}",
                ]
            if not own:
                argv += [option, "none"]
        if away:
            argv += ["--dns-forward", _PASTA_DNS]
        argv += ["--netns-only", "--netns", "NETNS"]
        helper, server = Helper(tuple(argv), "background"), _PASTA_DNS
    else:
        words = (
            program,
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--ready-fd=3",
            "--netns-type=path",
            "NETNS",
            "tap0",
        )
        helper, server = Helper(words, "descriptor"), _SLIRP_DNS
    if not away:
        return Connection(helper)
    return Connection(
        helper, "".join(f"{line}\n" for line in (f"nameserver {server}", *facts.resolver_options))
    )


def forwarded_ports(request: ActionRequest) -> list[Port]:
    """The ports of the host that are to lead into the container."""
    return ports(request.network_args, [name.strip() for name in request.network] or ["bridge"])[0]


def check_netns(request: ActionRequest) -> str | None:
    """The namespace to be joined, if one is."""
    if request.netns_path and (request.network or request.network_args):
        raise SolitonError(
            "`--netns-path` and `--network` exclude each other",
            why="one joins a network that exists, the other makes one",
        )
    return request.netns_path


def _check_names(names: list[str]) -> None:
    if "none" in names and len(names) > 1:
        raise SolitonError("the network `none` goes with no other", why="it is a loopback only")
    for name in names:
        if name in _WIRE:
            raise SolitonError(
                f"the network `{name}` needs root",
                why="it is an interface of the host's, and soliton works without privilege",
                remedy="use `--network pasta`: connections go out as your own, `portmap=` lets them in",
            )
        if name != "none" and name not in _CONNECTED:
            raise SolitonError(
                f"there is no network `{name}`",
                why="networks that an administrator configures need root, which soliton does without",
                remedy=f"there are none, and {', '.join(_CONNECTED)}, all of them user-mode",
            )


def _program(names: list[str], facts: Network, with_ports: bool) -> str:
    chosen = next((name for name in names if name in ("pasta", "slirp4netns")), None)
    found = {"pasta": facts.pasta, "slirp4netns": facts.slirp4netns}
    package = {"pasta": "passt", "slirp4netns": "slirp4netns"}
    if chosen:
        program = found[chosen]
        if program is None:
            raise SolitonError(
                f"the network `{chosen}` needs the program `{chosen}`, which was not found",
                remedy=f"install the package `{package[chosen]}`, or use `--network none`: loopback only",
            )
    elif facts.privileged:
        program = facts.slirp4netns
    else:
        program = facts.pasta or facts.slirp4netns
    if facts.privileged and (program is None or program == facts.pasta or with_ports):
        raise SolitonError(
            "`pasta`, which connects a network and maps its ports, does not work for root",
            why="it gives up root's rights first, and then may not enter the network",
            remedy="run as an ordinary user, or without ports by `--network slirp4netns` (package `slirp4netns`)",
        )
    if program is None:
        raise SolitonError(
            "a network of its own with a connection needs the program `pasta`, which was not found",
            why="neither was `slirp4netns`, which would do as well",
            remedy="install the package `passt`, or use `--network none`: loopback only",
        )
    if with_ports and program != facts.pasta:
        raise SolitonError(
            "ports of the container can be mapped by `pasta` only, which was not found"
            if facts.pasta is None
            else "ports of the container can be mapped by `pasta` only",
            remedy="install the package `passt`" if facts.pasta is None else "use `--network pasta`",
        )
    return program


def ports(arguments: tuple[str, ...], names: list[str]) -> tuple[list[Port], list[Port]]:
    """Of `--network-args`: (ports of the host that lead inside, ports of the host's loopback that can be reached).

    An argument is `[NETWORK:]KEY=VALUE[;KEY=VALUE…]`.
    """
    forwarded: list[Port] = []
    reached: list[Port] = []
    for argument in arguments:
        head, equals, _ = argument.partition("=")
        network, colon, _ = head.partition(":")
        if colon:
            if network not in names:
                raise SolitonError(
                    f"`{argument}` of `--network-args` is for the network `{network}`, which is not asked for",
                    remedy=f"the networks are {', '.join(names)}",
                )
            argument = argument[len(network) + 1 :]
        for pair in argument.split(";"):
            key, equals, value = pair.strip().partition("=")
            if not equals or not key:
                raise SolitonError(
                    f"`{pair}` of `--network-args` is not KEY=VALUE",
                    remedy="for example `--network-args portmap=8080:80/tcp`",
                )
            if key == "portmap":
                forwarded.append(_port(pair, value, with_address=True))
            elif key == "hostport":
                reached.append(_port(pair, value, with_address=False))
            else:
                raise SolitonError(
                    f"`{key}` of `--network-args` is not known",
                    why="a user-mode network takes portmap=HOST:CONTAINER/tcp and hostport=HOST[:CONTAINER]/tcp",
                )
    for first, port in enumerate(forwarded):
        for other in forwarded[:first]:
            if (port.protocol, port.outside, port.address) == (other.protocol, other.outside, other.address):
                raise SolitonError(f"the port {port.outside}/{port.protocol} of the host is mapped twice")
    return forwarded, reached


def _port(pair: str, value: str, *, with_address: bool) -> Port:
    numbers, slash, protocol = value.rpartition("/")
    fields = numbers.split(":")
    address = ""
    if with_address and len(fields) == 3 and _is_ipv4(fields[0]):
        address, *fields = fields
    if (
        not slash
        or protocol not in ("tcp", "udp")
        or not 1 <= len(fields) <= 2
        or not all(map(_is_port, fields))
    ):
        shape = "[ADDRESS:]HOST[:CONTAINER]/tcp or /udp" if with_address else "HOST[:CONTAINER]/tcp or /udp"
        raise SolitonError(
            f"`{pair}` of `--network-args` is not a port mapping",
            why=f"it should be {pair.partition('=')[0]}={shape}, with ports from 1 to {_LARGEST_PORT}",
        )
    return Port(protocol, int(fields[0]), int(fields[-1]), address)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= _LARGEST_PORT


def _is_ipv4(text: str) -> bool:
    fields = text.split(".")
    return len(fields) == 4 and all(
        f.isascii() and f.isdigit() and len(f) <= 3 and int(f) < 256 for f in fields
    )
