"""Credentials and endpoints: `soliton registry …`, `soliton keyserver …`, `soliton remote …`."""

from __future__ import annotations

from soliton.cli.commands import Command
from soliton.cli.options import INTEGER, TEXT, Option
from soliton.cli.tables.shared import AUTHFILE

SHARING = "Sharing"
CONFIG = Option("config", "c", TEXT, "FILE", help="file with the endpoints")
GLOBAL = Option("global", "g", help="for all users")
USERNAME = Option("username", "u", TEXT, "NAME", help="user")
PASSWORD = Option("password", "p", TEXT, "SECRET", help="password")
PASSWORD_STDIN = Option("password-stdin", help="read the password from stdin")
LOGIN = (CONFIG, USERNAME, PASSWORD, PASSWORD_STDIN)

REGISTRY = (
    Command("login", "URI", "keep credentials for a registry", least=1, most=1, options=(*LOGIN, AUTHFILE)),
    Command("logout", "URI", "forget them", least=1, most=1, options=(CONFIG, AUTHFILE)),
    Command("list", "", "show the registries with credentials", options=(CONFIG,)),
)

KEYSERVER = (
    Command(
        "add",
        "[REMOTE] URL",
        "add a key server",
        least=1,
        most=2,
        options=(
            CONFIG,
            Option("insecure", "i", help="without TLS"),
            Option("order", "o", INTEGER, "N", help="its place among the others"),
        ),
    ),
    Command("remove", "[REMOTE] URL", "remove a key server", least=1, most=2, options=(CONFIG,)),
    Command("list", "[REMOTE]", "show the key servers", most=1, options=(CONFIG,)),
    Command("login", "URL", "keep credentials for a key server", least=1, most=1, options=LOGIN),
    Command("logout", "URL", "forget them", least=1, most=1, options=(CONFIG,)),
)

REMOTE = (
    Command(
        "add",
        "NAME URI",
        "add an endpoint",
        least=2,
        most=2,
        options=(
            CONFIG,
            GLOBAL,
            Option("insecure", "i", keys=("ADD_INSECURE",), help="without TLS"),
            Option("no-default", "n", help="do not make it the one in use"),
            Option("no-login", help="do not log in"),
            Option("tokenfile", None, TEXT, "FILE", help="file with the token"),
        ),
    ),
    Command("remove", "NAME", "remove an endpoint", least=1, most=1, options=(CONFIG, GLOBAL)),
    Command(
        "use",
        "NAME",
        "choose the endpoint in use",
        least=1,
        most=1,
        options=(CONFIG, GLOBAL, Option("exclusive", "e", help="no other may be used")),
    ),
    Command("list", "", "show the endpoints", options=(CONFIG,)),
    Command(
        "login",
        "[NAME]",
        "log in to an endpoint",
        most=1,
        options=(
            CONFIG,
            Option("username", "u", TEXT, "NAME", keys=("LOGIN_USERNAME",), help="user"),
            Option("password", "p", TEXT, "SECRET", keys=("LOGIN_PASSWORD",), help="password"),
            PASSWORD_STDIN,
            Option("tokenfile", None, TEXT, "FILE", help="file with the token"),
            Option("insecure", "i", keys=("LOGIN_INSECURE",), help="without TLS"),
        ),
    ),
    Command("logout", "[NAME]", "log out", most=1, options=(CONFIG,)),
    Command("status", "[NAME]", "show whether an endpoint works", most=1, options=(CONFIG,)),
    Command("get-login-password", "", "show the password for the registry of an endpoint", options=(CONFIG,)),
    Command(
        "add-keyserver",
        "[REMOTE] URL",
        "add a key server",
        least=1,
        most=2,
        hidden=True,
        deprecated="`keyserver add`",
        options=(
            CONFIG,
            Option("insecure", "i", help="without TLS"),
            Option("order", "o", INTEGER, "N", help="its place"),
        ),
    ),
    Command(
        "remove-keyserver",
        "[REMOTE] URL",
        "remove a key server",
        least=1,
        most=2,
        hidden=True,
        deprecated="`keyserver remove`",
        options=(CONFIG,),
    ),
)

COMMANDS = (
    Command("keyserver", "", "servers of public keys", subcommands=KEYSERVER, group=SHARING),
    Command("registry", "", "credentials of registries", subcommands=REGISTRY, group=SHARING),
    Command("remote", "", "endpoints of libraries", subcommands=REMOTE, group=SHARING),
)
