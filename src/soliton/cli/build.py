"""`build`: the command line of a build, made into options of `soliton.api.build`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

from soliton import messages
from soliton.build import templates
from soliton.errors import TargetError, UsageError
from soliton.launch.binds import parse_binds, parse_mounts
from soliton.site import paths

if TYPE_CHECKING:
    from soliton.cli.invocation import Invocation
    from soliton.launch.binds import ImageBind
    from soliton.launch.plan import Bind

#: A file of build arguments larger than this is something else.
LARGEST = 4 << 20


def build(invocation: Invocation) -> int:
    """The handler of the command."""
    from soliton.api import build as api
    from soliton.cli.pull import options_of

    target, source = invocation.positionals
    if invocation.flag("data"):
        from soliton.api.data import package

        replace = invocation.flag("force") or may_replace(target, invocation)
        package(target, source, force=replace)
        messages.info(f"Build complete: {target}")
        return 0
    options = api.BuildOptions(
        force=invocation.flag("force"),
        sandbox=invocation.flag("sandbox") or invocation.flag("update"),
        update=invocation.flag("update"),
        fix_perms=invocation.flag("fix-perms"),
        test=not invocation.flag("notest"),
        writable_test=invocation.flag("writable-tmpfs"),
        sections=invocation.words("section"),
        build_args=build_args(invocation),
        warn_unused=invocation.flag("warn-unused-build-args"),
        packing=invocation.text("mksquashfs-args") or "",
        binds=binds(invocation),
        nv=invocation.flag("nv"),
        rocm=invocation.flag("rocm"),
        intel_hpu=invocation.flag("intel-hpu"),
        tmpdir=invocation.text("tmpdir"),
        keep=invocation.flag("no-cleanup"),
        keep_logs=invocation.flag("keep-logs"),
        lock=lock(invocation),
        as_json=invocation.flag("json"),
        replace=may_replace(target, invocation),
        ignore_subordinate_ids=invocation.flag("ignore-subuid"),
        anew=invocation.flag("no-cache"),
        refresh=invocation.flag("pull"),
        explain=invocation.flag("explain-cache"),
        debug_shell=invocation.flag("debug-shell"),
        secrets=invocation.words("secret"),
        ssh=invocation.words("ssh"),
        stage=invocation.text("target") or "",
        context=invocation.text("context") or "",
        fetching=options_of(invocation),
    )
    api.build(target, source, options)
    messages.info(f"Build complete: {target}")
    return 0


def lock(invocation: Invocation) -> Literal["", "write", "check"]:
    if invocation.flag("lock") and invocation.flag("locked"):
        raise UsageError("`--lock` writes the lock and `--locked` follows it: only one of them can be meant")
    return "write" if invocation.flag("lock") else "check" if invocation.flag("locked") else ""


def build_args(invocation: Invocation) -> dict[str, str]:
    """The values for `{{ }}`: a file's, and over them the command line's."""
    values: dict[str, str] = {}
    path = invocation.text("build-arg-file")
    if path:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise UsageError(f"`--build-arg-file {path}` cannot be read", why=error.strerror) from None
        if len(text) > LARGEST:
            raise UsageError(f"`--build-arg-file {path}` is too large to be a file of build arguments")
        values, odd = templates.read_assignments(text)
        for line in odd:
            messages.warning(f"`{line[:60]}` in {path} is no `key=value` and is passed over")
    return values | templates.read_build_args(invocation.words("build-arg"))


def binds(invocation: Invocation) -> tuple[Bind | ImageBind, ...]:
    """`--bind` and `--mount`: the variables of `--bind` are for running, not for building, as with the peers."""
    cwd, home = os.getcwd(), os.environ.get("HOME") or paths.home_of_caller()
    found: list[Bind | ImageBind] = []
    for text in invocation.words("bind"):
        found += parse_binds(text, cwd=cwd, home=home, origin="--bind")
    for text in invocation.words("mount"):
        found += parse_mounts(text, cwd=cwd, origin="--mount")
    return tuple(found)


def may_replace(target: str, invocation: Invocation) -> bool:
    """Whether an existing target may go: asked at a terminal where `--force` does not say so."""
    if invocation.flag("force") or invocation.flag("update") or not os.path.lexists(target):
        return False
    if os.path.isdir(target) and not invocation.flag("sandbox"):
        return False  # refused for another reason
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    messages.write(f"`{messages.printable(target)}` exists already. Replace it? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TargetError(f"`{target}` exists already and was not replaced")
    return True
