"""What the machine has for a network of a container's own: programs, and the resolver's configuration."""

from __future__ import annotations

from soliton.record import record
from soliton.site.host import program

#: A resolv.conf longer than this is nobody's.
_LARGEST = 64 << 10


@record
class Network:
    """pasta, slirp4netns: absolute paths, if they are there. privileged: real root, whom pasta does not serve.

    resolver_options: lines other than `nameserver`."""

    pasta: str | None = None
    slirp4netns: str | None = None
    privileged: bool = False
    nameservers: tuple[str, ...] = ()
    resolver_options: tuple[str, ...] = ()


def port_in_use(protocol: str, address: str, port: int) -> str | None:
    """Why a port of the host cannot be had, if it cannot."""
    import socket

    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if kind == socket.SOCK_STREAM else 0)
        try:
            trial.bind((address, port))
        except OSError as error:
            return error.strerror
    return None


def look(privileged: bool) -> Network:
    nameservers: list[str] = []
    others: list[str] = []
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            for line in file.read(_LARGEST).splitlines():
                words = line.split()
                if words[:1] == ["nameserver"] and len(words) > 1:
                    nameservers.append(words[1])
                elif words and words[0] in ("search", "domain", "options"):
                    others.append(" ".join(words))
    except OSError:
        pass
    return Network(program("pasta"), program("slirp4netns"), privileged, tuple(nameservers), tuple(others))
