"""Definition files built by an ordinary user, with and without subordinate ids: what steps see, and what the image holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from soliton.build.emulation import has_tables
from soliton.images.architecture import elf_head, host_architecture, runnable
from tests.system.conftest import busybox_tar
from tests.system.judges import listing
from tests.system.program import AMPLE, Program, Result
from tests.zoo import GZIP, Layer, write_layout

#: Where programs of the administrator are, and no qemu.
NO_EMULATORS = "/usr/sbin:/sbin"

EVERYTHING = """\
Bootstrap: busybox
%arguments
    WORD=default
%pre
    echo "pre in $PWD" > pre.log
%setup
    echo "from setup" > "$APPTAINER_ROOTFS/from-setup"
    test "$APPTAINER_ROOTFS" = "$SINGULARITY_ROOTFS" && test "$APPTAINER_ROOTFS" = "$SOLITON_ROOTFS"
    pwd > setup.log
%files
    "a file" /opt/data/
%post
    test "$(id -u)" = 0
    test "$PWD" = /
    test "$HOME" = /root
    test "$(umask)" = 0022
    test -c /dev/null && test -d /proc/self && test -d /sys/kernel
    test "$(cat /opt/data/a\\ file)" = content
    test "$(cat /from-setup)" = "from setup"
    test -z "$NOT_FOR_STEPS"
    echo "{{ WORD }}" > /opt/word
    echo "export FROM_POST=yes" >> "$APPTAINER_ENVIRONMENT"
    echo "From.Post some value" >> "$SINGULARITY_LABELS"
    echo scrap > /tmp/scrap
    chown 33:33 /opt/word
%environment
    export GREETING="hello there"
%runscript
    echo "run: $GREETING, $FROM_POST, $#:$*"
%startscript
    exec sleep 1000
%test
    test "$(cat /opt/word)" = "{{ WORD }}"
    echo "the test ran"
%labels
    Maintainer Jo Doe
%help
    What it is for.
%appinstall foo
    echo foo-file > foo.txt
%apprun foo
    echo "app foo: $* $(cat $SCIF_APPROOT/foo.txt)"
%appenv foo
    export FOOVAR=foovalue
%applabels foo
    AppVersion 9
%apphelp foo
    Help of foo.
"""


def fatal(result: Result) -> str:
    """The message of a failed build, without what the steps printed."""
    assert result.status == 255, (result.status, result.out, result.err)
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    return "\n".join(lines[next(n for n, line in enumerate(lines) if line.startswith("FATAL:")) :])


def write(soliton: Program, text: str, name: str = "recipe.def") -> str:
    (soliton.cwd / name).write_text(text)
    return name


def names(soliton: Program) -> set[str]:
    return {entry.name for entry in soliton.cwd.iterdir()}


def sh(soliton: Program, image: str | Path, script: str) -> str:
    return soliton("exec", "--no-home", image, "sh", "-c", script).ok().out


@pytest.fixture
def everything(soliton: Program) -> Program:
    (soliton.cwd / "a file").write_text("content")
    write(soliton, EVERYTHING)
    return soliton


def test_every_section_does_its_part(everything: Program) -> None:
    soliton = everything.having(NOT_FOR_STEPS="x")
    result = soliton("build", "--build-arg", "WORD=given", "image.sif", "recipe.def").ok()
    assert "the test ran" in result.out
    assert (soliton.cwd / "pre.log").read_text() == f"pre in {soliton.cwd}\n"
    assert (soliton.cwd / "setup.log").read_text() == f"{soliton.cwd}\n"
    assert soliton("run", "image.sif", "one", "two").ok().out == "run: hello there, yes, 2:one two\n"
    assert soliton("run", "--app", "foo", "image.sif", "x").ok().out == "app foo: x foo-file\n"
    assert soliton("test", "image.sif").ok().out == "the test ran\n"
    assert (
        sh(soliton, "image.sif", "cat /opt/word /opt/data/*; ls /tmp/scrap || echo gone")
        == "given\ncontentgone\n"
    )
    assert set(sh(soliton, "image.sif", "ls /").split()) == {
        *("bin", "dev", "environment", "etc", "from-setup", "home", "linuxrc", "opt", "proc", "root", "sbin"),
        *("scif", "singularity", "sys", "tmp", "usr", "var"),
    }


def test_what_an_image_says_of_itself(everything: Program) -> None:
    soliton = everything.having(SOURCE_DATE_EPOCH="1700000000")
    soliton("build", "image.sif", "recipe.def").ok()
    record = json.loads(soliton("inspect", "--all", "image.sif").ok().out)["data"]["attributes"]
    labels = record["labels"]
    assert labels["Maintainer"] == "Jo Doe"
    assert labels["From.Post"] == "some value"
    assert labels["org.label-schema.build-date"] == "Tuesday_14_November_2023_22:13:20_UTC"
    assert labels["org.label-schema.usage.singularity.deffile.bootstrap"] == "busybox"
    version = soliton("version").ok().out.strip()
    assert labels["org.label-schema.usage.soliton.version"] == version
    assert labels["org.label-schema.usage.apptainer.version"] == f"1.5.3+soliton.{version}"
    assert record["helpfile"] == "    What it is for."
    assert record["runscript"] == '#!/bin/sh\n\n    echo "run: $GREETING, $FROM_POST, $#:$*"'
    assert record["deffile"] == EVERYTHING.replace("{{ WORD }}", "default").rstrip("\n")
    assert "export FROM_POST=yes" in record["environment"]["/.singularity.d/env/91-environment.sh"]
    assert record["apps"]["foo"]["labels"] == {"AppVersion": "9", "SCIF_APP_NAME": "foo"}
    # The record in the SIF and the files inside say the same.
    soliton("build", "--sandbox", "tree", "image.sif").ok()
    inside = json.loads(soliton("inspect", "--all", "tree").ok().out)["data"]["attributes"]
    assert inside["apps"] == record["apps"]
    assert inside["runscript"] == record["runscript"]


def test_steps_are_announced_and_quiet_is_quiet(soliton: Program, has_subordinate_ids: bool) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n    echo working\n")
    err = soliton("build", "image.sif", "recipe.def").ok().err
    told = [line for line in err.splitlines() if re.match(r"INFO: +(\[\d+/3\]|Build complete)", line)]
    # Of a step that takes a second it is told how many it took.
    assert [line for line in told if " done in " not in line] == [
        "INFO:    [1/3] busybox",
        "INFO:    [2/3] %post",
        f"INFO:    [3/3] writing {soliton.cwd}/image.sif",
        "INFO:    Build complete: image.sif",
    ]
    assert ("no subordinate ids" in err) is not has_subordinate_ids
    assert (
        soliton("--quiet", "build", "--no-cache", "-F", "image.sif", "recipe.def").ok().err
        == "+ echo working\n"
    )


def test_one_image_is_built_on_another(soliton: Program, busybox_sif: Path) -> None:
    (soliton.cwd / "base image.sif").symlink_to(busybox_sif)
    write(
        soliton,
        "Bootstrap: localimage\nFrom: base image.sif\n"
        "%post\n  rm /bin/true\n  echo more >> /etc/hosts.extra\n  mv /etc/passwd /etc/passwd.old\n"
        "%labels\n  Second yes\n",
    )
    soliton("build", "second.sif", "recipe.def").ok()
    assert (
        sh(soliton, "second.sif", "test ! -e /bin/true && test ! -e /etc/passwd && cat /etc/hosts.extra")
        == "more\n"
    )
    assert sh(soliton, "second.sif", "head -1 /etc/passwd.old").startswith("root:")
    write(soliton, "Bootstrap: localimage\nFrom: second.sif\n%labels\n  Second no\n  Third yes\n")
    err = soliton("build", "third.sif", "recipe.def").ok().err
    assert "`Second`" in err
    labels = json.loads(soliton("inspect", "--json", "third.sif").ok().out)["data"]["attributes"]["labels"]
    assert (labels["Second"], labels["Third"]) == ("yes", "yes")
    assert "bootstrap_history" in sh(soliton, "third.sif", "ls /.singularity.d")
    write(soliton, "Bootstrap: localimage\nFrom: second.sif\n%labels\n  Second no\n")
    soliton("build", "--force", "third.sif", "recipe.def").ok()
    labels = json.loads(soliton("inspect", "--json", "third.sif").ok().out)["data"]["attributes"]["labels"]
    assert labels["Second"] == "no"


def test_stages_take_files_from_each_other(soliton: Program) -> None:
    write(
        soliton,
        "Bootstrap: busybox\nStage: build\n"
        "%post\n  mkdir -p '/out/a tree/deep' /real && echo program > '/out/a tree/deep/program'\n"
        "  chmod 755 '/out/a tree/deep/program'; echo x > /real/x; ln -s /real /out/link; ln -s deep '/out/a tree/inner'\n"
        "  echo 1 > /out/f1; echo 2 > /out/f2\n"
        "Bootstrap: busybox\nStage: final\n"
        "%files from build\n  '/out/a tree' /opt/\n  /out/link /opt/linked\n  /out/f*\n"
        "%post\n  test -x '/opt/a tree/deep/program'\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    assert (
        sh(soliton, "image.sif", "cat '/opt/a tree/inner/program' /opt/linked/x /out/f1 /out/f2")
        == "program\nx\n1\n2\n"
    )
    assert sh(
        soliton,
        "image.sif",
        "test ! -e /real && test -d /opt/linked && test -L '/opt/a tree/inner' && echo yes",
    ) == ("yes\n")


def test_files_go_where_they_are_asked_to(soliton: Program) -> None:
    for name in ("one", "two words", "sub/x1", "sub/x2", "tree/a/b", "tree/.hidden", "[odd]", "äöü"):
        path = soliton.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    (soliton.cwd / "link").symlink_to("one")
    (soliton.cwd / "tree/link").symlink_to("../one")
    write(
        soliton,
        'Bootstrap: busybox\n%files\n  one /a/new/name\n  one /dir/\n  "two words" "/with blank/"\n  sub/x* /globbed\n'
        "  sub/x?\n  tree /copy\n  tree /dir\n  tree/. /contents\n  [odd] /odd\n  äöü /ünder/\n  link /linked\n  {one,link} /both/\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    listing = sh(
        soliton,
        "image.sif",
        "find /a /dir '/with blank' /globbed /sub /copy /contents /odd /ünder /linked /both | sort",
    )
    assert listing.splitlines() == sorted(
        [
            *(
                "/a",
                "/a/new",
                "/a/new/name",
                "/dir",
                "/dir/one",
                "/with blank",
                "/with blank/two words",
                "/globbed",
            ),
            *(
                "/globbed/x1",
                "/globbed/x2",
                "/sub",
                "/sub/x1",
                "/sub/x2",
                "/copy",
                "/copy/.hidden",
                "/copy/a",
            ),
            *("/copy/a/b", "/copy/link", "/dir/tree", "/dir/tree/.hidden", "/dir/tree/a", "/dir/tree/a/b"),
            *(
                "/dir/tree/link",
                "/contents",
                "/contents/.hidden",
                "/contents/a",
                "/contents/a/b",
                "/contents/link",
            ),
            *("/odd", "/ünder", "/ünder/äöü", "/linked", "/both", "/both/one", "/both/link"),
        ]
    )
    assert (
        sh(soliton, "image.sif", "test ! -L /linked && test ! -L /copy/link && cat /copy/link /odd")
        == "one\n[odd]\n"
    )


def test_a_link_in_the_image_does_not_lead_a_copy_out(soliton: Program) -> None:
    precious = soliton.home / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (soliton.cwd / "file").write_text("evil")
    write(
        soliton,
        f"Bootstrap: busybox\n%post\n  ln -s {precious} /trap; ln -s ../../../../../../{precious} /climb\n",
        "base.def",
    )
    soliton("build", "base.sif", "base.def").ok()
    write(soliton, "Bootstrap: localimage\nFrom: base.sif\n%files\n  file /trap/\n  file /climb/file\n")
    soliton("build", "image.sif", "recipe.def").ok()
    assert (precious / "file").read_text() == "mine"
    soliton("build", "--sandbox", "tree", "image.sif").ok()
    assert (soliton.cwd / f"tree/{precious}/file").read_text() == "evil"


def test_a_step_cannot_make_metadata_of_a_file_of_the_host(soliton: Program) -> None:
    secret = soliton.home / "secret"
    secret.write_text("Stolen yes\n")
    write(
        soliton,
        "Bootstrap: busybox\n%post\n"
        f"  rm -rf /.singularity.d; mkdir -p /.singularity.d/env; ln -s {secret} $APPTAINER_LABELS; "
        f"ln -s {secret} /.singularity.d/env/90-environment.sh\n%environment\n  export A=1\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    assert "Stolen" not in soliton("inspect", "--all", "image.sif").ok().out


def test_a_file_that_is_missing_is_said_with_its_line(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%files\n  missing /opt\n")
    assert "recipe.def:3: no such file: `missing`" in fatal(soliton("build", "image.sif", "recipe.def"))
    assert names(soliton) == {"recipe.def"}


def test_a_failing_post_tells_place_status_and_last_output(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n    echo before the end\n    exit 42\n")
    result = soliton("build", "image.sif", "recipe.def")
    assert result.out == "before the end\n"
    message = fatal(result)
    assert "`%post` failed with exit status 42 (recipe.def:4)" in message
    assert "before the end" in message
    assert names(soliton) == {"recipe.def"}


def test_a_failing_test_leaves_no_image(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%test\n    echo no good\n    exit 3\n")
    assert "`%test` failed with exit status 3 (recipe.def:2)" in fatal(
        soliton("build", "image.sif", "recipe.def")
    )
    assert names(soliton) == {"recipe.def"}
    soliton("build", "--notest", "image.sif", "recipe.def").ok()
    assert soliton("test", "image.sif").status == 3


def test_a_test_cannot_write_but_has_a_temporary_directory(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%test\n  touch /tmp/x /var/tmp/y\n  ! touch /etc/new\n")
    soliton("build", "image.sif", "recipe.def").ok()
    write(soliton, "Bootstrap: busybox\n%test\n  touch /etc/new\n")
    soliton("build", "--writable-tmpfs", "-F", "image.sif", "recipe.def").ok()
    assert soliton("exec", "image.sif", "test", "-e", "/etc/new").status == 1


@pytest.mark.parametrize("section", ["pre", "setup"])
def test_a_failing_step_on_the_host_ends_the_build(soliton: Program, section: str) -> None:
    write(soliton, f"Bootstrap: busybox\n%{section}\n    false\n%post\n    echo not reached\n")
    result = soliton("build", "image.sif", "recipe.def")
    assert f"`%{section}` failed with exit status 1 (recipe.def:2)" in fatal(result)
    assert "not reached" not in result.out


def test_another_interpreter(soliton: Program) -> None:
    write(
        soliton,
        'Bootstrap: busybox\n%post -c /usr/bin/awk -f\nBEGIN { print "by awk" > "/made" }\n'
        "%runscript -e\n  false\n  echo not reached\n%test\n#!/bin/ash\n  cat /made\n",
    )
    assert "by awk" in soliton("build", "image.sif", "recipe.def").ok().out
    assert soliton("run", "image.sif").status == 1


def test_what_post_leaves_running_does_not_keep_the_build(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n  sleep 100000 &\n  echo done\n")
    soliton("build", "image.sif", "recipe.def").ok()


def test_post_reads_no_input(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n  cat > /input\n")
    soliton("build", "image.sif", "recipe.def", stdin="the loop's own input").ok()
    assert sh(soliton, "image.sif", "cat /input") == ""


def test_sections_can_be_chosen(everything: Program) -> None:
    soliton = everything
    write(soliton, EVERYTHING.replace("/opt/data/a\\\\ file", "/none").replace('    test "$(cat', "    : "))
    write(
        soliton,
        "Bootstrap: busybox\n%post\n  touch /post\n%labels\n  A b\n%help\n  h\n%runscript\n  echo r\n%test\n  false\n",
    )
    soliton("build", "--section", "labels,help", "image.sif", "recipe.def").ok()
    record = json.loads(soliton("inspect", "--all", "image.sif").ok().out)["data"]["attributes"]
    assert record["labels"]["A"] == "b" and record["helpfile"] == "  h"
    assert "echo r" not in record.get("runscript", "") and "test" not in record
    sh(soliton, "image.sif", "test -e /post")


def test_build_arguments_come_from_the_line_before_the_file(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%arguments\n  A=0\n  B=0\n  C=0\n%help\n{{ A }}{{ B }}{{ C }}\n")
    (soliton.cwd / "arguments").write_text("# comment\nA=1\nB = 1\n")
    soliton("build", "--build-arg-file", "arguments", "--build-arg", "A=2", "image.sif", "recipe.def").ok()
    assert soliton("run-help", "image.sif").ok().out == "210\n"
    message = fatal(soliton("build", "-F", "--build-arg", "D=1", "image.sif", "recipe.def"))
    assert "unused build argument: `D`" in message
    assert (
        "`D`"
        in soliton("build", "-F", "--warn-unused-build-args", "--build-arg", "D=1", "image.sif", "recipe.def")
        .ok()
        .err
    )


def test_an_image_that_lacks_the_usual_scripts_gets_them_and_keeps_its_own(
    soliton: Program, busybox_sandbox: Path
) -> None:
    root = Path(shutil.copytree(busybox_sandbox, soliton.cwd / "plain", symlinks=True))
    (root / ".singularity.d/env").mkdir(parents=True)
    own = root / ".singularity.d/env/90-environment.sh"
    own.write_text("export OWN=1\n")
    own.chmod(0o755)
    soliton("build", "base.sif", root).ok()
    (soliton.cwd / "apps.def").write_text(
        "Bootstrap: localimage\nFrom: base.sif\n%appinstall hello\n"
        "printf '#!/bin/sh\\necho hello $OWN\\n' > bin/greet\nchmod 755 bin/greet\n%apprun hello\nexec greet\n"
    )
    soliton("build", "apps.sif", "apps.def").ok()
    assert soliton("run", "--app", "hello", "apps.sif").ok().out == "hello 1\n"
    scripts = soliton("exec", "apps.sif", "ls", "/.singularity.d/env").ok().out.split()
    assert {"01-base.sh", "95-apps.sh", "99-base.sh", "99-runtimevars.sh"} <= set(scripts)
    # Nothing to run is added, so that is the shell as before; whatever is there already is not touched.
    assert soliton("run", "base.sif", "-c", "echo shell").ok().out == "shell\n"
    soliton("build", "again.sif", "apps.sif").ok()
    assert (
        soliton("exec", "again.sif", "cat", "/.singularity.d/env/90-environment.sh").ok().out
        == own.read_text()
    )


def test_a_sandbox_and_back(soliton: Program, busybox_sif: Path) -> None:
    write(
        soliton,
        f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  mkdir -m 000 /locked\n  chown 5:5 /etc/group\n%test\n  echo tested\n",
    )
    assert "tested" in soliton("build", "--sandbox", "tree", "recipe.def").ok().out
    tree = soliton.cwd / "tree"
    assert all(os.lstat(path).st_uid == os.getuid() for path in tree.rglob("*"))
    (tree / "opt").mkdir(exist_ok=True)
    (tree / "opt/by hand").write_text("by hand\n")
    soliton("build", "image.sif", "tree").ok()
    assert sh(soliton, "image.sif", "cat '/opt/by hand'") == "by hand\n"
    subprocess.run(["rm", "-r", tree], check=True)


def test_dev_null_is_a_target_that_keeps_nothing(soliton: Program, busybox_sif: Path) -> None:
    write(soliton, f"Bootstrap: localimage\nFrom: {busybox_sif}\n%test\n  echo tested\n")
    assert "tested" in soliton("build", "--force", "/dev/null", "recipe.def").ok().out
    assert "--force" in fatal(soliton("build", "/dev/null", "recipe.def"))
    assert names(soliton) == {"recipe.def"} and Path("/dev/null").is_char_device()
    gone = soliton.having(TMPDIR=str(soliton.cwd / "gone"))
    assert "/gone" in fatal(gone("build", "--force", "/dev/null", "recipe.def"))


def test_its_owner_may_read_everything_of_an_image_if_asked_so(soliton: Program, tmp_path: Path) -> None:
    upper = (
        Layer().directory("closed", 0o000).add("closed/file", b"x", mode=0o000).add("kept", b"y", mode=0o444)
    )
    layout = write_layout(
        tmp_path / "layout",
        [(busybox_tar(tmp_path / "busybox.tar").read_bytes(), GZIP), (upper.bytes(), GZIP)],
    )
    look = "stat -c %a /closed /closed/file /kept"
    soliton("build", "--fix-perms", "open.sif", f"oci:{layout}").ok()
    assert sh(soliton, "open.sif", look) == "700\n600\n644\n"
    # What is said of packing holds for images from elsewhere, too.
    soliton("build", "--mksquashfs-args", "-comp gzip -all-root", "gzip.sif", f"oci:{layout}").ok()
    assert int.from_bytes(superblock(soliton, "gzip.sif")[20:22], "little") == 1  # gzip
    write(soliton, f"Bootstrap: oci\nFrom: {layout}\n%post\n  echo z > /closed/z; chmod 0 /closed/z\n")
    soliton("build", "--fix-perms", "--mksquashfs-args", "-all-root", "made.sif", "recipe.def").ok()
    assert sh(soliton, "made.sif", f"{look} /closed/z") == "700\n600\n644\n600\n"
    soliton("rebuild", "--check", "made.sif").ok()


def test_a_definition_over_an_existing_sandbox(soliton: Program, busybox_sif: Path) -> None:
    soliton("build", "--sandbox", "tree", busybox_sif).ok()
    (soliton.cwd / "file").write_text("file\n")
    write(
        soliton,
        "Bootstrap: busybox\n%setup\n  echo setup > $APPTAINER_ROOTFS/setup\n%files\n  file /opt/\n"
        "%post\n  echo post > /post; cat /opt/file\n%runscript\n  cat /setup /post /opt/file\n%labels\n  Updated yes\n%test\n  echo tested\n",
    )
    assert "tested" in soliton("build", "--update", "tree", "recipe.def").ok().out
    assert soliton("run", "tree").ok().out == "setup\npost\nfile\n"
    assert "Updated: yes" in soliton("inspect", "tree").ok().out
    assert not (soliton.cwd / "tree/.soliton-build").exists()
    subprocess.run(["rm", "-r", soliton.cwd / "tree"], check=True)


def test_an_existing_sandbox_is_kept_unless_forced(soliton: Program, busybox_sif: Path) -> None:
    (soliton.cwd / "tree").mkdir()
    (soliton.cwd / "tree/precious").write_text("x")
    assert "--force" in fatal(soliton("build", "--sandbox", "tree", busybox_sif))
    write(soliton, f"Bootstrap: localimage\nFrom: {busybox_sif}\n%post\n  false\n")
    fatal(soliton("build", "--force", "--sandbox", "tree", "recipe.def"))
    assert names(soliton) == {"tree", "recipe.def"} and (soliton.cwd / "tree/precious").exists()
    soliton("build", "--force", "--sandbox", "tree", busybox_sif).ok()
    assert not (soliton.cwd / "tree/precious").exists() and (soliton.cwd / "tree/bin/busybox").exists()


def test_owners_that_steps_give_count_in_the_image(soliton: Program, busybox_sif: Path) -> None:
    """With subordinate ids they are real; without, they are written down while the steps run."""
    write(
        soliton,
        f"Bootstrap: localimage\nFrom: {busybox_sif}\nStage: base\n%post\n"
        "  mkdir /a /b && echo x > /a/file && chown -R 5:6 /a && echo x > /b/file && chown 5:6 /b/file\n"
        "  chown 7 /a/file && chown :8 /a/file && mv /a/file /a/moved && ln /a/moved /a/hard\n"
        "  chmod 4755 /b/file && chown 9:9 /b/file && ! chown 1 /none && ln -s /a/moved /b/link && chown 10 /b/link\n"
        "  chown 1 /dev/stdout /proc/self/status || true\n"
        "  mkdir -p /c/d && chown 3000000:3 /c || chown 3:3 /c\n"
        "  ln -s /a/moved /c/new && busybox mkfifo /c/pipe && chown -h 11:12 /c/new && chown -R 13 /c/pipe && mv /c/new /a/link\n"
        "  ln -s x /c/gone && chown -h 14:14 /c/gone && rm /c/gone && ln -s x /c/other && chown -hR 15:15 /c/d\n",
    )
    soliton("build", "base.sif", "recipe.def").ok()
    files = listing(soliton, "base.sif")
    expected = {
        "/a": "5/6",
        "/a/moved": "10/0",
        "/a/hard": "10/0",
        "/a/link": "11/12",
        "/b": "0/0",
        "/b/file": "9/9",
        "/c/d": "15/15",
        "/c/pipe": "13/0",
        "/c/other": "0/0",
    }
    assert {path: files[path][1] for path in expected} == expected
    assert files["/b/file"][0] == "-rwxr-xr-x"
    # Upon that image: what is not changed stays, what is written to keeps its owner, what is made anew is root's.
    write(
        soliton,
        "Bootstrap: localimage\nFrom: base.sif\n%post\n"
        "  echo more >> /a/moved; touch /a/new; rm -r /b; mkdir /b; chown 0:0 /a/hard\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    files = listing(soliton, "image.sif")
    assert {path: files[path][1] for path in ("/a", "/a/moved", "/a/new", "/b", "/a/hard")} == {
        "/a": "5/6",
        "/a/moved": "10/0",
        "/a/new": "0/0",
        "/b": "0/0",
        "/a/hard": "0/0",
    }


def test_every_file_can_be_made_root_s(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n  mkdir /a && chown 5:6 /a\n")
    soliton("build", "--mksquashfs-args", "-all-root -comp zstd", "image.sif", "recipe.def").ok()
    assert listing(soliton, "image.sif")["/a"][1] == "0/0"


def test_a_definition_can_be_json(soliton: Program) -> None:
    (soliton.cwd / "a file").write_text("content")
    stages = [
        {"header": {"bootstrap": "busybox", "stage": "one"}, "buildData": {"buildScripts": {"post": {"script": "echo x > /made"}}}},
        {
            "header": {"bootstrap": "busybox"},
            "imageData": {
                "labels": {"A": "b c"},
                "imageScripts": {
                    "runScript": {"args": "-e", "script": "echo ran $#: $GREETING"},
                    "environment": {"args": "", "script": "export GREETING=hello"},
                    "help": {"script": "What it is for."},
                },
            },
            "buildData": {
                "files": [
                    {"args": "", "files": [{"source": "a file", "destination": "/opt/a file"}]},
                    {"args": "from one", "files": [{"source": "/made", "destination": ""}]},
                ],
                "buildScripts": {
                    "post": {"args": "-u", "script": "cat '/opt/a file' /made\n"},
                    "test": {"args": "", "script": "test -e /made"},
                    "pre": None,
                },
            },
            "customData": {"apprun foo": "echo app"},
            "raw": "",
        },
    ]  # fmt: skip
    write(soliton, json.dumps(stages), "recipe.json")
    soliton("build", "--json", "image.sif", "recipe.json").ok()
    assert soliton("run", "image.sif", "x").ok().out == "ran 1: hello\n"
    assert soliton("run", "--app", "foo", "image.sif").ok().out == "app\n"
    assert soliton("inspect", "image.sif").ok().out.splitlines()[0] == "A: b c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Bootstrap: busybox\n", "recipe.json:1:1: not JSON"),
        ("[1]", "the definition is no object"),
        ('{"header": {"bootstrap": "busybox\\nFrom: x"}}', "`bootstrap` in `header` is no line"),
        ('{"header": {"bootstrap": "busybox"}, "buildData": {"files": {}}}', "`files` is no array"),
        ('{"header": {"nonsense": "x"}}', "unknown keyword `nonsense`"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_json_that_is_no_definition(soliton: Program, text: str, said: str) -> None:
    write(soliton, text, "recipe.json")
    message = fatal(soliton("build", "--json", "image.sif", "recipe.json"))
    assert said in message and len(message.splitlines()) <= 3
    assert names(soliton) == {"recipe.json"}


def test_another_architecture_needs_no_programs_or_an_emulator(soliton: Program) -> None:
    """What is only put together can be for any machine; what would have to run is refused before anything is done."""
    (soliton.cwd / "file").write_text("x")
    write(soliton, "Bootstrap: scratch\n%files\n  file /file\n")
    soliton("build", "--arch", "s390x", "image.sif", "recipe.def").ok()
    write(soliton, "Bootstrap: dnf\nMirrorURL: /repository\n")
    message = fatal(soliton("build", "--force", "--arch", "s390x", "image.sif", "recipe.def"))
    assert "`--arch s390x` with `Bootstrap: dnf`" in message
    write(soliton, "Bootstrap: busybox\n")
    assert "s390x" in fatal(soliton("build", "--force", "--arch", "s390x", "image.sif", "recipe.def"))
    write(soliton, "Bootstrap: scratch\n%files\n  file /file\n%post\n  true\n")
    soliton("build", "--arch", host_architecture(), "--force", "image.sif", "recipe.def")
    if runnable("s390x"):
        return  # the administrator has registered an emulator
    without = soliton.having(PATH=NO_EMULATORS)
    message = fatal(without("build", "--force", "--arch", "s390x", "image.sif", "recipe.def"))
    assert "`%post` in stage 1 would have to run programs for s390x" in message
    assert "qemu-user-static" in message


def test_post_in_an_image_of_another_architecture_is_refused(soliton: Program) -> None:
    if runnable("s390x"):
        return  # the administrator has registered an emulator
    head = elf_head("s390x")
    assert head is not None
    (soliton.cwd / "program").write_bytes(head + bytes(44))
    (soliton.cwd / "program").chmod(0o755)
    write(soliton, "Bootstrap: scratch\n%files\n  program /bin/sh\n")
    soliton("build", "base.sif", "recipe.def").ok()
    write(soliton, "Bootstrap: localimage\nFrom: base.sif\n%post\n  true\n")
    message = fatal(soliton.having(PATH=NO_EMULATORS)("build", "image.sif", "recipe.def"))
    assert "`base.sif` cannot run on this machine" in message and "made for s390x" in message
    assert "qemu-user-static" in message


#: What writes `emulated` and ends, in the words of arm64.
EMULATED = (0xD2800020, 0x100000E1, 0xD2800122, 0xD2800808, 0xD4000001, 0xD2800000, 0xD2800BA8, 0xD4000001)


def arm64_program() -> bytes:
    """A static program of one segment (elf(5))."""
    text = b"".join(word.to_bytes(4, "little") for word in EMULATED) + b"emulated\n"
    start, head = 0x400000, 64 + 56
    size = head + len(text)
    program = struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 0x10000)
    rest = struct.pack("<IQQQIHHHHHH", 1, start + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    found = elf_head("arm64")
    assert found is not None
    return found + rest + program + text


def test_steps_of_another_architecture_run_in_a_container_that_has_its_own_emulator(soliton: Program) -> None:
    (soliton.cwd / "program").write_bytes(arm64_program())
    (soliton.cwd / "program").chmod(0o755)
    write(soliton, "Bootstrap: scratch\n%files\n  program /bin/sh\n%post\n  this\n%test\n  that\n")
    if not has_tables(os.uname().release):
        assert "binfmt_misc" in fatal(soliton("build", "--arch", "arm64", "image.sif", "recipe.def"))
        return
    result = soliton("build", "--arch", "arm64", "image.sif", "recipe.def").ok()
    assert result.out == "emulated\nemulated\n"
    assert "arm64" in soliton("sif", "header", "image.sif").ok().out
    # What one container registers is nobody else's.
    assert runnable("arm64") or soliton("exec", "image.sif", "/bin/sh").status == 255


def test_packages_of_another_architecture_are_set_up_by_their_own_programs(soliton: Program) -> None:
    """debootstrap only unpacks: its second stage, here one program that says that it ran, is a step in the new root."""
    if not has_tables(os.uname().release):
        return
    (soliton.cwd / "program").write_bytes(arm64_program())
    tools = soliton.cwd / "tools"
    tools.mkdir()
    (tools / "debootstrap").write_text(
        '#!/bin/sh\ncase "$*" in *--foreign*--arch=arm64*) ;; *) exit 9 ;; esac\n'
        "for word; do case $word in /*) target=$word ;; esac; done\n"
        f'mkdir "$target/debootstrap" && install "{soliton.cwd}/program" "$target/debootstrap/debootstrap"\n'
    )
    (tools / "debootstrap").chmod(0o755)
    write(soliton, "Bootstrap: debootstrap\nOSVersion: stable\n")
    there = soliton.having(PATH=f"{tools}:{os.environ['PATH']}")
    result = there("build", "--arch", "arm64", "image.sif", "recipe.def").ok()
    assert "emulated" in result.out + result.err
    assert "arm64" in soliton("sif", "header", "image.sif").ok().out
    assert "(cached)" not in there("build", "--force", "image.sif", "recipe.def").err


def test_a_busybox_of_another_architecture_tells_its_own_applets(soliton: Program) -> None:
    if not has_tables(os.uname().release):
        return
    (soliton.cwd / "program").write_bytes(arm64_program())
    files = partial(SimpleHTTPRequestHandler, directory=str(soliton.cwd))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write(soliton, f"Bootstrap: busybox\nMirrorURL: http://127.0.0.1:{server.server_port}/program\n")
        soliton("build", "--arch", "arm64", "image.sif", "recipe.def").ok()
        message = fatal(soliton("build", "--force", "--arch", "s390x", "image.sif", "recipe.def"))
        server.shutdown()
    assert "arm64" in soliton("sif", "header", "image.sif").ok().out
    assert "is for arm64 and not for s390x" in message


def test_an_owner_of_the_host_s_files_is_not_written_down(soliton: Program) -> None:
    data = soliton.cwd / "data"
    data.mkdir()
    (data / "file").write_text("mine")
    write(
        soliton,
        "Bootstrap: busybox\n%setup\n  chown 5:5 data/file || true\n%post\n  chown -R 5:5 /mnt || true\n",
    )
    soliton("build", "--bind", f"{data}:/mnt", "image.sif", "recipe.def")
    assert os.listxattr(data / "file") == [] and os.listxattr(data) == []


def test_scratch_holds_what_files_bring(soliton: Program) -> None:
    busybox = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
    write(soliton, f"Bootstrap: scratch\n%files\n  {busybox} /bin/busybox\n%runscript\n  echo never\n")
    soliton("build", "image.sif", "recipe.def").ok()
    out = soliton("exec", "image.sif", "/bin/busybox", "ls", "/").ok().out.split()
    assert {"bin", "dev", "etc", "proc", "sys", "tmp", "var", "singularity"} <= set(out)


def test_an_image_of_another_implementation_is_built_upon(soliton: Program, foreign: Path) -> None:
    write(
        soliton,
        f"Bootstrap: localimage\nFrom: {foreign / 'plain.sif'}\n%post\n  echo more >> /opt/stage\n  test \"$GREETING\" = 'hello from the image'\n",
    )
    soliton("build", "image.sif", "recipe.def").ok()
    assert sh(soliton, "image.sif", "cat /opt/stage") == "built\nmore\n"
    assert (
        soliton("run", "image.sif", "one", "two").ok().out == "run: hello from the image\nargs: 2 one two\n"
    )
    assert soliton("run", "--app", "foo", "image.sif", "x").ok().out == "app foo: x foo-file\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_nothing(soliton: Program, number: int) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n    echo started\n    sleep 1000\n")
    process = soliton.start("build", "image.sif", "recipe.def")
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    os.kill(process.pid, number)
    process.communicate(timeout=AMPLE)
    assert process.returncode in (128 + number, -number)
    assert names(soliton) == {"recipe.def"}


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35, 0.5, 0.7])
def test_a_build_interrupted_anywhere_leaves_nothing_or_an_image(everything: Program, delay: float) -> None:
    soliton = everything
    process = soliton.start("build", "image.sif", "recipe.def")
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=AMPLE)
    left = names(soliton) - {"recipe.def", "a file", "pre.log", "setup.log"}
    assert left == {"image.sif"} or (process.returncode and not left)
    if left:
        soliton("exec", "image.sif", "true").ok()


def test_two_builds_at_once(everything: Program) -> None:
    soliton = everything
    builds = [soliton.start("build", f"image {n}.sif", "recipe.def") for n in range(2)]
    for build in builds:
        _, err = build.communicate(timeout=AMPLE)
        assert build.returncode == 0, err.decode()
    for n in range(2):
        assert soliton("test", f"image {n}.sif").ok().out == "the test ran\n"


def test_a_read_only_home_does_not_matter(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n%post\n  true\n")
    soliton.home.chmod(0o555)
    try:
        soliton("build", "image.sif", "recipe.def").ok()
    finally:
        soliton.home.chmod(0o755)


def test_names_with_blanks_and_beyond_ascii(soliton: Program) -> None:
    folder = soliton.cwd / "ein Ordner äöü"
    folder.mkdir()
    temporary = soliton.cwd / "tmp mit Leerzeichen,und:Komma"
    temporary.mkdir()
    (folder / "die Datei.def").write_text(
        'Bootstrap: busybox\n%setup\n  touch "$APPTAINER_ROOTFS/ä"\n%post\n  test -e /ä\n%test\n  true\n'
    )
    soliton.within(folder)("build", "--tmpdir", temporary, "das Bild.sif", "die Datei.def").ok()
    soliton("exec", folder / "das Bild.sif", "test", "-e", "/ä").ok()
    assert list(temporary.iterdir()) == []


def test_a_temporary_directory_that_does_not_exist(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n")
    message = fatal(soliton.having(SOLITON_TMPDIR="/no/such/place")("build", "image.sif", "recipe.def"))
    assert "/no/such/place" in message and "SOLITON_TMPDIR" in message


def test_a_user_s_bind_is_there_in_post_and_not_in_the_image(soliton: Program) -> None:
    (soliton.cwd / "data").mkdir()
    (soliton.cwd / "data/file").write_text("data\n")
    write(soliton, "Bootstrap: busybox\n%post\n  cp /mnt/data/file /copied\n")
    soliton("build", "--bind", f"{soliton.cwd}/data:/mnt/data", "image.sif", "recipe.def").ok()
    assert sh(soliton, "image.sif", "cat /copied; ls /mnt 2>/dev/null || echo none") == "data\nnone\n"


def superblock(soliton: Program, image: str) -> bytes:
    table = soliton("sif", "list", image).ok().out
    offset = int(next(line for line in table.splitlines() if "Squashfs" in line).split("|")[3].split("-")[0])
    with open(soliton.cwd / image, "rb") as file:
        file.seek(offset)
        return file.read(32)


def test_how_it_is_packed_can_be_said(soliton: Program) -> None:
    write(soliton, "Bootstrap: busybox\n")
    soliton(
        "build", "--mksquashfs-args", "-comp gzip -Xcompression-level 9 -b 256K", "image.sif", "recipe.def"
    ).ok()
    head = superblock(soliton, "image.sif")
    assert int.from_bytes(head[20:22], "little") == 1  # gzip
    assert int.from_bytes(head[12:16], "little") == 256 << 10
    message = fatal(soliton("build", "-F", "--mksquashfs-args", "-no-xattrs", "image.sif", "recipe.def"))
    assert "not supported yet" in message


def test_an_agent_that_is_not_built_yet_says_so(soliton: Program) -> None:
    write(soliton, "Bootstrap: buildkit\nFrom: x\n")
    message = fatal(soliton("build", "image.sif", "recipe.def"))
    assert "not supported yet" in message and "buildkit" in message


def test_a_source_that_is_nothing(soliton: Program) -> None:
    message = fatal(soliton("build", "image.sif", "alpine:3.19"))
    assert "no such file: `alpine:3.19`" in message and "docker://alpine:3.19" in message
    assert stat.S_ISDIR(os.stat(soliton.cwd).st_mode) and names(soliton) == set()
