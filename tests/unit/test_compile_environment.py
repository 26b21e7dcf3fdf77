"""What the payload finds in its environment, by flag and variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from soliton.launch.environment import parse_env_file, script_of_env_file
from tests.unit.compiled import plan_for

PROXIES = [
    name
    for lower in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")
    for name in (lower, lower.upper())
]
#: A base for images without any environment script.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def passed(line: str | list[str] = "exec IMAGE x", **variables: str) -> dict[str, str]:
    """What the host's environment contributes, but for the PATH; by the contract, so under a peer's name."""
    host = dict(plan_for(line, variables, program="apptainer").process.environment.host)
    assert host.pop("PATH") == STANDARD_PATH
    return host


def injected(line: str | list[str] = "exec IMAGE x", **variables: str) -> dict[str, str]:
    return dict(plan_for(line, variables).process.environment.injected)


def fixed(line: str = "exec IMAGE x", **variables: str) -> dict[str, str]:
    return dict(plan_for(line, variables).process.environment.fixed)


@pytest.mark.parametrize(
    "name", ["LANG", "SLURM_JOB_ID", "USER", "SHELL", "PYTHONPATH", "lower", "SOLITONIC", "SINGULARITY"]
)
def test_variables_of_the_host_pass_through(name: str) -> None:
    assert passed(**{name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "name",
    [
        "HOME",
        "PATH",
        "LD_LIBRARY_PATH",
        "PS1",
        "PROMPT_COMMAND",
        "APPTAINER_CACHEDIR",
        "SINGULARITY_NAME",
        "SOLITON_TMPDIR",
        "_SOLITON_CORE",
        "APPTAINERENV_X",
        "SINGULARITYENV_X",
        "SOLITONENV_X",
    ],
)
def test_variables_that_belong_to_the_host_or_to_soliton_do_not_pass(name: str) -> None:
    assert passed(**{name: "value"}) == {}


@pytest.mark.parametrize("flag", ["-e", "--cleanenv", "-C", "--containall", "--compat"])
def test_a_clean_environment_keeps_the_terminal_and_the_proxies(flag: str) -> None:
    kept = {"TERM": "xterm", **dict.fromkeys(PROXIES, "http://proxy")}
    assert passed(f"exec {flag} IMAGE x", LANG="de_DE", USER="ada", FOO="1", **kept) == {**kept, "LANG": "C"}


def test_a_clean_environment_is_asked_for_by_a_variable_too() -> None:
    assert passed(APPTAINER_CLEANENV="1", FOO="1") == {"LANG": "C"}
    assert passed("exec --cleanenv=false IMAGE x", APPTAINER_CLEANENV="1", FOO="1") == {"FOO": "1"}


def test_contain_alone_leaves_the_environment_as_it_is() -> None:
    assert passed("exec --contain IMAGE x", FOO="1") == {"FOO": "1"}


def test_no_env_keeps_variables_out() -> None:
    assert passed("exec --no-env A,B IMAGE x", A="1", B="2", C="3") == {"C": "3"}
    assert passed(SINGULARITY_NOENV="A,B", A="1", B="2", C="3") == {"C": "3"}


@pytest.mark.parametrize(
    ("variables", "value"),
    [
        ({"SINGULARITYENV_X": "s"}, "s"),
        ({"SINGULARITYENV_X": "s", "APPTAINERENV_X": "a"}, "a"),
        ({"SINGULARITYENV_X": "s", "APPTAINERENV_X": "a", "SOLITONENV_X": "o"}, "o"),
        ({"APPTAINERENV_X": ""}, ""),
        ({"APPTAINERENV_X": "a b=c,d$e"}, "a b=c,d$e"),
    ],
)
@pytest.mark.parametrize("flag", ["", "--cleanenv"])
def test_prefixed_variables_are_set_inside_the_strongest_prefix_first(
    variables: dict[str, str], value: str, flag: str
) -> None:
    assert injected(f"exec {flag} IMAGE x", **variables) == {"X": value}


def test_a_prefix_without_a_name_sets_nothing() -> None:
    assert injected(APPTAINERENV_="x") == {}


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--env", "A=1"], {"A": "1"}),
        (["--env", "A=1,B=2"], {"A": "1", "B": "2"}),
        (["--env", "A=1,2,3"], {"A": "1,2,3"}),
        (["--env", "A=1", "--env", "A=2"], {"A": "2"}),
        (["--env", "A="], {"A": ""}),
        (["--env", "A=b=c"], {"A": "b=c"}),
    ],
)
def test_env_in_all_its_forms(words: list[str], variables: dict[str, str]) -> None:
    assert injected(["exec", *words, "IMAGE", "x"]) == variables


def test_env_beats_files_and_files_beat_prefixed_variables(tmp_path: Path) -> None:
    for name, text in {"one": "A=one\nB=one\nC=one\n", "two": "B=two\nC=two\n"}.items():
        (tmp_path / name).write_text(text)
    line = ["exec", "--env-file", f"{tmp_path}/one,{tmp_path}/two", "--env", "C=line", "IMAGE", "x"]
    variables = {"APPTAINERENV_A": "v", "APPTAINERENV_D": "v"}
    # The files are carried out as scripts, in their order, before what is set by name.
    made = plan_for(line, variables).process.environment
    assert made.files == ("export A=one\nexport B=one\nexport C=one\n", "export B=two\nexport C=two\n")
    assert made.injected == {"C": "line", "D": "v"}
    assert plan_for("exec IMAGE x", {"SINGULARITY_ENV_FILE": f"{tmp_path}/two"}).process.environment.files
    literally = plan_for([line[0], "--no-eval", *line[1:]], variables).process.environment
    assert (literally.files, literally.injected) == ((), {"A": "one", "B": "two", "C": "line", "D": "v"})


def test_a_file_of_assignments_becomes_a_script(tmp_path: Path) -> None:
    text = '# why\n A=1\nexport B="$A x"\nHOME=/x\nPREPEND_PATH=/p\nif true; then C=3; fi\n1X=2\n'
    assert script_of_env_file(text) == ('# why\nexport A=1\nexport B="$A x"\nif true; then C=3; fi\n1X=2\n')
    (tmp_path / "file").write_text(text)
    made = plan_for(["exec", "--env-file", str(tmp_path / "file"), "IMAGE", "x"]).process.environment
    assert made.prepend_path == "/p"


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("A=1\n\n# B=2\n  C=3  \n", {"A": "1", "C": "3"}),
        ("export A=1\nexport  B=2\n", {"A": "1", "B": "2"}),
        ("A='one two'\nB=\"x\"\nC='\n", {"A": "one two", "B": "x", "C": "'"}),
        ("A=b=c\nB=\n", {"A": "b=c", "B": ""}),
        ("no assignment\nA B=1\n-x=1\n=1\n", {}),
        ("A=1\nA=2", {"A": "2"}),
    ],
)
def test_a_file_of_variables_is_lines_of_assignments(text: str, variables: dict[str, str]) -> None:
    assert parse_env_file(text) == variables


def test_search_paths_are_handled_apart_and_home_is_not_set_so() -> None:
    environment = plan_for(
        [
            "exec",
            "--env",
            "PATH=/p",
            "--env",
            "PREPEND_PATH=/first",
            "--env",
            "HOME=/elsewhere",
            "IMAGE",
            "x",
        ],
        {"APPTAINERENV_APPEND_PATH": "/last", "SINGULARITYENV_LD_LIBRARY_PATH": "/lib"},
    ).process.environment
    assert (environment.path, environment.prepend_path, environment.append_path) == ("/p", "/first", "/last")
    assert environment.injected == {"LD_LIBRARY_PATH": "/lib"}
    assert environment.fixed["HOME"] == "/home/ada"


def test_what_soliton_says_of_a_container_is_not_set_so_and_functions_of_a_shell_stay_out() -> None:
    environment = plan_for(
        ["exec", "--env", "APPTAINER_SHELL=/x", "IMAGE", "x"],
        {"APPTAINERENV_APPTAINER_APPNAME": "a", "SINGULARITYENV_A": "1", "BASH_FUNC_module%%": "() { :; }"},
    ).process.environment
    assert environment.injected == {"A": "1"}
    assert not any(name.startswith("BASH_FUNC") for name in environment.host)


def test_what_the_container_is_told_of_itself() -> None:
    line = "exec --app calc --no-eval -B /b:/x,/a IMAGE x"
    twins = {
        "CONTAINER": "/images/a.sif",
        "NAME": "a.sif",
        "BIND": "/a,/x",
        "ENVIRONMENT": "/.singularity.d/env/91-environment.sh",
        "APPNAME": "calc",
        "NO_EVAL": "1",
        "COMMAND": "exec",
    }
    assert fixed(line, PATH="/host/bin", HOME="/wrong") == {
        "HOME": "/home/ada",
        "USER_PATH": "/host/bin",
        **{prefix + key: value for prefix in ("APPTAINER_", "SINGULARITY_") for key, value in twins.items()},
    }


def test_an_app_and_no_eval_are_not_told_where_there_are_none() -> None:
    assert {name for name in fixed() if name.endswith(("APPNAME", "NO_EVAL")) or name == "USER_PATH"} == set()


@pytest.mark.parametrize("action", ["exec", "run", "test", "shell"])
def test_the_command_is_told(action: str) -> None:
    assert fixed(f"{action} IMAGE {'x' if action == 'exec' else ''}")["APPTAINER_COMMAND"] == action


@pytest.mark.parametrize(
    ("program", "prompt"),
    [("soliton", "soliton> "), ("apptainer", "Apptainer> "), ("singularity", "Singularity> ")],
)
def test_a_shell_shows_where_it_is(program: str, prompt: str) -> None:
    environment = plan_for("shell IMAGE", {"PS1": "host$ "}, program=program).process.environment
    assert environment.fixed["PS1"] == prompt
    assert environment.fixed["PROMPT_COMMAND"] == ""
    assert "PS1" not in plan_for("exec IMAGE x", program=program).process.environment.fixed


def test_a_prompt_can_be_chosen() -> None:
    environment = plan_for("shell IMAGE", {"APPTAINERENV_PS1": "mine> "}).process.environment
    assert environment.fixed["PS1"] == "mine> "
    assert "PS1" not in environment.injected


@pytest.mark.parametrize(("line", "evaluated"), [("", True), ("--no-eval", False), ("--compat", False)])
def test_injected_values_are_evaluated_unless_told_otherwise(line: str, evaluated: bool) -> None:
    assert plan_for(f"exec {line} IMAGE x").process.environment.evaluate is evaluated
