"""What the result of each step of a definition file depends on: the ingredients of its key in the step cache.

A step whose ingredients cannot be told beforehand has none: a script on the host, or one that sees directories of the
host by `--bind`, may give anything. It always runs, and what it wrote is what the steps after it depend on.
"""

from __future__ import annotations

import json
import os

from soliton import core
from soliton.build import sources
from soliton.build.bootstrap import oci
from soliton.build.header import Header
from soliton.build.job import Job
from soliton.build.step_cache import PARENT, Ingredients, key_of
from soliton.build.steps import Step
from soliton.errors import SolitonError

#: Agents that fetch an image, and those that make a base from packages or programs.
FETCHING = ("docker", "docker-daemon", "docker-archive", "oci", "oci-archive", "oras", "library", "shub")
MAKING = ("debootstrap", "busybox", "yum", "dnf", "zypper", "arch")


def of_base(job: Job, header: Header, digest: str, pinned: str = "") -> Ingredients | None:
    """What a stage starts from. digest: of the base, where there is one; else it is found out, without any network."""
    cache = job.cache
    assert cache is not None
    agent, source = header.agent, header.get("from")
    if agent == "scratch":
        return (*_common(job), ("the base", "scratch"))
    if agent in MAKING:
        return of_making(job, header)
    try:
        if agent in FETCHING and not digest:
            digest = job.sources.of(header).known(oci.reference(header, job.settings.cwd), pinned) or ""
        elif agent == "localimage":
            path = os.path.join(job.settings.cwd, source)
            digest = _of_sandbox(path) if os.path.isdir(path) else cache.digest(path)
    except (OSError, SolitonError):
        return None
    return (*_common(job), (f"the base image `{source}`", digest)) if digest else None


def of_making(job: Job, header: Header) -> Ingredients:
    """A base that an agent makes of packages or programs: what they are today is asked with `--no-cache`."""
    words = ((f"`{entry.keyword}`", entry.value) for entry in header.entries)
    given = tuple((name, job.settings.environment.get(name, "")) for name in ("INCLUDE", "GPG"))
    return (*_common(job), *words, *given, ("the architecture", job.settings.architecture))


def of_step(job: Job, step: Step, parent: str, stages: dict[str, str]) -> Ingredients | None:
    """stages: name → key of those before."""
    ahead = ((PARENT, parent),)
    if step.kind == "copy" and step.files is not None:
        return _of_copy(job, step, ahead, stages)
    if step.kind == "post" and step.section is not None and not job.settings.binds:
        return (
            *ahead,
            ("the text of the script", step.section.body),
            ("the arguments of the section", step.section.arguments),
            ("the variables given for inside", json.dumps(sorted(job.settings.injected.items()))),
            *of_devices(job),
        )
    return None


def of_devices(job: Job) -> Ingredients:
    """Drivers of the host that the steps see."""
    return (("the driver of the GPU", job.settings.shown),) if job.settings.shown else ()


def _of_copy(job: Job, step: Step, ahead: Ingredients, stages: dict[str, str]) -> Ingredients | None:
    assert step.files is not None and job.cache is not None
    files = step.files
    lines = json.dumps([(t.source, t.target) for t in files.transfers])
    found = [*ahead, ("what is copied where", lines), ("the app", files.app or "")]
    if files.stage is not None:
        key = stages.get(files.stage)
        return (*found, (f"the stage `{files.stage}`", key)) if key else None
    for transfer in files.transfers:
        try:
            for path in sources.find(transfer, job.settings.cwd, job.definition.name):
                found.append((f"`{path}`", job.cache.digest(os.path.join(job.settings.cwd, path))))
        except (OSError, SolitonError):
            return None  # told when it is copied
    return tuple(found)


def of_whole(job: Job, keys: list[str], last: str, *, force: bool) -> Ingredients:
    """What a finished image depends on. keys: of every stage; last: the name of the target."""
    settings = job.settings
    chosen = settings.choice
    words = {
        "sections": None if chosen.sections is None else sorted(chosen.sections),
        "test": chosen.test,
        "epoch": settings.epoch,
        "keep_logs": settings.keep_logs,
        "force": force,
        "packing": core.encode(settings.packing),
        "arguments": core.encode(settings.arguments),
        "kept_lock": settings.kept_lock,
        "writable_test": settings.writable_test,
    }
    return (
        ("the stages", json.dumps(keys)),
        ("the recipe", job.definition.text),
        ("the options", json.dumps(words, sort_keys=True, default=str)),
        ("the name of the recipe", os.path.basename(job.definition.name)),
        ("this soliton", core.program_identity()),
        ("the target", last),
    )


def _common(job: Job) -> Ingredients:
    packing = job.settings.packing
    return (
        ("whether there are subordinate ids", str(not job.single_id)),
        ("SOURCE_DATE_EPOCH", str(job.settings.epoch)),
        ("`--keep-logs`", str(job.settings.keep_logs)),
        # The image takes the blocks of its layers as they are.
        ("how it is packed", json.dumps([packing.compressor, packing.level, packing.block_size])),
    )


def _of_sandbox(path: str) -> str:
    """A directory by the state of every file: whoever writes to one changes its times."""
    found: list[tuple[object, ...]] = []
    pending = [path]
    while pending:
        here = pending.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append(
                    (
                        entry.path,
                        status.st_mode,
                        status.st_ino,
                        status.st_size,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                    )
                )
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    text = repr(sorted(found, key=lambda item: str(item[0])))
    return key_of((("a sandbox", text),))
