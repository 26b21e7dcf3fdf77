"""What is an error in soliton's own name and only a warning under the names of the peers."""

from __future__ import annotations

import pytest

from soliton.cli.action import request_of
from soliton.cli.parser import parse
from soliton.launch.leniency import lenient
from soliton.launch.request import ActionRequest
from soliton.record import replace
from soliton.site.config import DEFAULTS, Config
from tests.unit.compiled import CALLER, ROOT


def asked(line: str) -> ActionRequest:
    return request_of("exec", parse("apptainer", f"exec {line} IMAGE x".split(), {}))


NO_BINDS = Config(user_bind_control=False)
IGNORED = "user bind control disabled by system administrator"


@pytest.mark.parametrize(
    ("line", "config", "left", "said"),
    [
        ("-B /a --mount type=bind,src=/a,dst=/b", DEFAULTS, None, ()),
        ("--no-mount proc,/etc/hosts", DEFAULTS, None, ()),
        ("--no-mount proc,net", DEFAULTS, "--no-mount proc", ("Ignoring unknown mount type 'net'",)),
        ("--writable", DEFAULTS, None, ()),
        (
            "--writable --writable-tmpfs",
            DEFAULTS,
            "--writable",
            ("Disabling --writable-tmpfs flag, mutually exclusive with --writable",),
        ),
        (
            "-c -W /w -B /a:/b -B /c --data /d:/e",
            NO_BINDS,
            "-c",
            (
                f"Ignoring /a:/b bind mount: {IGNORED}",
                f"Ignoring /c bind mount: {IGNORED}",
                f"Ignoring /d:/e bind mount: {IGNORED}",
                f"Ignoring /w as work directory: {IGNORED}",
            ),
        ),
        # Another home is an error there too.
        ("--home /a:/b", NO_BINDS, None, ()),
    ],
)
def test_what_peers_pass_over(line: str, config: Config, left: str | None, said: tuple[str, ...]) -> None:
    request, told = lenient(asked(line), config, CALLER)
    assert told == said
    assert replace(request, origins={}) == replace(asked(line if left is None else left), origins={})


def test_the_site_s_rules_are_not_for_root() -> None:
    assert lenient(asked("-B /a"), NO_BINDS, ROOT) == (asked("-B /a"), ())
