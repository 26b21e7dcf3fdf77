"""Which steps a build has, in which order, and what each one's plan says: decided before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from soliton.build import plans, stage
from soliton.build.compression import Packing
from soliton.build.compression import parse as read_packing
from soliton.build.definition import Definition, Files, parse
from soliton.build.steps import Choice, plan_steps, post_section, read_sections
from soliton.build.transfers import Transfer
from soliton.errors import BuildError, NotSupported, UsageError
from soliton.launch.plan import (
    Bind,
    Copy,
    Dev,
    DirectoryRoot,
    Identity,
    IdRange,
    ImageRoot,
    Proc,
    SynthesizedFile,
    UpperSurface,
)

EVERYTHING = """
Bootstrap: docker
From: alpine
Stage: build
%post
  make
Bootstrap: scratch
%pre
  pre
%setup
  setup
%files from build
  /out /in
%files
  a b
%post
  post
%test
  test
%runscript
  run
%appinstall foo
  install
%appfiles foo
  x
"""


def read(text: str) -> Definition:
    return parse(text.lstrip().encode(), "test.def")


def titles(text: str, choice: Choice | None = None) -> list[str]:
    return [f"{step.stage}:{step.title}" for step in plan_steps(read(text), choice or Choice())]


def test_the_order_of_steps_is_the_contract_s() -> None:
    assert titles(EVERYTHING) == [
        "0:docker alpine",
        "0:%post",
        "1:%pre",
        "1:scratch",
        "1:%appfiles foo",
        "1:%files from build",
        "1:%setup",
        "1:%files",
        "1:%post",
        "1:image",
        "1:%test",
    ]


def test_section_limits_what_can_be_limited() -> None:
    limited = titles(EVERYTHING, Choice(sections=frozenset({"labels"})))
    assert limited[-5:] == [
        "1:%pre",
        "1:scratch",
        "1:%appfiles foo",
        "1:%post",
        "1:image",
    ]


def test_notest_leaves_out_the_test() -> None:
    assert titles(EVERYTHING, Choice(test=False))[-1] == "1:image"


def test_a_test_of_an_earlier_stage_runs_too() -> None:
    text = "Bootstrap: scratch\n%test\n true\nBootstrap: scratch\n%help\n h\n"
    assert titles(text) == ["0:scratch", "0:keeping stage", "0:%test", "1:scratch", "1:image"]


def test_an_update_does_not_bootstrap_again() -> None:
    assert titles("Bootstrap: scratch\n%post\n true\n", Choice(update=True)) == ["0:%post", "0:image"]


def test_sections_without_content_are_no_steps() -> None:
    assert titles("Bootstrap: scratch\n%post\n\n%setup\n%files\n # nothing\n%test\n\n") == [
        "0:scratch",
        "0:image",
    ]


def test_apps_are_installed_behind_post() -> None:
    section = post_section(read(EVERYTHING).stages[1])
    assert section is not None
    post, _, install = section.body.partition("cd /scif/apps/foo\n")
    assert post.startswith("  post\n") and install.startswith("  install\n")


def test_words_of_section_are_checked() -> None:
    assert read_sections(["all"]) is None
    assert read_sections([]) is None
    assert read_sections(["labels", "%Help"]) == frozenset({"labels", "help"})
    with pytest.raises(UsageError, match="lables"):
        read_sections(["lables"])


@pytest.fixture
def place(tmp_path: Path) -> str:
    for name in ("a", "b c", "x1", "x2", "[y]", "sub/z1", "sub/z2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return str(tmp_path)


def copies(place: str, *transfers: tuple[str, str | None], app: str | None = None) -> list[tuple[str, str]]:
    files = Files(tuple(Transfer(source, target, 7) for source, target in transfers), 6, app=app)
    planned = stage.plan_copies(files, None, place, "x.def")
    assert all(copy.follow and copy.from_root is None for copy in planned)
    return [(copy.source.removeprefix(place), copy.target) for copy in planned]


def test_a_file_without_a_target_keeps_its_path(place: str) -> None:
    assert copies(place, ("sub/z1", None), ("b c", None)) == [("/sub/z1", "/sub/z1"), ("/b c", "/b c")]


def test_targets_are_absolute(place: str) -> None:
    assert copies(place, ("a", "opt"), ("a", "/opt/")) == [("/a", "/opt"), ("/a", "/opt/")]


def test_patterns_are_looked_for_in_the_working_directory(place: str) -> None:
    assert copies(place, ("x*", "/opt")) == [("/x1", "/opt/"), ("/x2", "/opt/")]
    assert copies(place, ("sub/z?", None)) == [("/sub/z1", "/sub/z1"), ("/sub/z2", "/sub/z2")]
    assert copies(place, ("{a,x2}", "/opt/")) == [("/a", "/opt/"), ("/x2", "/opt/")]
    assert copies(place, ("**/z1", "/opt")) == [("/sub/z1", "/opt")]


def test_a_name_that_looks_like_a_pattern_is_a_name(place: str) -> None:
    assert copies(place, ("[y]", "/y")) == [("/\\[y]", "/y")]


@pytest.mark.parametrize("source", ["none", "none*", "/none", "{}"])
def test_a_missing_file_is_said_with_its_line(place: str, source: str) -> None:
    with pytest.raises(BuildError, match=r"x\.def:7: no"):
        copies(place, (source, "/y"))


def test_files_of_another_stage_are_found_in_its_root() -> None:
    files = Files((Transfer("c", None, 1), Transfer("/d*", "e", 2)), 1, stage="build")
    root = ImageRoot("/x", 0, 4096)
    assert stage.plan_copies(files, root, "/w", "x.def") == [
        Copy("/c", "", follow=False, from_root=root),
        Copy("/d*", "/e", follow=False, from_root=root),
    ]


def test_files_of_an_app_go_to_its_directory(place: str) -> None:
    assert copies(place, ("a", None), ("a", "/y"), app="foo") == [
        ("/a", "/scif/apps/foo/a"),
        ("/a", "/scif/apps/foo/y"),
    ]


MANY = Identity(0, 0, (IdRange(0, 1000, 1), IdRange(1, 100000, 65536)), (IdRange(0, 1000, 1),))
ONE = Identity(0, 0, (IdRange(0, 1000, 1),), (IdRange(0, 1000, 1),))


def scene(identity: Identity, **more: object) -> plans.Scene:
    return plans.Scene(
        identity,
        DirectoryRoot("/base"),
        UpperSurface("/upper", "/work"),
        {"HOME": "/home/u", "TERM": "xterm", "http_proxy": "p", "SECRET": "s", "SOURCE_DATE_EPOCH": "1"},
        hosts="127.0.0.1 localhost",
        **more,  # type: ignore[arg-type]
    )


def test_post_runs_as_root_with_a_clean_environment() -> None:
    plan = plans.in_container(scene(MANY, epoch=9), ("/bin/sh", "-ex", plans.SCRIPT), "echo\n")
    environment = plan.process.environment
    same = {"SOURCE_DATE_EPOCH": "9", "PYTHONHASHSEED": "0"}
    assert environment.host == {"TERM": "xterm", "http_proxy": "p", "LANG": "C", **same}
    assert environment.fixed["HOME"] == "/root"
    assert environment.fixed["APPTAINER_ENVIRONMENT"] == "/.singularity.d/env/91-environment.sh"
    assert {f"{p}_LABELS" for p in ("SOLITON", "APPTAINER", "SINGULARITY")} <= set(environment.fixed)
    assert plan.process.cwd == ("/",)
    assert plan.process.umask == 0o022
    assert plan.process.capabilities == "all" and plan.process.no_new_privs
    assert (plan.namespaces, plan.hostname) == (("pid", "uts"), "localhost")
    assert SynthesizedFile(plans.SCRIPT, "echo\n", 0o755, origin="%post") in plan.mounts
    assert Proc(origin="build") in plan.mounts and Dev(minimal=True, origin="build") in plan.mounts


def test_root_is_emulated_only_where_there_is_a_single_id() -> None:
    many = plans.in_container(scene(MANY), ("x",), "")
    one = plans.in_container(scene(ONE), ("x",), "")
    assert not many.process.emulate_root and one.process.emulate_root
    assert many.process.emulate_devices
    assert not plans.in_container(scene(Identity(0, 0)), ("x",), "").process.emulate_devices
    # apt gives nothing to a user of its own, whoever builds.
    for plan in (many, one):
        assert plan.process.environment.fixed["APT_CONFIG"] == plans.APT_CONF
        assert any(
            isinstance(mount, SynthesizedFile) and mount.target == plans.APT_CONF for mount in plan.mounts
        )


def test_the_host_s_hosts_do_not_cover_a_bind_of_the_user() -> None:
    bind = Bind("/my/hosts", "/etc/hosts")
    mounts = plans.in_container(scene(ONE, binds=(bind,)), ("x",), "").mounts
    assert [mount for mount in mounts if mount.target == "/etc/hosts"] == [bind]


def test_setup_runs_on_the_host_with_the_host_s_environment() -> None:
    plan = plans.on_host(scene(ONE), ("/bin/sh", "x"), "/ws/root", "/home/u/w")
    assert plan.mount_at == "/ws/root"
    assert plan.process.cwd == ("/home/u/w", "/")
    assert plan.process.environment.fixed["SECRET"] == "s"
    assert plan.process.environment.fixed["APPTAINER_ROOTFS"] == "/ws/root"
    assert not plan.process.environment.scripts


def test_words_of_mksquashfs_are_understood() -> None:
    assert read_packing("") == Packing()
    assert read_packing("-comp gzip -Xcompression-level 9 -b 1M -processors 2 -no-progress") == Packing(
        "gzip", 9, 1 << 20, 2
    )
    assert read_packing("-b 131072").block_size == 131072


@pytest.mark.parametrize("words", ["-b 3", "-b 2M", "-comp", "-Xcompression-level 40", "-processors x", "'"])
def test_nonsense_for_mksquashfs_is_a_usage_error(words: str) -> None:
    with pytest.raises(UsageError):
        read_packing(words)


@pytest.mark.parametrize("words", ["-comp lzo", "-no-xattrs", "-e x"])
def test_words_of_mksquashfs_without_a_meaning_here_are_refused(words: str) -> None:
    with pytest.raises(NotSupported):
        read_packing(words)
