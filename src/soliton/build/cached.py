"""Steps through the step cache: found, or carried out and kept; what is told of them; whether there is anything to do at all.

The order of a build and what a step does are known elsewhere (`builder`, `stage`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from soliton import messages, progress
from soliton.build import digests, ingredients, layers, stage, step_cache
from soliton.build.job import Job, StageState
from soliton.build.step_cache import PARENT, Ingredients
from soliton.build.steps import Step


@dataclass
class Ledger:
    """What this build tells of its steps, which it numbers. recipe: names it, so that the next build can be compared.
    count: of all steps. explain: say why one runs.
    """

    recipe: str
    count: int
    explain: bool = False
    before: list[Ingredients] = field(default_factory=list)
    now: list[Ingredients] = field(default_factory=list)
    number: int = 0

    def announce(self, title: str, *, found: bool = False) -> None:
        self.number += 1
        messages.info(f"[{self.number}/{self.count}] {title}{' (cached)' if found else ''}")

    def wait(self, title: str) -> None:
        """Said of a step before it is announced."""
        messages.info(
            f"[{self.number + 1}/{self.count}] {title}: another build is at it, waiting for its result"
        )

    @contextmanager
    def timed(self) -> Iterator[None]:
        number = self.number
        start = time.monotonic()
        yield
        took = time.monotonic() - start
        if took >= 1:
            messages.info(f"[{number}/{self.count}] done in {progress.duration(took)}")

    def note(self, known: Ingredients | None, title: str, why: str = "") -> None:
        """Says why a step runs, where that is asked for."""
        at = len(self.now)
        self.now.append(known or (("what cannot be told beforehand", secrets.token_hex(8)),))
        if self.explain:
            if known is None:
                reason = why or "what it depends on cannot be told beforehand"
            else:
                reason = why or step_cache.why(self.before, at, known)
            messages.info(f"{title} runs: {reason}")


def carry_out(
    job: Job, stages: Sequence[StageState], step: Step, ledger: Ledger, work: Callable[[], None]
) -> None:
    """One step of a definition file that writes to its stage."""
    state = stages[step.stage]
    if step.kind == "post" and state.temporary is None:
        state.temporary = stage.temporary_names(job, state)
    names = {other.stage.name: other.key for other in stages[: step.stage] if other.stage.name}
    known = ingredients.of_step(job, step, state.key, names) if job.cache is not None else None
    through(job, state, step.title, known, ledger, work, _on_host(job, step))


def through(
    job: Job,
    state: StageState,
    title: str,
    known: Ingredients | None,
    ledger: Ledger,
    work: Callable[[], None],
    why: str = "",
) -> None:
    """A step that writes to its stage: its result taken from the cache, or done by `work` and kept there.

    known: what it depends on, None if that cannot be told beforehand, for the reason `why`.
    """
    cache = job.cache
    key = step_cache.key_of(known) if known and cache is not None else ""
    with ExitStack() as stack:
        path = cache.find(key) if key and cache is not None else None
        if path is None and key and cache is not None and not cache.anew:
            stack.enter_context(cache.making(key, lambda: ledger.wait(title)))
            path = cache.find(key)
        ledger.announce(title, found=path is not None)
        if path is not None and known is not None:
            ledger.now.append(known)
            layers.take(job, state, path)
            state.key = key
            return
        anew = cache is None or cache.anew
        ledger.note(known, title, "nothing is taken from the cache" if anew else why)
        stage.open_upper(job, state)
        with ledger.timed(), logged(job):
            work()
        if key:
            layers.keep(job, state, key)
            state.key = key
            return
    written = layers.keep_aside(job, state)
    if cache is not None:
        state.key = step_cache.key_of(((PARENT, state.key), ("what it wrote", digests.of_file(written))))


def _on_host(job: Job, step: Step) -> str:
    if step.kind == "setup":
        return "it sees the host"
    return "it sees directories of the host by `--bind`" if step.kind == "post" and job.settings.binds else ""


@contextmanager
def logged(job: Job) -> Iterator[None]:
    """A log of the step alone, which stays if the step fails."""
    if job.log is None:
        yield
        return
    _forget(job.log)
    yield
    _forget(job.log)


def _forget(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def whole(job: Job, steps: Sequence[Step], target: str, *, force: bool | None = None) -> str:
    """The key of the image that this build would make; empty if that can only be told by making it."""
    cache, settings = job.cache, job.settings
    if cache is None or job.update is not None or settings.lock or settings.held_to is not None:
        return ""
    keys: list[str] = []
    names: dict[str, str] = {}
    for index, part in enumerate(job.definition.stages):
        known = ingredients.of_base(job, part.header, "")
        for step in (step for step in steps if step.stage == index):
            if step.kind in ("pre", "setup"):
                return ""
            if step.kind in ("copy", "post") and known is not None:
                known = ingredients.of_step(job, step, step_cache.key_of(known), names)
        if known is None:
            return ""
        keys.append(step_cache.key_of(known))
        names[part.name] = keys[-1]
    forced = settings.force if force is None else force
    return step_cache.key_of(ingredients.of_whole(job, keys, target, force=forced))


def recipe_name(job: Job, target: str) -> str:
    """By what a recipe is known from build to build."""
    return f"{os.path.join(job.settings.cwd, job.definition.name)}\n{target}"
