"""Forms in which public Dockerfiles of scientific projects are written: what each is understood as."""

from __future__ import annotations

import json

import pytest

from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import mounts, needs, parser, stages
from soliton.build.dockerfile.config import Config
from soliton.build.lines import DefinitionError

PLATFORM = stages.platform_arguments(("amd64", ""), "amd64")


def read(text: str, **given: str) -> tuple[stages.Recipe, list[parser.Instruction], Config]:
    """The recipe, the steps of its last stage, and what that says of the image."""
    recipe = stages.read(parser.parse(text.encode(), "Dockerfile"), given, PLATFORM, None)
    config, steps = Config({"Env": ["MAMBA_USER=mambauser"]}), []
    for item in recipe.stages[-1].instructions:
        if item.word in ("RUN", "COPY", "ADD"):
            steps.append(item)
        else:
            configuration.apply(config, item, recipe.file, given, recipe.known)
    return recipe, steps, config


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from a\nentrypoint \"bin/bash\"", {"Entrypoint": ["/bin/sh", "-c", '"bin/bash"']}),
        ('FROM a\nLABEL maintainer "Jo <jo@x>"', {"Labels": {"maintainer": "Jo <jo@x>"}}),
        ("FROM a\nLABEL version 1.0 beta", {"Labels": {"version": "1.0 beta"}}),
        ('FROM a\nLABEL "a.b"="c" \\\n  d=\'e f\'', {"Labels": {"a.b": "c", "d": "e f"}}),
        ('FROM a\nLABEL d="one \\\n two"', {"Labels": {"d": "one  two"}}),
        ("FROM a\nENV\tLC_ALL\tC.UTF-8", {"Env": ["LC_ALL=C.UTF-8"]}),
        ("FROM a\nENV DEBIAN_FRONTEND noninteractive", {"Env": ["DEBIAN_FRONTEND=noninteractive"]}),
        ("FROM a\nENV A=1 \\\n    B=$A\\ x \\\n    # why\n    C=", {"Env": ["A=1", "B= x", "C="]}),
        ("FROM a\nENV PATH=/opt/bin:$PATH", {"Env": [f"PATH=/opt/bin:{configuration.DEFAULT_PATH}"]}),
        ('FROM a\nENV PATH="/opt/${MAMBA_USER}/bin:${PATH}"', {"Env": [f"PATH=/opt/mambauser/bin:{configuration.DEFAULT_PATH}"]}),
        ("FROM a\nARG V=1.2.3\nENV M=${V%.*} U=${V//./_}", {"Env": ["M=1.2", "U=1_2_3"]}),
        ("FROM a\nARG TARGETARCH\nARG TARGETPLATFORM\nENV A=$TARGETARCH P=${TARGETPLATFORM#linux/}", {"Env": ["A=amd64", "P=amd64"]}),
        ("ARG V=3\nFROM a:$V\nARG V\nARG W=x$V\nENV W=$W", {"Env": ["W=x3"]}),
        ("FROM a\nUSER ${MAMBA_USER}:1000\nWORKDIR /home/$MAMBA_USER\nWORKDIR src", {"User": "mambauser:1000", "WorkingDir": "/home/mambauser/src"}),
        ("FROM a\nEXPOSE 8888 53/udp 7000-7002", {"ExposedPorts": {"8888/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}}}),
        ('FROM a\nVOLUME ["/data", "/out"]', {"Volumes": {"/data": {}, "/out": {}}}),
        ("FROM a\nVOLUME /data /out", {"Volumes": {"/data": {}, "/out": {}}}),
        ('FROM a\nENTRYPOINT ["/tini", "--"]\nCMD ["run"]', {"Entrypoint": ["/tini", "--"], "Cmd": ["run"]}),
        ('FROM a\nCMD ["run"]\nENTRYPOINT ["/tini"]', {"Entrypoint": ["/tini"], "Cmd": ["run"]}),
        ("FROM a\nCMD [\'run\']", {"Cmd": ["/bin/sh", "-c", "['run']"]}),
        ('FROM a\nSHELL ["/bin/bash", "-o", "pipefail", "-c"]\nCMD x | y', {"Shell": ["/bin/bash", "-o", "pipefail", "-c"], "Cmd": ["/bin/bash", "-o", "pipefail", "-c", "x | y"]}),
        ("FROM a\nCMD one\nCMD two", {"Cmd": ["/bin/sh", "-c", "two"]}),
        ("FROM a\nHEALTHCHECK --interval=5m --timeout=3s \\\n  CMD curl -f http://localhost/ || exit 1", {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f http://localhost/ || exit 1"], "Interval": 300 * 10**9, "Timeout": 3 * 10**9}}),
        ("FROM a\nSTOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ("FROM a\nONBUILD COPY --chown=1:2 . /app", {"OnBuild": ["COPY --chown=1:2 . /app"]}),
        ("# syntax=docker/dockerfile:1.7-labs\n# check=skip=all\nFROM a\nLABEL a=b", {"Labels": {"a": "b"}}),
        ("\ufeffFROM a\r\nLABEL a=b\r\n", {"Labels": {"a": "b"}}),
    ],
)  # fmt: skip
def test_what_is_said_of_the_image(text: str, found: dict[str, object]) -> None:
    told = configuration.finished(read(text)[2])
    told["Env"] = [entry for entry in told["Env"] if not entry.startswith("MAMBA_USER")]
    assert {key: value for key, value in told.items() if value} == found


@pytest.mark.parametrize(
    ("text", "flags", "rest"),
    [
        ("RUN apt-get update && \\ \n  apt-get install -y \\\n    # compilers\n    gcc \\\n\n  && rm -r x", {}, "apt-get update &&   apt-get install -y     gcc   && rm -r x"),
        ("RUN --mount=type=cache,target=/root/.cache/pip \\\n    pip install x", {"mount": "type=cache,target=/root/.cache/pip"}, "pip install x"),
        ("RUN\t--network=none\ttrue", {"network": "none"}, "true"),
        ("COPY --chown=$MAMBA_USER:$MAMBA_USER env.yaml /tmp/", {"chown": "$MAMBA_USER:$MAMBA_USER"}, "env.yaml /tmp/"),
        ('COPY ["a b", "/x y/"]', {}, '["a b", "/x y/"]'),
        ("COPY --link --chmod=755 a b /x/", {"link": "true", "chmod": "755"}, "a b /x/"),
        ("RUN echo \"x <<EOF\" && echo $((1<<2)) <<<word", {}, 'echo "x <<EOF" && echo $((1<<2)) <<<word'),
        ("run [\"/bin/bash\", \"-c\", \"x\"]", {}, '["/bin/bash", "-c", "x"]'),
        ("RUN set -eux; \\\n\tcase x in \\\n\t\ta) echo \\$y ;; \\\n\tesac", {}, "set -eux; \tcase x in \t\ta) echo \\$y ;; \tesac"),
    ],
)  # fmt: skip
def test_how_steps_are_read(text: str, flags: dict[str, str], rest: str) -> None:
    step = read(f"FROM a\n{text}\n")[1][0]
    assert (dict(step.flags), step.rest) == (flags, rest) and not step.heredocs


def test_here_documents_for_other_programs_and_files() -> None:
    steps = read(
        "FROM a\nRUN python3 <<EOF > /out && cat <<'X' >> /out\nprint(1)\nEOF\n$HOME\nX\nCOPY <<-\"a.sh\" /x/\n\techo $X\n\ta.sh\n"
    )[1]
    assert [(doc.body, doc.expand) for doc in steps[0].heredocs] == [("print(1)\n", True), ("$HOME\n", False)]
    assert steps[1].heredocs[0].body == "echo $X\n" and not steps[1].heredocs[0].expand


def test_what_is_needed_from_elsewhere() -> None:
    text = (
        "ARG UV=0.4\nFROM --platform=$BUILDPLATFORM debian:12 AS Builder\nFROM builder as test\nFROM scratch\n"
        "COPY --from=builder /a /a\nCOPY --from=ghcr.io/astral-sh/uv:$UV /uv /bin/\nCOPY --from=1 /b /b\n"
        "RUN --mount=from=docker.io/x/y:z,source=/q,target=/q true\n"
    )
    recipe = read(text)[0]
    definition = needs.definition(recipe)
    assert [part.header.get("from") or part.header.agent for part in definition.stages] == [
        "debian:12", "0", "scratch", "ghcr.io/astral-sh/uv:0.4", "docker.io/x/y:z",
    ]  # fmt: skip
    assert definition.stages[0].header.get("platform") == "amd64" and needs.count(recipe) == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FROM a\nEXPOSE 80 # web", "`#` is no port"),
        ("FROM a\nEXPOSE 70000", "is no port"),
        ("FROM a\nENV A", "has no value"),
        ("FROM a\nLABEL A", "has no value"),
        ("FROM a\nENV A=1 B", "is no `NAME=VALUE`"),
        ("FROM a\nCOPY --from=$X /a /b", "names nothing"),
        ("FROM a AS b\nCOPY --from=B /a /b", "is the stage itself"),
        ("FROM a\nCOPY --from=later /a /b\nFROM a AS later", "is no earlier stage"),
        ("FROM a\nCOPY --from=3 /a /b", "is no earlier stage"),
        ("# a=b\n# escape=`\nFROM a\nLABEL x `\n y", "`y` is no instruction"),
        ("FROM a\nINCLUDE x", "`INCLUDE` is no instruction"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_told(text: str, told: str) -> None:
    with pytest.raises(DefinitionError) as failure:
        needs.definition(read(text)[0])
    assert told in str(failure.value)


def test_variables_count_in_the_parts_of_a_mount() -> None:
    found = mounts.read(
        "type=cache,id=$A,target=/c/$A", "Dockerfile", 1, lambda key, value: value.replace("$A", "x,y")
    )
    assert (found.id, found.target) == ("x,y", "/c/x,y")
    assert json.dumps(str(found))
