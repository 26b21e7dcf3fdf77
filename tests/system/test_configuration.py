"""`soliton.toml` and `--explain` as a user meets them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.program import Program

#: An /etc of one's own, in a namespace where the caller's files are root's, as those of a site are outside.
AS_SITE = """
mkdir "$HOME/etc" && cp /etc/passwd /etc/group "$HOME/etc/" && mkdir -p "$HOME/etc/soliton" && chmod -R go-w "$HOME/etc"
printf '%s\\n' "$RULES" > "$HOME/etc/soliton/soliton.toml"
mount --bind "$HOME/etc" /etc && exec "$@"
"""


def under(soliton: Program, rules: str) -> Program:
    """The program on a machine whose site has these rules."""
    program = replace(soliton, wrapper=("unshare", "-Urm", "sh", "-c", AS_SITE, "sh"))
    return program.having(RULES=rules)


@pytest.fixture
def settings(soliton: Program) -> Path:
    folder = soliton.home / ".config/soliton"
    folder.mkdir(parents=True)
    return folder / "soliton.toml"


def test_a_wish_of_the_user_holds_and_is_explained(
    soliton: Program, settings: Path, busybox_sif: Path
) -> None:
    data = soliton.cwd / "with blank é"
    data.mkdir()
    (data / "file").touch()
    soliton("config", "set", "bind-path", f"{data}:/data:ro").ok()
    assert soliton("exec", busybox_sif, "ls", "/data").ok().out == "file\n"
    assert soliton("exec", busybox_sif, "touch", "/data/x").status != 0
    shown = soliton("exec", "--explain", busybox_sif, "true").ok().out
    assert f"bind-path ({settings}:1)" in shown
    record = json.loads(soliton("exec", "--explain", "--json", "-C", busybox_sif, "true").ok().out)
    assert record["plan"]["process"]["argv"] == ["true"]
    # A start that was stored before must not outlive the wish.
    soliton("config", "unset", "bind-path").ok()
    assert soliton("exec", busybox_sif, "ls", "/data").status != 0


def test_a_line_that_makes_no_sense_ends_every_start(
    soliton: Program, settings: Path, busybox_sif: Path
) -> None:
    soliton("exec", busybox_sif, "true").ok()
    settings.write_text("mount-home = yes\n")
    failed = soliton("exec", busybox_sif, "true")
    assert failed.status == 255
    assert str(settings) in failed.err and len(failed.err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("rules", "words", "told"),
    [
        ("user-bind-control = false", ["--bind", "/usr:/mnt"], "user-bind-control = false"),
        ("allow-pid-ns = false", ["--pid"], "allow-pid-ns = false"),
        ("allow-container-sif = false", [], "allow-container-sif = false"),
        ('limit-container-paths = ["/images"]', [], "allowed: /images"),
    ],
)
def test_what_a_rule_of_the_site_forbids_is_refused(
    soliton: Program, busybox_sif: Path, rules: str, words: list[str], told: str
) -> None:
    failed = under(soliton, rules)("exec", *words, busybox_sif, "true")
    assert failed.status == 255, failed
    assert told in failed.err


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("allow-container-dir = false", ["--overlay", "directory"]),
        ("allow-container-dir = false", ["--overlay", "directory:ro"]),
        ("allow-container-dir = false", ["--bind", "directory:/mnt:image-src=/etc"]),
        ("allow-container-squashfs = false", ["--overlay", "other.squashfs"]),
        ("allow-container-squashfs = false", ["--data", "other.squashfs:/mnt"]),
        (
            "allow-container-squashfs = false",
            ["--mount", "type=bind,src=other.squashfs,dst=/mnt,image-src=/"],
        ),
        ('limit-container-paths = ["{allowed}"]', ["--overlay", "directory"]),
        ('limit-container-paths = ["{allowed}"]', ["--data", "other.squashfs:/mnt"]),
    ],
)
def test_rules_about_images_hold_for_whatever_a_container_is_made_of(
    soliton: Program, busybox_sif: Path, busybox_sandbox: Path, rules: str, words: list[str]
) -> None:
    shutil.copytree(busybox_sandbox / "etc", soliton.cwd / "directory/etc")
    header = soliton("sif", "list", busybox_sif).ok().out
    (start, end) = next(
        word.split("-")
        for line in header.splitlines()
        if "FS" in line
        for word in line.split("|")
        if "-" in word
    )
    with open(busybox_sif, "rb") as image:
        image.seek(int(start))
        (soliton.cwd / "other.squashfs").write_bytes(image.read(int(end.strip()) - int(start)))
    soliton("exec", *words, busybox_sif, "true").ok()
    rule = rules.format(allowed=busybox_sif.parent)
    failed = under(soliton, rule)("exec", *words, busybox_sif, "true")
    assert failed.status == 255, failed
    assert rule.partition(" =")[0] in failed.err
    assert len(failed.err.splitlines()) <= 3
    under(soliton, rule)("exec", busybox_sif, "true").ok()


def test_a_user_can_neither_lift_a_lock_nor_a_rule(soliton: Program, settings: Path) -> None:
    settings.write_text("mount-tmp = true\n")
    site = under(soliton, 'mount-tmp = false\nlocked = ["mount-tmp"]')
    shown = site("config", "show", "--origin", "mount-tmp").ok()
    assert shown.out.startswith("mount-tmp = false  # /etc/soliton/soliton.toml:1")
    assert "is not used: /etc/soliton/soliton.toml:2 locks it" in shown.err
    settings.write_text("allow-pid-ns = true\n")
    assert soliton("config", "show").status == 255


def test_a_peer_s_configuration_becomes_the_user_s(soliton: Program, settings: Path) -> None:
    (soliton.cwd / "apptainer.conf").write_text("allow setuid = no\nbind path = /etc/hosts\nmount tmp = no\n")
    soliton("config", "import", "apptainer.conf").ok()
    assert soliton("config", "get", "bind-path").ok().out.splitlines()[-1] == "/etc/hosts"
    assert soliton("config", "get", "mount tmp").ok().out == "false\n"
    again = soliton("config", "import", "apptainer.conf")
    assert again.status == 255 and "--force" in again.err


def test_the_file_of_the_site_is_not_for_everybody_to_change(soliton: Program) -> None:
    failed = soliton("config", "global", "--set", "mount tmp", "no")
    assert failed.status == 255 and "--user" in failed.err
    chosen = soliton("--config", "/dev/null", "config", "show")
    assert chosen.status == 255 and "`--config`" in chosen.err


def test_what_of_the_host_s_languages_stays_out(soliton: Program, busybox_sif: Path) -> None:
    host = soliton.having(PYTHONPATH="/opt/host", CONDA_PREFIX="/opt/conda")
    guarded = host("exec", busybox_sif, "env").ok()
    assert "CONDA_PREFIX" not in guarded.out and "PYTHONPATH" not in guarded.out
    assert "PYTHONNOUSERSITE=1" in guarded.out
    assert guarded.err == (
        "INFO:    CONDA_PREFIX, PYTHONPATH of the host would mislead the container and stay out, whole or in part;"
        " `--no-guard` passes everything\n"
    )
    # Twice, for the second may be one that was stored.
    for _ in range(2):
        passed = host("exec", "--no-guard", busybox_sif, "env").ok()
        assert "CONDA_PREFIX=/opt/conda" in passed.out and "PYTHONNOUSERSITE" not in passed.out
        assert passed.err == ""
