"""The grammar of definition files: what is understood, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soliton.build import script, templates
from soliton.build.definition import SECTIONS, Definition, Section, parse
from soliton.build.lines import MAX_SIZE, DefinitionError
from soliton.build.transfers import Transfer
from soliton.errors import BuildError, UsageError

CORPUS = Path(__file__).parents[1] / "corpus" / "definition"


def read(text: str, **arguments: str) -> Definition:
    return parse(text.encode("utf-8", "surrogateescape"), "test.def", arguments)


def body(definition: Definition, name: str) -> str:
    found = definition.stages[-1].section(name)
    assert found is not None
    return found.body


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.def")), ids=lambda p: p.stem)
def test_a_bad_definition_gets_its_error(file: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(file.read_bytes(), file.name)
    assert f"{caught.value}\n" == file.with_suffix(".error").read_text()


def test_a_header_alone_is_a_definition() -> None:
    definition = read("bootStrap: Docker\nFROM: alpine:3.19 # pinned\n")
    (stage,) = definition.stages
    assert stage.header.agent == "docker"
    assert stage.header.keywords == {"bootstrap": "Docker", "from": "alpine:3.19"}


def test_a_header_value_goes_on_behind_a_backslash() -> None:
    definition = read(
        "Bootstrap: debootstrap\nOSVersion: x\nInclude: a \\\n  b \\\n\tc\nMirrorURL: http://m/debian/\n"
    )
    header = definition.stages[0].header
    assert header.get("include") == "a b c"
    assert header.get("mirrorurl") == "http://m/debian/"


def test_a_comment_ends_a_continued_value() -> None:
    definition = read("Bootstrap: debootstrap\nOSVersion: x\nInclude: a \\\n# comment\nMirrorURL: m\n")
    assert definition.stages[0].header.get("include").strip() == "a"


def test_numbered_urls_are_keywords() -> None:
    assert read("Bootstrap: zypper\nOtherURL12: u\n").stages[0].header.get("otherurl12") == "u"


def test_keywords_may_stand_before_bootstrap() -> None:
    assert read("# a comment\nFrom: alpine\nBootstrap: docker\n").stages[0].header.get("from") == "alpine"


def test_a_section_keeps_its_lines_as_they_are() -> None:
    definition = read("Bootstrap: scratch\n%post\n\n    echo 'a  b' # c\n\tif true; then\n")
    assert body(definition, "post") == "\n    echo 'a  b' # c\n\tif true; then\n"


def test_a_section_of_one_name_is_continued_by_the_next() -> None:
    definition = read("Bootstrap: scratch\n%post\n one\n%help\n h\n%POST -c /bin/bash\n two\n")
    section = definition.stages[0].section("post")
    assert section == Section("post", "-c /bin/bash", " one\n two\n", 2)


def test_the_arguments_of_a_section_end_at_a_comment() -> None:
    section = read("Bootstrap: scratch\n  %runscript  -e  # strict\n x\n").stages[0].section("runscript")
    assert section is not None and section.arguments == "-e"


def test_line_ends_and_byte_order_marks_make_no_difference() -> None:
    text = "Bootstrap: scratch\n%post\n  one\n  two\n"
    assert parse(text.encode(), "x") == parse(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "x")
    assert parse(text.encode(), "x") == parse(text.replace("\n", "\r").encode(), "x")


def test_bytes_that_are_not_utf8_survive() -> None:
    definition = parse(b"Bootstrap: scratch\n%post\n  echo \xff\xfe\n", "x")
    assert body(definition, "post").encode("utf-8", "surrogateescape") == b"  echo \xff\xfe\n"


def test_a_last_line_without_end_counts() -> None:
    assert body(read("Bootstrap: scratch\n%post\n  true"), "post") == "  true\n"


def test_stages_and_what_they_take_from_each_other() -> None:
    definition = read(
        "Bootstrap: docker\nFrom: golang\nStage: build\n%post\n go\nbootstrap: scratch\nStage: final\n"
        "%files from build\n  /go/bin/x /x\n%files\n  y\n"
    )
    assert [stage.name for stage in definition.stages] == ["build", "final"]
    first, second = definition.stages[1].files
    assert (first.stage, first.transfers) == ("build", (Transfer("/go/bin/x", "/x", 9),))
    assert (second.stage, second.transfers) == (None, (Transfer("y", None, 11),))


def test_names_of_files_may_be_quoted_or_escaped() -> None:
    definition = read(
        'Bootstrap: scratch\n%files\n  # comment\n  "a b" \'/c d/\'\n  e\\ f /g # why\n  h*.txt\n\n  it"\'"s x\n'
    )
    (files,) = definition.stages[0].files
    assert [(t.source, t.target) for t in files.transfers] == [
        ("a b", "/c d/"),
        ("e f", "/g"),
        ("h*.txt", None),
        ("it's", "x"),
    ]


def test_apps_are_known_in_their_order() -> None:
    definition = read(
        "Bootstrap: scratch\n%apprun foo\n echo foo\n%appinstall bar\n touch x\n%appfiles foo\n a b\n%appenv foo\n A=1\n"
    )
    stage = definition.stages[0]
    assert stage.apps == ("foo", "bar")
    assert stage.body("apprun", "foo") == " echo foo\n"
    assert stage.body("apprun", "bar") is None
    assert stage.files[0].app == "foo"


def test_templates_take_the_command_line_before_the_definition() -> None:
    text = "Bootstrap: docker\nFrom: {{OS}}:{{ TAG }}\n%arguments\n  # a comment\n  OS = alpine\n  TAG=3.19\n"
    assert read(text).stages[0].header.get("from") == "alpine:3.19"
    assert read(text, TAG="edge").stages[0].header.get("from") == "alpine:edge"
    assert read(text).used == {"OS", "TAG"}


def test_a_value_may_hold_templates_one_level_deep() -> None:
    definition = read(
        "Bootstrap: scratch\n%arguments\n  A={{ B }}-x\n  B=y\n%help\n {{ A }} {{ C }}\n", C="{{ A }}"
    )
    assert body(definition, "help") == " y-x {{ B }}-x\n"


def test_templates_in_comments_stay() -> None:
    definition = read(
        "Bootstrap: scratch\n# {{ nothing }}\n%post\n#! {{ A }}\n echo {{ A }} # {{ B }}\n", A="1"
    )
    assert body(definition, "post") == "#! 1\n echo 1 # {{ B }}\n"


def test_arguments_of_a_stage_end_with_it() -> None:
    definition = read(
        "Bootstrap: scratch\n%arguments\nA=1\n%help\n{{A}}\nBootstrap: scratch\n%arguments\nA=2\n%help\n{{A}}\n"
    )
    assert [stage.body("help") for stage in definition.stages] == ["1\n", "2\n"]


def test_braces_that_are_no_template_stay() -> None:
    text = "Bootstrap: scratch\n%help\n {{ a.b }} {{}} {% x %} ${{ y-z }}\n"
    assert body(read(text), "help") == " {{ a.b }} {{}} {% x %} ${{ y-z }}\n"


def test_lines_keep_their_numbers_behind_a_value_of_many_lines() -> None:
    with pytest.raises(DefinitionError) as caught:
        read("Bootstrap: scratch\n%help\n {{ A }}\n%hlep\n", A="one\ntwo\nthree")
    assert caught.value.line == 4


def test_what_is_recorded_is_what_was_built() -> None:
    definition = read("Bootstrap: docker\nFrom: {{ A }}\n", A="alpine")
    assert definition.text == "Bootstrap: docker\nFrom: alpine\n"


def test_an_odd_line_in_arguments_is_a_warning() -> None:
    (warning,) = read("Bootstrap: scratch\n%arguments\n  A: 1\n").warnings
    assert "`A: 1`" in warning


def test_an_unused_build_argument_is_an_error() -> None:
    with pytest.raises(BuildError, match="unused build argument: `VERSOIN`"):
        templates.check_used({"VERSOIN": "1"}, {"VERSION"})
    templates.check_used({"VERSION": "1"}, {"VERSION"})


def test_build_arguments_are_assignments() -> None:
    assert templates.read_build_args(["A=1", "B=x=y", "A= 2 "]) == {"A": "2", "B": "x=y"}
    with pytest.raises(UsageError):
        templates.read_build_args(["A"])


def test_a_file_too_large_is_refused() -> None:
    with pytest.raises(DefinitionError, match="larger than"):
        parse(b"#" * (MAX_SIZE + 1), "big.def")


def test_values_cannot_blow_a_definition_up() -> None:
    with pytest.raises(DefinitionError, match="too large"):
        read("Bootstrap: scratch\n%help\n" + "{{ A }}" * 30, A="x" * (1 << 20))


def test_scripts_run_by_sh_stop_at_errors_and_show_commands() -> None:
    for body, hint in (
        ("\n  #!/bin/bash\n  x", "`%post -c /bin/bash -e`"),
        ("#!/usr/bin/env python3\nx", "`%post -c python3`"),
        ("#!/bin/sh\nx", ""),
        ("#!\nx", ""),
        ("echo '#!/bin/bash'", ""),
    ):
        said = script.unheeded(Section("post", "", body, 1))
        assert hint in said and bool(said) is bool(hint)
        assert not script.unheeded(Section("post", "-c /bin/bash", body, 1))
    assert script.command(Section("post", "", "", 1), "/s") == ("/bin/sh", "-ex", "/s")
    assert script.command(Section("post", "-u", "", 1), "/s") == ("/bin/sh", "-ex", "-u", "/s")
    assert script.command(Section("post", "-c /bin/bash -x", "", 1), "/s") == (
        "/bin/sh",
        "-ex",
        "-c",
        "/bin/bash -x /s",
    )


@given(st.binary(max_size=400))
@example(b"Bootstrap: scratch\n%files\n\\")
def test_any_bytes_are_a_definition_or_an_error(data: bytes) -> None:
    try:
        parse(data, "x")
    except DefinitionError as error:
        assert error.line is None or error.line >= 1


_word = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=20)
_body = st.lists(
    _word.filter(lambda w: not w.lstrip().startswith("%") and not w.lower().startswith("bootstrap:"))
)


@given(
    st.lists(
        st.tuples(st.sampled_from([s for s in SECTIONS if s not in ("files", "arguments")]), _body),
        max_size=6,
    )
)
def test_every_line_of_a_body_comes_back(sections: list[tuple[str, list[str]]]) -> None:
    text = "Bootstrap: scratch\n" + "".join(
        f"%{name}\n" + "".join(line + "\n" for line in lines) for name, lines in sections
    )
    if "{{" in text:
        return
    expected: dict[str, str] = {}
    for name, lines in sections:
        expected[name] = expected.get(name, "") + "".join(line + "\n" for line in lines)
    definition = read(text)
    assert {s.name: s.body for s in definition.stages[0].sections} == expected
    assert definition.text == text


@given(
    st.lists(st.tuples(st.text("ab \"'\\#", min_size=1, max_size=8), st.booleans()), min_size=1, max_size=2)
)
def test_any_name_can_be_written(names: list[tuple[str, bool]]) -> None:
    def written(name: str, double: bool) -> str:
        quote, other = ('"', "'") if double else ("'", '"')
        return "".join(f"{other}{c}{other}" if c == quote else f"{quote}{c}{quote}" for c in name)

    line = " ".join(written(*name) for name in names)
    (files,) = read(f"Bootstrap: scratch\n%files\n  {line}\n").stages[0].files
    (transfer,) = files.transfers
    assert transfer.source == names[0][0]
    assert transfer.target == (names[1][0] if len(names) == 2 else None)
