"""What an administrator settles: `soliton config …`, `soliton capability …`."""

from __future__ import annotations

from soliton.cli.commands import Command, Example
from soliton.cli.options import TEXT, Option

HOUSEKEEPING = "Housekeeping"
WHO = (
    Option("user", "u", TEXT, "NAME", keys=("CAP_USER",), help="the user"),
    Option("group", "g", TEXT, "NAME", keys=("CAP_GROUP",), help="the group"),
)

_JSON = Option("json", "j", help="as JSON")
_DRY_RUN = Option("dry-run", "d", help="only show the file as it would be")
_WHOSE = (
    Option("system", help="in the site's file (so for root)"),
    Option("user", help="in the user's own file (so for others)"),
)

COMMANDS = (
    Command(
        "doctor",
        "[FINDING]",
        "examine this machine: what helps or hinders containers, and what to do",
        most=1,
        options=(
            _JSON,
            Option(
                "apparmor-profile", help="print a profile that lets this installation make user namespaces"
            ),
        ),
        handler="soliton.cli.doctor:doctor",
        group=HOUSEKEEPING,
        description=(
            "The exit status is 1 if there is a problem: something without which containers cannot run. Notes are about"
            " what only some need. Nothing is changed."
        ),
        examples=(
            Example("soliton doctor", "everything"),
            Example("soliton doctor userns", "one finding, as an error message names it"),
            Example("soliton doctor --apparmor-profile", "for /etc/apparmor.d/soliton"),
        ),
    ),
    Command(
        "config",
        "",
        "the configuration",
        group=HOUSEKEEPING,
        description=(
            "One file, soliton.toml: the site's in /etc/soliton or PREFIX/etc/soliton, the user's in ~/.config/soliton."
            " The user's wins, but for rules of the site and what the site locks."
        ),
        subcommands=(
            Command(
                "show",
                "[DIRECTIVE…]",
                "what holds, as a file that could be used",
                most=None,
                options=(Option("origin", help="and which line of which file says so"), _JSON),
                handler="soliton.cli.config:show",
                examples=(
                    Example("soliton config show --origin", "everything, and where it comes from"),
                    Example("soliton config show bind-path mount-home", "of two directives"),
                ),
            ),
            Command(
                "get",
                "DIRECTIVE",
                "the value of one directive",
                least=1,
                most=1,
                options=(_JSON,),
                handler="soliton.cli.config:get",
                examples=(Example("soliton config get bind-path", "one value a line"),),
            ),
            Command(
                "set",
                "DIRECTIVE VALUE…",
                "change one directive",
                least=2,
                most=None,
                options=(*_WHOSE, _DRY_RUN),
                handler="soliton.cli.config:set_",
                description="A list takes several values. Comments in the file stay.",
                examples=(
                    Example("soliton config set --user mount-tmp false", "from now on no /tmp of the host"),
                    Example("soliton config set --dry-run bind-path /data /scratch:/work", "show the file"),
                ),
            ),
            Command(
                "unset",
                "DIRECTIVE",
                "take one directive out of the file",
                least=1,
                most=1,
                options=(*_WHOSE, _DRY_RUN),
                handler="soliton.cli.config:unset",
                examples=(Example("soliton config unset --user mount-tmp", "back to what the site says"),),
            ),
            Command(
                "import",
                "FILE",
                "take over apptainer.conf or singularity.conf",
                least=1,
                most=1,
                options=(*_WHOSE, Option("force", "F", help="replace an existing file"), _DRY_RUN),
                handler="soliton.cli.config:import_",
                description="What has no meaning without setuid is left out, each with a comment that says why.",
                examples=(
                    Example("soliton config import --dry-run apptainer.conf", "see it", "apptainer.conf"),
                ),
            ),
            Command(
                "fakeroot",
                "USER",
                "subordinate ids of a user",
                least=1,
                most=1,
                options=(
                    Option("add", "a", help="add a range"),
                    Option("remove", "r", help="remove the range"),
                    Option("enable", "e", help="enable it"),
                    Option("disable", "d", help="disable it"),
                ),
                instead="use `usermod --add-subuids` and `--add-subgids`",
            ),
            Command(
                "global",
                "DIRECTIVE [VALUE]",
                "one directive of the configuration file",
                least=1,
                most=2,
                options=(
                    Option("set", "s", help="set it"),
                    Option("unset", "u", help="take a value away"),
                    Option("get", "g", help="show it"),
                    Option("reset", "r", help="back to its default"),
                    _DRY_RUN,
                ),
                handler="soliton.cli.config:global_",
                description=(
                    "As the peers have it, for the site's file: --set adds to a list, --unset takes a value out of it."
                ),
                examples=(Example('soliton config global --get "bind path"', "by its name at the peers"),),
            ),
        ),
    ),
    Command(
        "capability",
        "",
        "capabilities that users may ask for",
        aliases=("caps",),
        group=HOUSEKEEPING,
        subcommands=(
            Command("add", "CAPS", "allow capabilities", least=1, most=1, options=WHO),
            Command("drop", "CAPS", "no longer allow them", least=1, most=1, options=WHO),
            Command("list", "[NAME]", "show what is allowed", most=1),
            Command("avail", "[CAP]", "explain capabilities", most=1),
        ),
    ),
)
