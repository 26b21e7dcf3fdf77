"""Dockerfiles as text: grammar, variables, stages, what instructions say of the image, and the build context's limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import context, mounts, origins, parser, stages, words
from soliton.build.dockerfile.config import Config
from soliton.build.lines import DefinitionError
from soliton.build.origin import is_dockerfile, settle
from soliton.errors import BuildError

CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "dockerfile").glob("*.Dockerfile"))


def read(text: str) -> parser.Dockerfile:
    return parser.parse(text.encode(), "Dockerfile")


def recipe(text: str, target: str | None = None, **given: str) -> stages.Recipe:
    return stages.read(read(text), given, {"TARGETARCH": "amd64"}, target)


def configured(text: str, **given: str) -> Config:
    file = read(text)
    config = Config()
    for item in file.instructions:
        configuration.apply(config, item, file, given, {"OUTER": "from outside"})
    return config


def test_instructions_are_continued_and_comments_between_are_passed_over() -> None:
    file = read('from a as b\nRUN one \\\n  # why\n\n  two\n# end\nCMD ["x", "y"]\n')
    assert [(item.word, item.line) for item in file.instructions] == [("FROM", 1), ("RUN", 2), ("CMD", 7)]
    assert file.instructions[1].rest == "one   two"
    assert file.instructions[2].json == ("x", "y")


def test_the_escape_directive_counts_in_the_first_lines_only() -> None:
    file = read("# escape=`\nFROM a\nRUN dir `\n c:\\\nRUN x\n")
    assert [item.rest for item in file.instructions] == ["a", "dir  c:\\", "x"]
    assert read("FROM a\n# escape=`\nRUN b `\nRUN c\n").instructions[1].rest == "b `"


def test_here_documents_belong_to_their_instruction() -> None:
    file = read("FROM a\nRUN <<-EOF cat <<'B'\n\tone\n\tEOF\ntwo $X\nB\nCOPY <<f /x\nz\nf\n")
    run, copy = file.instructions[1:]
    assert [(doc.name, doc.body, doc.expand) for doc in run.heredocs] == [
        ("EOF", "one\n", True),
        ("B", "two $X\n", False),
    ]
    assert copy.heredocs[0].body == "z\n" and copy.line == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no instruction"),
        ("RUN x\n", "RUN before the first FROM"),
        ("FROM a\nRNU x\n", "Dockerfile:2: `RNU` is no instruction"),
        ("FROM a\nRUN <<EOF\nx\n", "never ended"),
        ("FROM a b\n", "FROM takes one image"),
        ("FROM a AS 1x\n", "cannot be the name"),
        ("FROM $NONE\n", "its variable is empty"),
        ("FROM --privileged a\n", "no option `--privileged`"),
        ("# escape=x\nFROM a\n", "cannot be the escape"),
        ("FROM a\nRUN\n", "RUN without anything"),
    ],
)
def test_what_is_no_dockerfile_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(DefinitionError) as failure:
        recipe(text)
    assert told in str(failure.value)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$A-${A}x", "1-1x"),
        ("${NO:-d}${A:+y}${NO:+n}${NO-e}${EMPTY-f}", "dye"),
        (r"\$A '$A' \"$A\"", '$A $A "1"'),
        ("\"a b\" 'c'", "a b c"),
        ("${NO:-${A}}", "1"),
        ("100%$", "100%$"),
        (
            "${P#linux/} ${P%/*} ${P##*/} ${P%%/*} ${P/linux/x} ${P//a/_}",
            "amd64/v2 linux/amd64 v2 linux x/amd64/v2 linux/_md64/v2",
        ),
        ("${P%$E} ${NO#x}|", "linux/amd64 |"),
        ("${P#*n?x} ${P%%[*} ${P#**/**} ${P#zz*}", "/amd64/v2 linux/amd64/v2 amd64/v2 linux/amd64/v2"),
    ],
)
def test_variables_are_those_of_dockerfiles(text: str, result: str) -> None:
    assert (
        words.expand(text, {"A": "1", "EMPTY": "", "P": "linux/amd64/v2", "E": "/v2"}, "\\", "Dockerfile", 1)
        == result
    )


@pytest.mark.parametrize("text", ["${P/l*/x}", "${A", "${NO:?must}", "${A!}", "'open", "${" * 100])
def test_variables_that_are_none_are_errors(text: str) -> None:
    with pytest.raises(DefinitionError):
        words.expand(text, {"A": "1"}, "\\", "Dockerfile", 1)


def test_arguments_have_their_scopes() -> None:
    text = "ARG V=1\nARG W=$V.0\nFROM base:$W AS one\nARG V\nFROM one\nFROM other-$TARGETARCH\n"
    found = recipe(text)
    assert [stage.base for stage in found.stages] == ["base:1.0", 0, "other-amd64"]
    assert recipe(text, V="2").stages[0].base == "base:2.0"
    assert recipe(text, V="2").used == {"V"}
    assert recipe(text, target="one").target == 0 and recipe(text, target="1").target == 1
    with pytest.raises(DefinitionError):
        recipe(text, target="nine")
    config = configured("ARG OUTER\nARG A=a$OUTER\nARG B\nENV A=env\nENV C=$A-$B\n", B="given")
    assert config.arguments == {"OUTER": "from outside", "A": "afrom outside", "B": "given"}
    assert config.env == {"A": "env", "C": "env-given"}


def test_what_instructions_say_of_the_image() -> None:
    config = configured(
        'ENV A=1 B="x y"\nENV OLD some words\nLABEL a.b="c d" e=f\nEXPOSE 80 53/udp\nVOLUME /data\nUSER me:us\n'
        'WORKDIR /a\nWORKDIR b/../c\nSHELL ["/bin/bash", "-c"]\nCMD run it\nSTOPSIGNAL 9\nONBUILD RUN x\n'
        "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x\nMAINTAINER Jo\n"
    )
    assert config.env == {"A": "1", "B": "x y", "OLD": "some words"}
    found = configuration.finished(config)
    assert found["Labels"] == {"a.b": "c d", "e": "f", "maintainer": "Jo"}
    assert found["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}} and found["Volumes"] == {"/data": {}}
    assert found["WorkingDir"] == "/a/c" and found["Cmd"] == ["/bin/bash", "-c", "run it"]
    assert found["OnBuild"] == ["RUN x"] and found["User"] == "me:us"
    assert found["Healthcheck"] == {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9, "Retries": 3}
    inherited = Config({"Cmd": ["of the base"]})
    configuration.apply(inherited, read('ENTRYPOINT ["e"]\n').instructions[0], read("FROM a\n"), {}, {})
    assert configuration.finished(inherited) == {"Entrypoint": ["e"]}


@pytest.mark.parametrize(
    "text",
    [
        "type=bind,target=/x,propagation=shared",
        "type=bind,source=/,dst=/x,from=s,bind-propagation=rshared",
        "type=ssh,uid=5",
        "type=cache",
        "type=cache,target=/../../x",
        "type=secret",
        "type=tmpfs,target=/x,size=much",
        "type=cache,target=/x,sharing=none",
    ],
)
def test_a_mount_with_anything_that_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        mounts.read(text, "Dockerfile", 1)


def test_mounts_are_read() -> None:
    found = mounts.read("type=secret,id=tok,required", "Dockerfile", 1)
    assert (found.target, found.required) == ("/run/secrets/tok", True)
    assert mounts.read("target=/x,source=a", "Dockerfile", 1).read_only
    assert not mounts.read("type=cache,dst=/c,id=pip,sharing=locked", "Dockerfile", 1).read_only
    for text, read_only in (
        ("bind,ro", True),
        ("bind,readonly=false", False),
        ("cache,ro", True),
        ("bind,readwrite", False),
    ):
        assert mounts.read(f"type={text},target=/x", "Dockerfile", 1).read_only is read_only
    assert mounts.read("type=secret,src=tok", "Dockerfile", 1).id == "tok"


@pytest.mark.parametrize(
    ("written", "platform"),
    [
        ("--platform=linux/amd64 ", "amd64"),
        ("--platform=linux/arm64/v8 ", "arm64"),
        ("--platform=linux/arm/v7 ", "arm/v7"),
        ("--platform=x86_64 ", "amd64"),
        ("--platform=$TARGET ", "riscv64"),
        ("", ""),
    ],
)
def test_a_platform_is_read(written: str, platform: str) -> None:
    assert recipe(f"ARG TARGET=linux/riscv64\nFROM {written}a\n").stages[0].platform == platform


@pytest.mark.parametrize("platform", ["windows/amd64", "linux/z80", "linux", "linux/arm/v7/x", "$NONE", ""])
def test_a_platform_that_is_none_is_refused(platform: str) -> None:
    with pytest.raises(DefinitionError, match="is not known"):
        recipe(f"FROM --platform={platform} a\n")


def test_what_is_excluded_counts_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    here = context.without(context.Context(str(tmp_path)), "src", ["*.log", "**/cache"])
    assert here.ignores("src/a.log") and here.ignores("src/deep/cache")
    assert not here.ignores("a.log") and not here.ignores("src/deep/a.log")


def test_parents_are_kept_from_the_mark_on() -> None:
    assert origins.below("/x/", "a/b/c", "a/b/c") == "/x/a/b/c"
    assert origins.below("/x/", "a/b/c", "a/./b/c") == "/x/b/c"
    assert origins.below("/", "/usr/lib/y", "/usr/./lib/y") == "/lib/y"


def test_names_lead_to_places_inside_the_context_only(tmp_path: Path) -> None:
    root = tmp_path / "context"
    (root / "a").mkdir(parents=True)
    (root / "a" / "f").write_text("x")
    for name, target in (
        ("abs", "/etc"),
        ("up", "../../.."),
        ("loop", "loop"),
        ("fine", "a/f"),
        ("mine", "/a"),
    ):
        os.symlink(target, root / name)
    assert context.resolve(str(root), "/../../a/f") == "a/f"
    assert context.resolve(str(root), "abs/passwd") == "etc/passwd"
    assert context.resolve(str(root), "up/etc") == "etc"
    assert context.resolve(str(root), "mine/f") == "a/f"
    with pytest.raises(BuildError):
        context.resolve(str(root), "loop/x")
    here = context.Context(str(root))
    assert context.find(here, "abs/passwd") == [] and context.find(here, "../../etc/passwd") == []
    assert context.find(here, "a/*") == ["a/f"] and context.find(here, ".") == [""]


def test_dockerignore_has_the_last_word(tmp_path: Path) -> None:
    rules = context.read_rules("# c\n*.log\n**/cache\n!keep.log\n/build/\n!build/out\ndocs/*/x?\n")
    here = context.Context(str(tmp_path), rules)
    ignored = ("a.log", "a/b/cache", "cache/x", "build/in", "docs/one/xy")
    taken = ("sub/a.log", "keep.log", "build/out", "build/out/file", "docs/one/two/xy", "docs/one/x")
    assert [path for path in ignored if not here.ignores(path)] == []
    assert [path for path in taken if here.ignores(path)] == []


def test_a_project_has_a_dockerfile_by_either_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM a\n")
    (tmp_path / ".dockerignore").write_text("b\n")
    (tmp_path / ".containerignore").write_text("a\n")
    found = settle(str(tmp_path), {})
    assert (found.kind, found.reference) == ("dockerfile", str(tmp_path / "Containerfile"))
    assert context.open_context(str(tmp_path), found.reference).ignores("a")
    (tmp_path / "Dockerfile").write_text("FROM a\n")
    assert settle(str(tmp_path), {}).reference == str(tmp_path / "Dockerfile")


def test_a_digest_of_a_context_sees_names_modes_contents_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "c"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_text("x")
    (root / "d" / "skip.log").write_text("1")
    here = context.Context(str(root), context.read_rules("**/*.log\n"))

    def digest() -> str:
        return context.digest(here, "d", lambda path: Path(path).read_text())

    first = digest()
    (root / "d" / "skip.log").write_text("2")
    os.utime(root / "d" / "f", (1, 1))
    assert digest() == first
    (root / "d" / "f").chmod(0o700)
    assert digest() != first


def test_a_dockerfile_is_known_by_its_first_line() -> None:
    assert is_dockerfile(b"# c\n\nFROM a\n") and is_dockerfile(b"arg x=1\nfrom a")
    assert not is_dockerfile(b"Bootstrap: docker\nFrom: a\n") and not is_dockerfile(
        b"From: a\nBootstrap: docker\n"
    )


@pytest.mark.parametrize("path", CORPUS, ids=[path.name for path in CORPUS])
def test_hostile_dockerfiles_are_refused_in_words(path: Path) -> None:
    data = path.read_bytes()
    told = data.splitlines()[0].removeprefix(b"# expect: ").decode()
    with pytest.raises(BuildError) as failure:
        found = stages.read(parser.parse(data, path.name), {}, {}, None)
        for part in found.stages:
            config = Config()
            for item in part.instructions:
                for key, value in item.flags:
                    if key == "mount":
                        mounts.read(value, path.name, item.line)
                if item.word not in ("RUN", "COPY", "ADD"):
                    configuration.apply(config, item, found.file, {}, {})
    assert told in str(failure.value)
