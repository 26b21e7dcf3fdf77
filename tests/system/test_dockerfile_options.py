"""Options of instructions, and of the command line, that a Dockerfile's build honours: platforms, addresses, networks, agents, locks."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.system.judges import listing
from tests.system.program import Program, Result
from tests.system.registry import keep_silent


@pytest.fixture
def project(soliton: Program, busybox_sif: Path) -> Program:
    shutil.copy(busybox_sif, soliton.cwd / "base.sif")
    return soliton


def build(soliton: Program, text: str, *options: str, base: str = "FROM ./base.sif\n") -> Result:
    (soliton.cwd / "Dockerfile").write_text(base + text)
    return soliton("build", "--force", *options, "image.sif", ".")


def shell(soliton: Program, script: str) -> str:
    return soliton("exec", "image.sif", "sh", "-c", script).ok().out


class Site(http.server.BaseHTTPRequestHandler):
    content = b"one"
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        tag = f'"{hashlib.sha256(self.content).hexdigest()}"'
        same = self.headers.get("If-None-Match") == tag
        self.asked.append("304" if same else "200")
        self.send_response(304 if same else 200)
        self.send_header("ETag", tag)
        self.end_headers()
        if not same:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[http.server.ThreadingHTTPServer]:
    Site.content, Site.asked = b"one", []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_address_counts_by_what_is_there(project: Program, site: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{site.server_port}/data.txt?x=1"
    text = f"ADD {url} /data/\n"
    build(project, text).ok()
    assert shell(project, "cat /data/data.txt; stat -c %a /data/data.txt") == "one600\n"
    assert "up to date" in build(project, text).ok().err and Site.asked == ["200", "304"]
    Site.content = b"two"
    assert "(cached)" not in build(project, text).ok().err
    assert shell(project, "cat /data/data.txt") == "two"
    digest = f"sha256:{hashlib.sha256(b'two').hexdigest()}"
    build(project, f"ADD --checksum={digest} {url} /data/\n").ok()
    assert Site.asked == ["200", "304", "200"], "a file with the right digest was asked for"
    wrong = build(project, f"ADD --checksum={digest.replace('a', 'b')} {url} /data/\n")
    assert wrong.status == 255 and f"its digest is {digest}" in wrong.err
    site.shutdown()
    site.server_close()
    keep_silent(site.server_port)
    gone = build(project, text).ok()
    assert "what it gave before is taken" in gone.err
    refused = build(project, "ADD https://example.org/model.git#v1 /model\n")
    assert refused.status == 255 and "a git repository" in refused.err


def test_copies_keep_parents_and_leave_out_what_is_excluded(project: Program) -> None:
    for name in ("a/b/one.txt", "a/b/two.log", "a/c/three.txt", "four.log", "five.txt"):
        path = project.cwd / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    build(
        project,
        "COPY --exclude=**/*.log src /plain\n"
        "COPY --parents src/a/b/one.txt src/./a/c /parents/\n"
        "COPY --exclude=*.log src/f* /some/\n"
        "RUN mkdir /lib2 && touch /lib2/libx.so /lib2/liby.so /lib2/other\n"
        "FROM ./base.sif\n"
        "COPY --from=0 /plain /plain\nCOPY --from=0 /parents /parents\nCOPY --from=0 /some /some\n"
        "COPY --from=0 /lib2/lib*.so /libs/\n",
    ).ok()
    listed = shell(project, "cd / && find plain parents some libs -type f | sort")
    assert listed.split() == [
        "libs/libx.so",
        "libs/liby.so",
        "parents/a/c/three.txt",
        "parents/src/a/b/one.txt",
        "plain/a/b/one.txt",
        "plain/a/c/three.txt",
        "plain/five.txt",
        "some/five.txt",
    ]
    (project.cwd / "src" / "four.log").write_text("changed, but excluded")
    assert "up to date" in project("build", "--force", "image.sif", ".").ok().err
    missing = build(project, "FROM ./base.sif\nCOPY --from=0 /none* /x/\n")
    assert missing.status == 255 and "there is no `/none*` in `0`" in missing.err


def test_a_user_carries_out_its_steps_and_owns_what_they_make(project: Program) -> None:
    """With subordinate ids it is that user; without, the one id there is has its number, and new files get it as owner."""
    (project.cwd / "linked").mkdir()
    (project.cwd / "linked" / "link").symlink_to("to")
    owned = ["--owner=12", "--group=13", "--numeric-owner"]
    subprocess.run(
        ["tar", "-C", project.cwd / "linked", *owned, "-cf", project.cwd / "a.tar", "."], check=True
    )
    text = """\
RUN mkdir -p /home/jo /etc/kept && echo jo:x:1234:1235::/home/jo:/bin/sh >> /etc/passwd && chown 1234:1235 /home/jo
COPY --chown=33:33 app.txt /etc/kept/file
COPY app.txt /etc/kept/again
RUN chown 44 /etc/kept/again
COPY app.txt /etc/kept/again
ADD a.tar /unpacked/
USER jo
WORKDIR /made/by/jo
RUN test "$(id -u):$(id -g):$HOME" = 1234:1235:/home/jo && echo new > file && ln -s file link && busybox mkfifo pipe
RUN echo more >> file; rm link; ln -s file ~/link; mkdir -p ~/deep/er; echo more >> ~/deep/file; touch ~/deep/file
RUN --mount=type=cache,target=/c,uid=1234,gid=1235,mode=0700 --mount=type=secret,id=tok,uid=1234,gid=1235 \\
  touch /c/x && test "$(stat -c %u:%g:%a /c):$(stat -c %u:%a:%s /run/secrets/tok)" = 1234:1235:700:1234:400:4 && cat /run/secrets/tok
USER root
RUN test "$(id -u)" = 0; touch /made/root; ln -s x /made/link
USER root:1235
RUN test "$(id -u)" = 0; touch /made/group; ln -s x /made/other; touch /made/given; chown 5:6 /made/given
"""
    (project.cwd / "app.txt").write_text("app\n")
    (project.cwd / "token").write_text("open")
    build(project, text, "--secret", "id=tok,src=token").ok()
    found = listing(project, "image.sif")
    expected = {
        "/etc/kept": "0/0",
        "/etc/kept/file": "33/33",
        "/etc/kept/again": "0/0",
        "/unpacked/link": "12/13",
        "/home/jo": "1234/1235",
        "/home/jo/link": "1234/1235",
        "/home/jo/deep/er": "1234/1235",
        "/home/jo/deep/file": "1234/1235",
        "/made/by/jo": "1234/1235",
        "/made/by/jo/file": "1234/1235",
        "/made/by/jo/pipe": "1234/1235",
        "/made": "0/0",
        "/made/root": "0/0",
        "/made/link": "0/0",
        "/made/group": "0/1235",
        "/made/other": "0/1235",
        "/made/given": "5/6",
        "/tmp": "0/0",
    }
    assert {path: found[path][1] for path in expected} == expected
    # The same from the cache, under another last step.
    again = build(project, text + "RUN true\n", "--secret", "id=tok,src=token").ok().err
    assert again.count("(cached)") == 12
    found = listing(project, "image.sif")
    assert {path: found[path][1] for path in expected} == expected
    kept = project.home / "cache" / "steps" / "mounts"
    assert list(kept.iterdir())
    project("cache", "clean", "--force").ok()
    assert not list(kept.iterdir())


def test_a_run_has_the_network_that_it_asks_for(project: Program) -> None:
    build(
        project,
        "RUN --network=none test $(grep -c : /proc/net/dev) = 1 && grep -q lo: /proc/net/dev\n"
        'RUN --network=host test -n "$(cat /proc/net/dev)"\n',
    ).ok()
    assert build(project, "RUN --network=bridge true\n").status == 255


def test_an_agent_is_shown_to_its_step_and_kept_nowhere(project: Program) -> None:
    path = project.cwd / "agent"
    with socket.socket(socket.AF_UNIX) as agent:
        # The name of a socket may not be as long as that of a directory of tests.
        folder = os.open(project.cwd, os.O_PATH | os.O_DIRECTORY)
        agent.bind(f"/proc/self/fd/{folder}/agent")
        os.close(folder)
        agent.listen()
        text = 'RUN --mount=type=ssh,required test -S "$SSH_AUTH_SOCK" && echo "$SSH_AUTH_SOCK" > /place\n'
        missing = build(project, text)
        assert missing.status == 255 and "`--ssh default`" in missing.err
        build(project, text, "--ssh", f"default={path}").ok()
    assert shell(project, 'cat /place; ls /run/buildkit 2>/dev/null; echo "$SSH_AUTH_SOCK"').split() == [
        "/run/buildkit/ssh_agent.default"
    ]
    assert project("build", "--force", "--ssh", "default=base.sif", "image.sif", ".").status == 1
    assert project("build", "--force", "--ssh", "default", "image.sif", ".").status == 1
    build(project, 'RUN --mount=type=ssh,id=tools test -z "$SSH_AUTH_SOCK"\n').ok()


def test_a_platform_is_honoured_or_refused_by_name(project: Program) -> None:
    machine = project("exec", "base.sif", "uname", "-m").ok().out.strip()
    build(project, "RUN true\n", base=f"FROM --platform=linux/{machine} ./base.sif\n").ok()
    build(project, "RUN true\n", base="FROM --platform=$BUILDPLATFORM ./base.sif\n").ok()
    other = "s390x" if machine != "s390x" else "amd64"
    refused = build(project, "RUN true\n", base=f"FROM --platform=linux/{other} ./base.sif\n")
    assert refused.status == 255 and other in refused.err and "base.sif" in refused.err
    (project.cwd / "data").write_text("x")
    text = "ARG TARGETARCH\nCOPY data /data.$TARGETARCH\n"
    build(project, text, "--arch", other, base="FROM scratch\n").ok()
    assert (
        f'"architecture":"{other}"'
        in project("inspect", "--json", "--all", "image.sif").ok().out.replace('": "', '":"')
        or other in project("sif", "list", "image.sif").ok().out
    )
    stopped = build(project, "RUN true\n", "--arch", other, base="FROM scratch\n")
    assert stopped.status == 255


def test_a_lock_holds_files_bases_and_addresses(project: Program) -> None:
    (project.cwd / "data").write_text("one")
    text = "ARG WHO=me\nCOPY data /data\nRUN echo $WHO > /who\nFROM first\nRUN true\n"
    base = "FROM ./base.sif AS first\n"
    build(project, text, "--lock", "--build-arg", "WHO=you", base=base).ok()
    lock = (project.cwd / "Dockerfile.lock").read_text()
    assert '"data": "sha256:' in lock and '"from": "localimage:./base.sif"' in lock and "stage:0" not in lock
    first = (project.cwd / "image.sif").read_bytes()
    build(project, text, "--locked", "--no-cache", "--build-arg", "WHO=you", base=base).ok()
    assert (project.cwd / "image.sif").read_bytes() == first
    assert project("rebuild", "--check", "image.sif").ok().out == "image.sif: built again, the same bytes\n"
    (project.cwd / "data").write_text("two")
    changed = build(project, text, "--locked", base=base)
    assert changed.status == 255 and "file `data` is sha256:" in changed.err
    again = project("rebuild", "--check", "image.sif")
    assert again.status == 255 and "file `data`" in again.err
    assert (project.cwd / "image.sif").read_bytes() == first


def test_a_dockerfile_is_the_base_of_a_definition_file(project: Program) -> None:
    inner = project.cwd / "inner"
    inner.mkdir()
    (inner / "Other").write_text(
        "FROM ./base.sif AS one\nARG A=0\nENV B=$A\nRUN echo $A > /a\nFROM one\nRUN false\n"
    )
    text = "Bootstrap: dockerfile\nFrom: inner\nFilename: Other\nTarget: one\nBuildArgs: A=5\n%post\n  cat /a > /b\n"
    (project.cwd / "r.def").write_text(text)
    project("build", "image.sif", "r.def").ok()
    assert shell(project, "cat /b; echo $B") == "5\n5\n"
    again = project("build", "--force", "image.sif", "r.def").ok().err
    assert "%post (cached)" in again
    assert list(os.scandir(project.home / "tmp")) == []
