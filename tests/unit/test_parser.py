"""The grammar of command lines: what the words and the variables mean, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soliton.cli.invocation import Invocation
from soliton.cli.parser import CommandLineError, parse
from soliton.errors import NotSupported, SolitonError
from soliton.messages import INFO, VERBOSE, WARNING


def read(*words: str, program: str = "soliton", **environment: str) -> Invocation:
    return parse(program, words, environment)


def refused(*words: str) -> str:
    with pytest.raises(CommandLineError) as caught:
        read(*words)
    assert caught.value.status == 1
    return str(caught.value)


def test_options_end_at_the_image() -> None:
    invocation = read("exec", "--contain", "image.sif", "ls", "--color", "-B", "x")
    assert invocation.positionals == ("image.sif", "ls", "--color", "-B", "x")
    assert invocation.flag("contain")
    assert invocation.words("bind") == ()


def test_two_dashes_belong_to_the_payload_behind_the_image() -> None:
    assert read("exec", "image.sif", "--", "cmd").positionals == ("image.sif", "--", "cmd")


def test_two_dashes_before_the_image_end_the_options() -> None:
    assert read("exec", "--", "image.sif", "cmd").positionals == ("image.sif", "cmd")
    assert read("exec", "-e", "--", "-odd.sif", "cmd").positionals == ("-odd.sif", "cmd")


def test_a_single_dash_is_no_option() -> None:
    assert read("run", "-", "x").positionals == ("-", "x")


def test_short_options_combine() -> None:
    invocation = read("exec", "-ceB/data", "i", "c")
    assert invocation.flag("contain") and invocation.flag("cleanenv")
    assert invocation.words("bind") == ("/data",)


@pytest.mark.parametrize(
    "words",
    [("-B", "/x:/y"), ("-B/x:/y",), ("-B=/x:/y",), ("--bind", "/x:/y"), ("--bind=/x:/y",), ("-cB", "/x:/y")],
)
def test_values_stand_behind_or_within_their_option(words: tuple[str, ...]) -> None:
    assert read("exec", *words, "i", "c").words("bind") == ("/x:/y",)


def test_a_value_may_look_like_an_option() -> None:
    assert read("exec", "--bind", "--contain", "i", "c").words("bind") == ("--contain",)
    assert read("exec", "--home", "", "i", "c").text("home") == ""


@pytest.mark.parametrize("word", ["--contain=false", "-c=false", "--contain=F", "-c=0"])
def test_a_flag_can_be_switched_off(word: str) -> None:
    invocation = read("exec", "--contain", word, "i", "c")
    assert not invocation.flag("contain")
    assert "contain" in invocation.given


def test_a_flag_takes_no_separate_value() -> None:
    assert read("exec", "--contain", "false", "c").positionals == ("false", "c")


def test_nothing_may_be_abbreviated() -> None:
    assert "unknown flag: --conta" in refused("exec", "--conta", "i", "c")


def test_whole_lists_keep_commas_and_lists_split() -> None:
    invocation = read("exec", "--bind", "/a,/b", "--bind", "/c", "--scratch", "/s,/t", "-S", "/u", "i", "c")
    assert invocation.words("bind") == ("/a,/b", "/c")
    assert invocation.words("scratch") == ("/s", "/t", "/u")
    assert invocation.origins["scratch"] == ("--scratch", "--scratch", "-S")


def test_env_is_a_map() -> None:
    invocation = read("exec", "--env", "A=1,B=2", "--env", "C=x,y", "--env", "A=3", "i", "c")
    assert invocation.pairs("env") == {"A": "3", "B": "2", "C": "x,y"}


def test_the_last_value_of_a_single_one_counts() -> None:
    assert read("exec", "--cwd", "/a", "--cwd=/b", "i", "c").text("cwd") == "/b"


def test_defaults_when_nothing_is_given() -> None:
    invocation = read("exec", "i", "c")
    assert invocation.given == frozenset()
    assert invocation.flag("contain") is False
    assert invocation.text("home") is None
    assert invocation.integer("cpu-shares") == -1
    assert read("build", "t", "s").words("section") == ("all",)
    assert read("build", "--section", "post", "t", "s").words("section") == ("post",)


def test_old_spellings_mean_the_new_ones() -> None:
    assert read("exec", "--pwd", "/x", "i", "c").text("cwd") == "/x"
    old = read("pull", "--nohttps", "docker://a")
    assert old.flag("no-https")
    assert "nohttps" not in old.options
    assert old.notices == ((WARNING, "`--nohttps` is deprecated, use --no-https"),)


def test_global_options_stand_before_the_command() -> None:
    invocation = read("-dq", "--verbose=false", "exec", "-e", "i", "c")
    assert invocation.global_options["debug"] is True
    assert invocation.global_options["quiet"] is True
    assert invocation.global_options["verbose"] is False
    assert "Write `--debug` before the command" in refused("exec", "--debug", "i", "c")
    assert "Write `-d` before the command" in refused("exec", "-d", "i", "c")


def test_aliases_of_commands_give_the_full_name() -> None:
    assert read("siftool", "list", "x.sif").command == ("sif", "list")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("--help",), ()),
        (("-h", "exec"), ()),
        (("exec", "-h"), ("exec",)),
        (("exec", "--contain", "--help", "--nonsense"), ("exec",)),
        (("-q", "sif", "list", "-h"), ("sif", "list")),
        (("sif", "--help"), ("sif",)),
    ],
)
def test_help_is_a_command_too(words: tuple[str, ...], path: tuple[str, ...]) -> None:
    invocation = read(*words)
    assert invocation.command == ("help",)
    assert invocation.positionals == path


def test_help_behind_the_image_belongs_to_the_payload() -> None:
    assert read("exec", "i", "ls", "--help").command == ("exec",)


def test_the_version_line() -> None:
    assert read("--version").command == ("--version",)
    assert read("--version", "nonsense").command == ("--version",)
    assert read("version").command == ("version",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a command is missing"),
        (("exce",), 'unknown command "exce" for "soliton"\nDid you mean `exec`?'),
        (("sif",), "a command of this group is missing"),
        (("sif", "lst", "x"), 'unknown command "lst" for "soliton sif"\nDid you mean `list`?'),
        (("exec", "--bnid", "x"), "unknown flag: --bnid\nDid you mean `--bind`?"),
        (("exec", "-cX", "i"), "unknown shorthand flag: 'X' in -cX"),
        (("exec", "--bind"), "flag needs an argument: --bind"),
        (("exec", "-cB"), "flag needs an argument: 'B' in -cB"),
        (("exec", "---x"), "bad flag syntax: ---x"),
        (("exec", "--=x"), "bad flag syntax: --=x"),
        (
            ("exec", "--contain=maybe", "i", "c"),
            'invalid argument "maybe" for "-c, --contain" flag: expected true or false',
        ),
        (
            ("exec", "--env", "A", "i", "c"),
            'invalid argument "A" for "--env" flag: expected NAME=VALUE, found `A`',
        ),
        (("exec", "i"), "requires at least 2 arguments (IMAGE COMMAND [ARGUMENT…]), received 1"),
        (("inspect",), "requires at least 1 argument (IMAGE), received 0"),
        (("inspect", "a", "b"), "takes at most 1 argument (IMAGE), received 2"),
        (("version", "x"), "takes no arguments, received `x`"),
    ],
)
def test_what_makes_no_sense_is_said(words: tuple[str, ...], message: str) -> None:
    assert refused(*words) == message


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ({"SOLITON_HOME": "a", "APPTAINER_HOME": "a", "SINGULARITY_HOME": "a"}, "a"),
        ({"APPTAINER_HOME": "b", "SINGULARITY_HOME": "b"}, "b"),
        ({"SINGULARITY_HOME": "c"}, "c"),
        ({"APPTAINER_HOME": "", "SINGULARITY_HOME": "c"}, "c"),
        ({"HOME": "bare"}, None),
        ({"APPTAINER_HOME": "  "}, None),
    ],
)
def test_variables_act_as_options(environment: dict[str, str], value: str | None) -> None:
    assert read("exec", "i", "c", **environment).text("home") == value


def test_the_command_line_beats_a_variable() -> None:
    invocation = read("exec", "--home", "/cli", "i", "c", APPTAINER_HOME="/env")
    assert invocation.text("home") == "/cli"
    assert invocation.origins["home"] == ("--home",)
    assert not read("exec", "--contain=false", "i", "c", APPTAINER_CONTAIN="1").flag("contain")


def test_a_variable_is_a_given_option() -> None:
    invocation = read("exec", "i", "c", APPTAINER_CONTAIN="true")
    assert invocation.flag("contain")
    assert invocation.origins == {"contain": ("APPTAINER_CONTAIN",)}


def test_binds_of_a_variable_are_added() -> None:
    invocation = read("exec", "-B", "/cli", "i", "c", APPTAINER_BIND=" /a , /b:/c ")
    assert invocation.words("bind") == ("/cli", "/a,/b:/c")
    assert invocation.origins["bind"] == ("-B", "APPTAINER_BIND")


def test_mounts_of_a_variable_stand_on_lines() -> None:
    invocation = read(
        "exec", "i", "c", APPTAINER_MOUNT=" type=bind,src=/a b,dst=/c \n type=bind,src=/d,dst=/e\n"
    )
    assert invocation.words("mount") == ("type=bind,src=/a b,dst=/c\ntype=bind,src=/d,dst=/e",)


def test_other_lists_of_a_variable_are_replaced_by_the_command_line() -> None:
    assert read("exec", "-S", "/x", "i", "c", APPTAINER_SCRATCH="/a, /b").words("scratch") == ("/x",)
    assert read("exec", "i", "c", APPTAINER_SCRATCH="/a, /b").words("scratch") == ("/a", "/b")


def test_the_first_of_several_keys_counts() -> None:
    invocation = read("exec", "i", "c", SINGULARITY_BIND="/one", APPTAINER_BINDPATH="/two")
    assert invocation.words("bind") == ("/one",)


def test_the_odd_keys() -> None:
    invocation = read(
        "exec", "i", "c", APPTAINER_NOSHIMINIT="1", APPTAINER_NOENV="A,B", APPTAINER_TARGET_PWD="/x"
    )
    assert invocation.flag("no-init")
    assert invocation.words("no-env") == ("A", "B")
    assert invocation.text("cwd") == "/x"


def test_bare_names_count_where_the_contract_says_so() -> None:
    invocation = read(
        "pull", "docker://a", DOCKER_USERNAME="me", DOCKER_PASSWORD="it", APPTAINER_DOCKER_PASSWORD="that"
    )
    assert invocation.text("docker-username") == "me"
    assert invocation.text("docker-password") == "that"


def test_variables_that_differ_are_warned_of() -> None:
    invocation = read("exec", "i", "c", APPTAINER_HOME="/a", SINGULARITY_HOME="/b")
    assert invocation.text("home") == "/a"
    assert invocation.notices == (
        (WARNING, "APPTAINER_HOME and SINGULARITY_HOME differ, APPTAINER_HOME is used"),
    )


@pytest.mark.parametrize(
    ("program", "level"), [("soliton", VERBOSE), ("apptainer", INFO), ("singularity", INFO)]
)
def test_a_variable_of_the_old_name_is_mentioned(program: str, level: int) -> None:
    invocation = read("exec", "i", "c", program=program, SINGULARITY_HOME="/b")
    assert invocation.notices == (
        (level, "SINGULARITY_HOME is set and used; APPTAINER_HOME is the name in use now"),
    )


def test_a_bad_variable_is_fatal() -> None:
    with pytest.raises(SolitonError) as caught:
        read("exec", "i", "c", APPTAINER_CONTAIN="maybe")
    assert caught.value.status == 255
    assert str(caught.value) == (
        "the variable `APPTAINER_CONTAIN` has the value `maybe`\n"
        "it stands for --contain: expected true or false\n"
        "correct it or unset APPTAINER_CONTAIN"
    )


def test_variables_of_other_commands_do_not_matter() -> None:
    assert read("version", APPTAINER_CONTAIN="maybe").command == ("version",)


INSTEAD = "programs that save their own state can be started again without it"


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (
            ("instance", "start", "--dmtcp-launch", "x", "i", "n"),
            {},
            f"`--dmtcp-launch` is not supported\n{INSTEAD}",
        ),
        (
            ("instance", "start", "i", "n"),
            {"APPTAINER_DMTCP_RESTART": "x"},
            f"`--dmtcp-restart` (from `APPTAINER_DMTCP_RESTART`) is not supported\n{INSTEAD}",
        ),
        (("oci", "run", "x"), {}, "`soliton oci run` is not supported yet"),
        (
            ("build", "-r", "a", "b"),
            {},
            "`--remote` is not supported\nbuild here: no privilege is needed",
        ),
    ],
)
def test_what_is_not_built_is_refused(
    words: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(NotSupported) as caught:
        parse("soliton", words, environment)
    assert caught.value.status == 255
    assert str(caught.value) == message


def test_switching_off_what_is_not_built_is_fine() -> None:
    assert not read("exec", "--oci=false", "i", "c").flag("oci")


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "-",
                "--",
                "-c",
                "-ce",
                "-B",
                "--bind",
                "--bind=x",
                "--contain=false",
                "--env=A=1",
                "image",
                "-h",
            ]
        ),
        st.text(max_size=8).filter(lambda word: "\0" not in word),
    ),
    max_size=8,
)


@given(WORDS)
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    try:
        invocation = parse("soliton", ["exec", *words], {})
    except (CommandLineError, NotSupported):
        return
    if invocation.command == ("exec",):
        count = len(invocation.positionals)
        assert invocation.positionals == tuple(words[len(words) - count :])
