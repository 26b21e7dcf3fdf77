"""Dockerfiles built by an ordinary user: what instructions do, what the cache spares, and what a hostile context gets."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.program import Program, Result

EVERYTHING = """\
# syntax=docker/dockerfile:1
ARG BASE=./base.sif
FROM ${BASE} AS build
ARG VERSION=1
ENV GREETING="hello world"
WORKDIR /src
COPY . .
RUN echo "v$VERSION $GREETING" > out && ls -a > listing
RUN <<EOF
set -e
echo heredoc > h
test "$PWD" = /src
EOF
RUN --mount=type=secret,id=tok,required=true test "$(cat /run/secrets/tok)" = "$(printf 'open\\163esame')"
RUN --mount=type=cache,target=/kept echo x >> /kept/n && cp /kept/n /src/count
RUN --mount=type=bind,source=sub,target=/b test "$(cat /b/s.txt)" = s && test ! -e /b/s.log
RUN --mount=type=tmpfs,target=/t touch /t/x

FROM ./base.sif AS unused
RUN false

FROM ./base.sif
SHELL ["/bin/sh", "-ec"]
COPY --from=build --chown=5:6 --chmod=640 /src/out /opt/out
COPY --from=build /src/ /opt/src
COPY <<one <<"two" /opt/docs/
$NAME is replaced
one
$NAME is not
two
ADD archive.tar /opt/archive/
RUN --mount=type=bind,from=build,source=/src/h,target=/h cp /h /opt/h
ENV NAME=somebody
LABEL org.example.key="a value"
RUN rm /bin/uname; mkdir /opt/made; chmod 1777 /tmp
USER 7:8
RUN touch /tmp/mine; id -u > /tmp/uid; test "$(id -u):$(id -g)" = 7:8
USER root
ENTRYPOINT ["/bin/echo", "entry"]
CMD ["cmd"]
"""


@pytest.fixture
def project(soliton: Program, busybox_sif: Path) -> Path:
    folder = soliton.cwd / "a project"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(busybox_sif, soliton.cwd / "base.sif")
    (soliton.cwd / "token").write_text("opensesame")
    (folder / "app.txt").write_text("app\n")
    (folder / "skip.log").write_text("log")
    (folder / "sub" / "s.txt").write_text("s\n")
    (folder / "sub" / "s.log").write_text("l\n")
    (folder / ".dockerignore").write_text("**/*.log\nDockerfile\n")
    (folder / "Dockerfile").write_text(EVERYTHING)
    owned = ["--owner=12", "--group=13"]
    subprocess.run(["tar", "-C", folder, *owned, "-cf", folder / "archive.tar", "sub"], check=True)
    return folder


def build(soliton: Program, *options: str) -> Result:
    return soliton("build", "--force", "--secret", "id=tok,src=token", *options, "image.sif", "a project")


def shell(soliton: Program, script: str) -> str:
    return soliton("exec", "image.sif", "sh", "-c", script).ok().out


def test_every_instruction_does_its_part(soliton: Program, project: Path) -> None:
    err = build(soliton, "--build-arg", "VERSION=2").ok().err
    assert "false" not in err, "a stage that nothing needs was built"
    assert soliton("run", "image.sif").ok().out == "entry cmd\n"
    assert soliton("run", "image.sif", "mine").ok().out == "entry mine\n"
    assert (
        shell(soliton, "cat /opt/out /opt/src/h /opt/h /opt/src/app.txt")
        == "v2 hello world\nheredoc\nheredoc\napp\n"
    )
    assert shell(soliton, "cat /opt/docs/one /opt/docs/two") == " is replaced\n$NAME is not\n"
    assert shell(soliton, "cat /opt/archive/sub/s.txt; echo $NAME") == "s\nsomebody\n"
    found = shell(soliton, "find /opt/src /src /kept /b /t /h /run/secrets /bin/uname 2>/dev/null || true")
    assert ".log" not in found and "/kept" not in found and "secrets" not in found and "uname" not in found
    assert "key: a value" in soliton("inspect", "image.sif").ok().out
    assert "FROM ./base.sif AS unused" in soliton("inspect", "--deffile", "image.sif").ok().out
    listed = subprocess.run(
        ["unsquashfs", "-lln", "-o", offset(soliton), soliton.cwd / "image.sif"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = {line.split()[-1]: line.split()[:2] for line in listed.splitlines() if "squashfs-root/" in line}
    assert lines["squashfs-root/opt/out"] == ["-rw-r-----", "5/6"]
    assert lines["squashfs-root/opt/src/app.txt"][1] == "0/0"
    assert lines["squashfs-root/opt/archive/sub/s.txt"][1] == "12/13"
    assert lines["squashfs-root/tmp/mine"][1] == "7/8"
    kept = subprocess.run(
        ["grep", "-rl", "opensesame", soliton.home, soliton.cwd / "image.sif"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert kept.stdout == ""


def offset(soliton: Program) -> str:
    line = next(
        line for line in soliton("sif", "list", "image.sif").ok().out.splitlines() if "Squashfs" in line
    )
    return line.split("|")[3].split("-")[0].strip()


def test_only_what_changed_runs_again(soliton: Program, project: Path) -> None:
    first = build(soliton).ok().err
    assert "(cached)" not in first.replace("WORKDIR", "")
    again = build(soliton).ok().err
    assert "is up to date" in again
    (project / "skip.log").write_text("changed, but ignored")
    assert "is up to date" in build(soliton).ok().err
    (project / "Dockerfile").write_text(EVERYTHING.replace("id -u > /tmp/uid", "id -u > /tmp/uid2"))
    changed = build(soliton, "--explain-cache").ok().err
    assert "the command differs" in changed
    assert changed.count(" runs: ") == 1
    assert shell(soliton, "cat /opt/src/count") == "x\n", "the step with the cache mount ran again"
    (project / "app.txt").write_text("other\n")
    assert "COPY . . runs: `.` differs" in build(soliton, "--explain-cache").ok().err


def test_a_failed_step_is_named_and_the_next_build_goes_on_before_it(soliton: Program, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM ./base.sif\nRUN echo fine > /one\nRUN echo told; exit 7\n")
    failed = soliton("build", "image.sif", "a project")
    assert failed.status == 255 and not (soliton.cwd / "image.sif").exists()
    assert "`RUN echo told; exit 7` failed with exit status 7 (a project/Dockerfile:3)" in failed.err
    assert "told" in failed.err.splitlines()[-2]
    (project / "Dockerfile").write_text("FROM ./base.sif\nRUN echo fine > /one\nRUN true\n")
    assert "RUN echo fine > /one (cached)" in soliton("build", "image.sif", "a project").ok().err


def test_what_a_base_says_is_passed_on_and_onbuild_is_done(soliton: Program, project: Path) -> None:
    text = "FROM ./base.sif\nENV A=1\nWORKDIR /w\nONBUILD RUN echo $A > onbuild\nCMD echo of-the-base\n"
    (project / "Dockerfile").write_text(text)
    soliton("build", "first.sif", "a project").ok()
    (project / "Dockerfile").write_text("FROM ./first.sif\nENV B=$A\nRUN echo $B >> onbuild\n")
    soliton("build", "image.sif", "a project").ok()
    assert shell(soliton, "cat /w/onbuild; echo $A$B") == "1\n1\n11\n"
    assert soliton("run", "image.sif").ok().out == "of-the-base\n"


@pytest.mark.parametrize(
    ("dockerfile", "told"),
    [
        ("COPY ../token /t", "the build context has no `../token`"),
        ("COPY out /t", "the build context has no `out`"),
        ("COPY out/passwd /t", "the build context has no `out/passwd`"),
        ("ADD /etc/passwd /t", "the build context has no `/etc/passwd`"),
        ("RUN --mount=type=bind,source=out,target=/x cat /x/passwd", "the build context has no `out`"),
        ("RUN --mount=type=bind,source=../..,target=/x ls /x/etc/passwd", "failed with exit status"),
        ("RUN --mount=type=bind,source=/,target=/x,bind-propagation=shared true", "means nothing"),
        ("COPY skip.log /x", "`.dockerignore` leaves it out"),
        ("USER nobody-here\nRUN true", "no user `nobody-here`"),
        ("COPY --chmod=u+x app.txt /x", "is no mode"),
        ("RUN --mount=type=secret,id=none,required cat /run/secrets/none", "the secret `none` is not given"),
        ("RUN --security=insecure true", "not possible"),
    ],
)
def test_a_hostile_or_wrong_dockerfile_gets_nothing_and_is_told(
    soliton: Program, project: Path, dockerfile: str, told: str
) -> None:
    os.symlink("/etc", project / "out")
    (project / "Dockerfile").write_text(f"FROM ./base.sif\n{dockerfile}\n")
    failed = soliton("build", "image.sif", "a project")
    assert failed.status == 255 and told in failed.err
    assert len([line for line in failed.err.splitlines() if line.startswith(("FATAL", "     "))]) <= 3
    assert not (soliton.cwd / "image.sif").exists()


def test_a_link_in_the_image_does_not_lead_a_copy_out(soliton: Program, project: Path) -> None:
    outside = soliton.cwd / "outside"
    outside.mkdir()
    (project / "Dockerfile").write_text(
        f"FROM ./base.sif\nRUN ln -s {outside} /way && ln -s /proc/self/fd/3 /fd\nCOPY app.txt /way/in\n"
    )
    soliton("build", "image.sif", "a project").ok()
    assert not list(outside.iterdir())


def test_options_of_dockerfiles_are_for_dockerfiles(soliton: Program, project: Path) -> None:
    soliton(
        "build", "--target", "build", "--secret", "id=tok,src=token", "image.sif", "a project/Dockerfile"
    ).ok()
    assert shell(soliton, "cat /src/out") == "v1 hello world\n"
    (soliton.cwd / "r.def").write_text("Bootstrap: scratch\n")
    assert soliton("build", "--target", "x", "y.sif", "r.def").status == 1
    assert soliton("build", "--secret", "nonsense", "y.sif", "a project").status == 1
    soliton(
        "build", "--sandbox", "--context", "a project", "--secret", "id=tok,src=token", "tree", "a project"
    ).ok()
    assert (soliton.cwd / "tree/opt/docs/one").exists()
