"""A Dockerfile built: the stages that its target needs, each instruction a step over the same stack, cache and writer that definition
files have.

    RUN, COPY, ADD, WORKDIR   a layer, taken from the cache if all that it depends on is as it was
    the others                say something of the image (`config`), and cost nothing
"""

from __future__ import annotations

import json
import os

from soliton import messages
from soliton.build import cached, ingredients, result, session, stage, step_cache
from soliton.build.bootstrap import localimage
from soliton.build.dockerfile import config as configuration
from soliton.build.dockerfile import copying, image, needs, parser, running
from soliton.build.dockerfile.config import Config
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.work import Current, Wishes, Work
from soliton.build.job import Job, StageState
from soliton.build.session import Request
from soliton.errors import BuildError
from soliton.images.detect import open_image

__all__ = ["Wishes", "build"]


def build(request: Request, wishes: Wishes) -> None:
    """Builds; when this returns the target is there, and if this raises, nothing is. Raises what `builder.build` does."""
    recipe = wishes.recipe
    with (
        session.job(request) as unlogged,
        session.steps(unlogged, request, needs.count(recipe) + 1) as (job, ledger),
    ):
        session.tell_of_owners(job, request)
        stages = _Stages(job, wishes, ledger)
        current = stages.built(recipe.target)
        whole = _whole(job, request, wishes, current)
        if whole and job.cache is not None and job.cache.is_made(whole, request.target):
            messages.info(f"{request.target} is up to date: nothing it is made from has changed")
            return
        ledger.announce(f"{'making the sandbox' if request.sandbox else 'writing'} {request.target}")
        parts = image.contents(job, current, recipe.file)
        others = [one.state for one in stages.done.values() if one is not current]
        result.write(job, request, [*others, current.state], parts)
        if whole and job.cache is not None:
            job.cache.made(whole, request.target)


def _whole(job: Job, request: Request, wishes: Wishes, current: Current) -> str:
    """The key of the image; empty where none is kept."""
    settings = job.settings
    if job.cache is None or request.sandbox or settings.lock or settings.held_to is not None:
        return ""
    known = ingredients.of_whole(job, [current.state.key], request.target, force=False)
    found = json.dumps(configuration.finished(current.config), sort_keys=True)
    return step_cache.key_of((*known, ("the image's configuration", found)))


class _Stages:
    """The stages as they are needed: by number, or by the reference of an image that only files are taken from."""

    def __init__(self, job: Job, wishes: Wishes, ledger: cached.Ledger) -> None:
        self.job, self.wishes, self.ledger = job, wishes, ledger
        self.work = Work(wishes, job, ledger, self.named)
        self.done: dict[int | str, Current] = {}

    def built(self, number: int) -> Current:
        """A stage, with all that it needs."""
        if number in self.done:
            return self.done[number]
        wanted = self.wishes.recipe.stages[number]
        if isinstance(wanted.base, int):
            current = self.over(number, self.built(wanted.base))
        else:
            current = self.begun(number)
        triggers = current.config.config.pop("OnBuild", None) or []
        self.done[number] = current
        current.config.config.pop("_cmd_is_own", None)
        name = self.wishes.recipe.file.name
        first = [parser.single(text, wanted.line, "\\", name) for text in triggers]
        # Only the base has told of them.
        self.ledger.count += sum(item.word in needs.STEPS for item in first)
        for item in (*first, *wanted.instructions):
            self.instruction(current, item)
        return current

    def over(self, number: int, below: Current) -> Current:
        """A stage that starts from another one."""
        state, under = stage.start(self.job, number), below.state
        state.base, state.base_tree, state.epoch = under.base, under.base_tree, under.epoch
        state.architecture, state.key = under.architecture, under.key
        state.base_digest = under.base_digest
        state.layers = list(under.layers)
        state.joined, state.joined_count = under.joined, under.joined_count
        if not state.layers:
            stage.lay_out(self.job, state)
        return Current(state, below.config.copy())

    def begun(self, number: int) -> Current:
        """A stage that starts from an image."""
        state = stage.start(self.job, number)
        self.ledger.announce(f"FROM {state.stage.header.get('from') or 'scratch'}")
        stage.start_from(self.job, state)
        wanted = state.stage.header.get("platform").partition("/")[0]
        if wanted and state.architecture not in ("", wanted):
            raise BuildError(
                f"{self.wishes.recipe.file.name}:{state.stage.header.line}: "
                f"`{state.stage.header.get('from')}` is for {state.architecture} and not for {wanted}"
            )
        base = state.started.oci_config
        if base is None and state.stage.header.agent == "localimage":
            shown = state.stage.header.get("from")
            base = localimage.oci_config(open_image(os.path.join(self.job.settings.cwd, shown), shown=shown))
        try:
            found = json.loads(base) if base else {}
        except ValueError:
            found = {}
        return Current(state, Config(found if isinstance(found, dict) else {}))

    def named(self, word: str, before: int, item: Instruction) -> StageState:
        """What `--from=` names: an earlier stage, or an image."""
        number = self.wishes.recipe.find(word, before)
        if number is not None:
            return self.built(number).state
        if word not in self.done:
            index = next(
                index
                for index, part in enumerate(self.job.definition.stages)
                if index >= len(self.wishes.recipe.stages) and part.header.get("stage") == word
            )
            self.done[word] = self.begun(index)
        return self.done[word].state

    def instruction(self, current: Current, item: Instruction) -> None:
        if item.word in ("RUN", "COPY", "ADD"):
            (running.run if item.word == "RUN" else copying.copy)(self.work, current, item)
            return
        recipe = self.wishes.recipe
        configuration.apply(current.config, item, recipe.file, self.wishes.given, recipe.known)
        if item.word == "WORKDIR":
            copying.workdir(self.work, current, item)
