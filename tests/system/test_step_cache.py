"""The step cache as a user meets it: what runs again, why, and that it makes no difference to the image."""

from __future__ import annotations

import hashlib
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.program import AMPLE, Program

RECIPE = """\
Bootstrap: localimage
From: {base}
%files
    data.txt /opt/data.txt
%post
    WORD=common
    # soliton: step first
    echo "$WORD one" >> /opt/one
    rm -rf /var && mkdir /var && echo kept > /var/new
    # soliton: step second
    test "$WORD" = common
    echo two >> /opt/two
    rm /bin/uname
    touch /tmp/scrap
    # soliton: step third
    echo three >> /opt/three
%runscript
    echo ran
"""


@pytest.fixture
def recipe(soliton: Program, busybox_sif: Path) -> Path:
    (soliton.cwd / "data.txt").write_text("data\n")
    path = soliton.cwd / "recipe.def"
    path.write_text(RECIPE.format(base=busybox_sif))
    return path


def build(soliton: Program, *options: str) -> str:
    return soliton("build", "--force", *options, "image.sif", "recipe.def").ok().err


def digest(soliton: Program) -> str:
    return hashlib.sha256((soliton.cwd / "image.sif").read_bytes()).hexdigest()


def test_only_what_changed_runs_again_and_the_bytes_are_the_same(soliton: Program, recipe: Path) -> None:
    err = build(soliton)
    assert "(cached)" not in err and "%post 2/3: second" in err
    first = digest(soliton)
    shown = soliton("exec", "image.sif", "sh", "-c", "cat /opt/*; ls /var /opt /bin").out
    assert shown.startswith("data\ncommon one\nthree\ntwo\n") and "new" in shown and "uname" not in shown
    assert "is up to date" in build(soliton)
    (soliton.cwd / "image.sif").unlink()
    err = build(soliton)
    assert err.count("(cached)") == 4 and "+ echo" not in err
    assert digest(soliton) == first
    assert "(cached)" not in build(soliton, "--no-cache")
    assert digest(soliton) == first
    assert "(cached)" not in build(soliton, "--disable-cache")
    assert digest(soliton) == first

    recipe.write_text(recipe.read_text().replace("echo three", "echo 3"))
    err = build(soliton, "--explain-cache")
    assert err.count("(cached)") == 3
    assert "%post 3/3: third runs: the text of the script differs" in err
    (soliton.cwd / "data.txt").write_text("other\n")
    err = build(soliton, "--explain-cache")
    assert "%files runs: `data.txt` differs" in err and "first runs: a step before it has run" in err


def test_after_a_failure_the_next_build_goes_on_before_it(soliton: Program, recipe: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("echo three", "false #"))
    failed = soliton("build", "image.sif", "recipe.def")
    assert failed.status == 255 and not (soliton.cwd / "image.sif").exists()
    recipe.write_text(text)
    err = soliton("build", "image.sif", "recipe.def").ok().err
    assert err.count("(cached)") == 3 and "+ echo three" in err


def test_a_setup_always_runs_but_what_follows_only_if_it_wrote_something_else(
    soliton: Program, busybox_sif: Path
) -> None:
    text = f"Bootstrap: localimage\nFrom: {busybox_sif}\n%setup\n    cp from-host $SOLITON_ROOTFS/x\n%post\n    echo yes\n"
    (soliton.cwd / "recipe.def").write_text(text)
    (soliton.cwd / "from-host").write_text("1")
    assert "(cached)" not in build(soliton)
    err = build(soliton, "--explain-cache")
    assert "%setup runs: it sees the host" in err and "%post (cached)" in err
    (soliton.cwd / "from-host").write_text("2")
    assert "+ echo yes" in build(soliton)


def test_two_builds_share_a_cache_and_one_that_is_full_is_emptied(soliton: Program, recipe: Path) -> None:
    both = [soliton.start("build", f"{name}.sif", "recipe.def") for name in ("a", "b")]
    assert [child.wait(AMPLE) for child in both] == [0, 0]
    one, two = ((soliton.cwd / f"{name}.sif").read_bytes() for name in ("a", "b"))
    assert one == two
    layers = soliton.home / "cache" / "steps" / "layers"
    assert len(list(layers.iterdir())) == 4
    assert "steps" in soliton("cache", "list", "--verbose").ok().out
    soliton.having(SOLITON_STEP_CACHE_SIZE="0")("build", "c.sif", "recipe.def").ok()
    assert not list(layers.iterdir())
    soliton("build", "d.sif", "recipe.def").ok()
    soliton("cache", "clean", "--force", "--type", "steps").ok()
    assert not list(layers.iterdir())


def test_a_cache_that_cannot_be_written_is_no_obstacle(soliton: Program, recipe: Path) -> None:
    (soliton.home / "cache").mkdir()
    (soliton.home / "cache").chmod(0o500)
    try:
        err = soliton("build", "image.sif", "recipe.def").ok().err
    finally:
        (soliton.home / "cache").chmod(0o700)
    assert "results of steps are not kept" in err


def test_builds_at_once_do_not_take_room_from_each_other(soliton: Program, recipe: Path) -> None:
    """Every one of them makes room for others at its end, down to nothing."""
    greedy = soliton.having(SOLITON_STEP_CACHE_SIZE="0")
    for round in range(2):
        builds = [
            (greedy if number % 2 else soliton).start("build", f"{round}{number}.sif", "recipe.def")
            for number in range(4)
        ]
        for build in builds:
            _, err = build.communicate(timeout=AMPLE)
            assert build.returncode == 0, err.decode()
    images = {path.read_bytes() for path in soliton.cwd.glob("??.sif")}
    assert len(images) == 1


def test_a_damaged_result_is_made_again(soliton: Program, recipe: Path) -> None:
    build(soliton)
    first = digest(soliton)
    layers = soliton.home / "cache/steps/layers"
    for number, path in enumerate(sorted(layers.iterdir())):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data) if number else b"")
    (soliton.cwd / "image.sif").unlink()
    err = build(soliton)
    assert "is damaged, so the step is done again" in err
    assert digest(soliton) == first
    (soliton.cwd / "image.sif").unlink()
    assert build(soliton).count("(cached)") == 4


def test_a_cache_without_room_is_no_obstacle(soliton: Program, recipe: Path) -> None:
    (soliton.cwd / "data.txt").write_bytes(random.Random(1).randbytes(3 << 20))
    script = f'mkdir -p "{soliton.home}/cache" && mount -t tmpfs -o size=1m none "{soliton.home}/cache" && exec "$@"'
    small = replace(soliton, wrapper=("unshare", "-Urm", "sh", "-c", script, "sh"))
    err = small("build", "image.sif", "recipe.def").ok().err
    assert "a result of a step is not kept: " in err and "Traceback" not in err
    assert soliton("exec", "image.sif", "cat", "/opt/two").ok().out == "two\n"


def test_a_cache_that_others_can_write_to_is_not_used(soliton: Program, recipe: Path) -> None:
    build(soliton)
    (soliton.home / "cache/steps/layers").chmod(0o777)
    err = build(soliton, "--no-cache")
    assert "(others can write to it); results of steps are not kept" in err


def test_a_key_does_not_tell_secrets(soliton: Program, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("echo three", "echo {{ TOKEN }}"))
    build(soliton, "--build-arg", "TOKEN=hunter2hunter2")
    found = subprocess.run(
        ["grep", "-rl", "hunter2hunter2", soliton.home / "cache" / "steps" / "recipes"],
        capture_output=True,
        check=False,
    )
    assert found.stdout == b""


def test_a_failure_is_told_with_its_line_and_its_log(soliton: Program, recipe: Path) -> None:
    recipe.write_text(
        recipe.read_text().replace(
            "    echo three", "    seq 100 >&2\n    if true; then\n        false\n    fi\n#"
        )
    )
    failed = soliton("build", "image.sif", "recipe.def")
    line = recipe.read_text().splitlines().index("        false") + 1
    assert f"`%post` failed with exit status 1 (recipe.def:{line})" in failed.err
    assert "+ false" in failed.err.splitlines()[-2] and "PS4" not in failed.err and "\x1d" not in failed.err
    log = Path(failed.err.split("all of it is in ")[1].split(";")[0])
    assert "\n57\n" in log.read_text() and "common one" not in log.read_text()
    assert not (soliton.cwd / "image.sif").exists()
    recipe.write_text(recipe.read_text().replace("        false", "        true"))
    soliton("build", "image.sif", "recipe.def").ok()
    assert not log.exists()


def test_a_shell_in_a_failed_step_sees_what_it_wrote(soliton: Program, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("echo three >> /opt/three", "echo half > /opt/half; false"))
    told = soliton(
        "build", "--debug-shell", "image.sif", "recipe.def", stdin="cat /opt/half /opt/two; id -u\n"
    )
    assert told.status == 255 and "half\ntwo\n0\n" in told.out
    assert "failed with exit status 1" in told.err
    soliton("build", "--no-cache", "image.sif", "recipe.def", stdin="exit 0\n")
    assert not (soliton.cwd / "image.sif").exists()
