"""Which steps a build has, in which order, and what each one's plan says: decided before anything is done."""

from __future__ import annotations

import pytest

from soliton.build import plans, stage
from soliton.build.compression import Packing
from soliton.build.compression import parse as read_packing
from soliton.build.definition import Definition, Files, parse
from soliton.build.steps import Choice, plan_steps, post_section, read_sections
from soliton.build.transfers import Transfer
from soliton.errors import NotSupported, UsageError
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
        "0:keeping stage `build`",
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
    assert limited[-6:] == [
        "0:keeping stage `build`",
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
    assert read_sections(["labels", "%Help"]) == {"labels", "help"}
    with pytest.raises(UsageError, match="lables"):
        read_sections(["lables"])


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        (None, "a/b", "/a/b"),
        ("/opt/", "a", "/opt/"),
        ("opt", "a", "/opt"),
        (None, "/etc/hosts", "/etc/hosts"),
    ],
)
def test_targets_of_files(target: str | None, source: str, expected: str) -> None:
    (copy,) = stage.plan_copies(Files((Transfer(source, target, 1),), 1), None, "/work")
    assert copy.target == expected
    assert copy.follow and copy.from_root is None


def test_sources_are_relative_to_the_working_directory_or_the_stage_s_root() -> None:
    files = Files((Transfer("a b", None, 1), Transfer("/c", "/d", 2)), 1)
    assert [copy.source for copy in stage.plan_copies(files, None, "/w")] == ["/w/a b", "/c"]
    root = ImageRoot("/x", 0, 4096)
    assert stage.plan_copies(files, root, "/w")[0] == Copy("/a b", "/a b", follow=False, from_root=root)


def test_files_of_an_app_go_to_its_directory() -> None:
    files = Files((Transfer("x", None, 1), Transfer("x", "/y", 1)), 1, app="foo")
    assert [copy.target for copy in stage.plan_copies(files, None, "/w")] == [
        "/scif/apps/foo/x",
        "/scif/apps/foo/y",
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
    plan = plans.in_container(scene(MANY), ("/bin/sh", "-ex", plans.SCRIPT), "echo\n")
    environment = plan.process.environment
    assert environment.host == {"TERM": "xterm", "http_proxy": "p", "SOURCE_DATE_EPOCH": "1", "LANG": "C"}
    assert environment.fixed["HOME"] == "/root"
    assert environment.fixed["APPTAINER_ENVIRONMENT"] == "/.singularity.d/env/91-environment.sh"
    assert {f"{p}_LABELS" for p in ("SOLITON", "APPTAINER", "SINGULARITY")} <= set(environment.fixed)
    assert plan.process.cwd == ("/",)
    assert plan.process.umask == 0o022
    assert plan.process.capabilities == "all" and plan.process.no_new_privs
    assert plan.namespaces == ("pid",)
    assert SynthesizedFile(plans.SCRIPT, "echo\n", 0o755, origin="%post") in plan.mounts
    assert Proc(origin="build") in plan.mounts and Dev(minimal=True, origin="build") in plan.mounts


def test_root_is_emulated_only_where_there_is_a_single_id() -> None:
    many = plans.in_container(scene(MANY), ("x",), "")
    one = plans.in_container(scene(ONE), ("x",), "")
    assert not many.process.emulate_root and one.process.emulate_root
    assert "APT_CONFIG" not in many.process.environment.fixed
    assert one.process.environment.fixed["APT_CONFIG"] == plans.APT_CONF
    assert any(isinstance(mount, SynthesizedFile) and mount.target == plans.APT_CONF for mount in one.mounts)


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


@pytest.mark.parametrize("words", ["-comp lzo", "-all-root", "-e x"])
def test_words_of_mksquashfs_without_a_meaning_here_are_refused(words: str) -> None:
    with pytest.raises(NotSupported):
        read_packing(words)
