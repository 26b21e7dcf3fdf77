"""Forms in which public projects write definition files, each written anew: what is understood of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from soliton.build import script, steps
from soliton.build.definition import Definition, Stage, parse
from soliton.images import labels

Seen = Callable[[Definition], object]


def only(definition: Definition) -> Stage:
    (stage,) = definition.stages
    return stage


def header(keyword: str) -> Seen:
    return lambda definition: only(definition).header.get(keyword)


def body(name: str, app: str | None = None) -> Seen:
    return lambda definition: definition.stages[-1].body(name, app)


def copied(definition: Definition) -> object:
    return [
        (files.stage or files.app, item.source, item.target)
        for files in definition.stages[-1].files
        for item in files.transfers
    ]


def command(name: str) -> Seen:
    def seen(definition: Definition) -> object:
        section = only(definition).section(name)
        assert section is not None
        return script.command(section, "S")

    return seen


def told(definition: Definition) -> object:
    return labels.parse(only(definition).body("labels") or "")


def post(definition: Definition) -> object:
    section = steps.post_section(definition.stages[-1])
    return None if section is None else section.body


D = "Bootstrap: docker\nFrom: x\n"
FORMS: dict[str, tuple[str, Seen, object]] = {
    # Headers.
    "no blank behind the colon": ("Bootstrap:docker\nFrom:centos:7.4\n", header("from"), "centos:7.4"),
    "any case, and blanks before the colon": ("BootStrap : Docker\nFROM : x\n", header("from"), "x"),
    "indented by tabs": ("\tBootstrap: docker\n\tFrom: x\n", header("from"), "x"),
    "comments above and behind": ("# What it is\n\nBootstrap: docker # hub\n#From: y\nFrom: x  # pinned\n", header("from"), "x"),
    "a line of nothing but a mark": ("Bootstrap: docker\n##########\nFrom: x\n", header("from"), "x"),
    "a digest": ("Bootstrap: docker\nFrom: ubuntu@sha256:0123abcd\n", header("from"), "ubuntu@sha256:0123abcd"),
    "a port and a registry": ("Bootstrap: docker\nRegistry: localhost:5000\nNamespace:\nFrom: x\n", header("registry"), "localhost:5000"),
    "a version in an address": ("Bootstrap: yum\nOSVersion: 7\nMirrorURL: http://m/%{OSVERSION}/os/$basearch/\nInclude: yum\n", header("mirrorurl"), "http://m/%{OSVERSION}/os/$basearch/"),
    "packages by blanks": ("Bootstrap: debootstrap\nMirrorURL: http://m/\nOSVersion: bionic\nInclude: apt file gnupg\n", header("include"), "apt file gnupg"),
    "two words of old": ("Bootstrap: docker\nFrom: x\nIncludeCmd: yes\nRegistry: r\n", header("includecmd"), "yes"),
    "no line end at the end": ("Bootstrap: docker\nFrom: x", header("from"), "x"),
    "line ends of Windows": ("Bootstrap: docker\r\nFrom: x\r\n%post\r\n    echo a\r\n", body("post"), "    echo a\n"),
    "a mark of the encoding": ("\ufeffBootstrap: docker\nFrom: x\n", header("from"), "x"),
    "a value with a template": ("Bootstrap: docker\nFrom: x:{{ TAG }}\n%arguments\n  TAG=1.2\n", header("from"), "x:1.2"),
    "a template before its default": ("Bootstrap: docker\nFrom: {{A}}/{{ B }}\n\n%arguments\nA=one\n\tB = two\n", header("from"), "one/two"),
    # Sections.
    "a name in capitals": (D + "%POST\necho a\n", body("post"), "echo a\n"),
    "an indented section": (D + "  %post\n  echo a\n", body("post"), "  echo a\n"),
    "comments between sections": (D + "%post\necho a\n\n# Then it runs\n%runscript\nexec a\n", body("post"), "echo a\n\n# Then it runs\n"),
    "the same section twice": (D + "%post\necho a\n%help\nh\n%post\necho b\n", body("post"), "echo a\necho b\n"),
    "a comment behind the name": (D + "%post  # packages\necho a\n", command("post"), ("/bin/sh", "-ex", "S")),
    "bash": (D + "%post -c /bin/bash\nset -e\n", command("post"), ("/bin/sh", "-ex", "-c", "/bin/bash S")),
    "bash with options": (D + "%post -c /bin/bash -euo pipefail\n:\n", command("post"), ("/bin/sh", "-ex", "-c", "/bin/bash -euo pipefail S")),
    "an option of sh": (D + "%setup -u\n:\n", command("setup"), ("/bin/sh", "-ex", "-u", "S")),
    "a here-document with a header in it": (D + "%post\ncat > /x <<EOF\n  Bootstrap: docker\nEOF\n", body("post"), "cat > /x <<EOF\n  Bootstrap: docker\nEOF\n"),
    "a percent sign within a line": (D + "%post\ndate +%Y && printf '%s\\n' a\n", body("post"), "date +%Y && printf '%s\\n' a\n"),
    "braces of a shell": (D + "%post\necho ${A:-{x}} {a,b} ${{B}}\n%arguments\nB=1\n", body("post"), "echo ${A:-{x}} {a,b} $1\n"),
    "braces of another language": (D + "%post\nfmt='{{.Id}}' other='{{ a.b }}' '{{- x }}' '{{}}'\n", body("post"), "fmt='{{.Id}}' other='{{ a.b }}' '{{- x }}' '{{}}'\n"),
    "a template in a comment": (D + "%post\necho 1 # {{ NOT_GIVEN }}\n", body("post"), "echo 1 # {{ NOT_GIVEN }}\n"),
    "a test in a language": (D + "%test\n#!/usr/bin/python3\nprint(1)\n", body("test"), "#!/usr/bin/python3\nprint(1)\n"),
    "an environment without export": (D + "%environment\nLC_ALL=C\nexport LC_ALL PATH=/a:$PATH\n", body("environment"), "LC_ALL=C\nexport LC_ALL PATH=/a:$PATH\n"),
    "empty sections": (D + "%setup\n\n%files\n\n%post\n\n%labels\n", post, None),
    # Labels.
    "labels with and without a value": (D + "%labels\nMAINTAINER Jo Doe <jo@x>\n\tVersion\tv1.0  \n# none\nAlone\nurl http://x/#a\n", told, {"MAINTAINER": "Jo Doe <jo@x>", "Version": "v1.0", "Alone": "", "url": "http://x/#a"}),
    # Files.
    "a source alone": (D + "%files\nrun.sh\n\n  # where data is\n  data /opt\n", copied, [(None, "run.sh", None), (None, "data", "/opt")]),
    "quotes and a comment": (D + "%files\n\"a b\" '/c d' # why\n", copied, [(None, "a b", "/c d")]),
    "blanks behind a backslash": (D + "%files\na\\ b /c\n", copied, [(None, "a b", "/c")]),
    "patterns": (D + "%files\n./*.py /opt/\nsrc/{a,b}/[0-9]?.txt /x\n", copied, [(None, "./*.py", "/opt/"), (None, "src/{a,b}/[0-9]?.txt", "/x")]),
    "files of a stage": ("bootstrap: docker\nfrom: x\nstage: build\n\n# Then\nBOOTSTRAP: docker\nFrom: y\nStage: final\n%files from build\n\t# all\n\t/usr/local /usr/local \n", copied, [("build", "/usr/local", "/usr/local")]),
    "files of a template": (D + "%arguments\nV=1\n%files\nx-{{ V }}.tar /opt/x-{{V}}/\n", copied, [(None, "x-1.tar", "/opt/x-1/")]),
    # Apps.
    "apps in the order of their first mention": (D + "%apprun b\nexec b\n%appinstall a\nA\n%appinstall b\nB\n%appenv a\nX=1\n", lambda d: only(d).apps, ("b", "a")),
    "an app's files": (D + "%appfiles c\n./tool .\ntool.c bin/tool.c\n", copied, [("c", "./tool", "."), ("c", "tool.c", "bin/tool.c")]),
    "a name of an app with a dot": (D + "%apprun hello-world.2\nexec x\n", body("apprun", "hello-world.2"), "exec x\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_understood(name: str) -> None:
    text, seen, expected = FORMS[name]
    assert seen(parse(text.encode(), "recipe.def")) == expected


def test_the_installation_of_every_app_goes_behind_post() -> None:
    text = D + "%appinstall b\necho B\n%post\necho P\n%appinstall a\necho A\n"
    found = str(post(parse(text.encode(), "recipe.def")))
    assert found.index("echo P") < found.index("echo B") < found.index("echo A")
