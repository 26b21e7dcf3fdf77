"""What the instructions of one Dockerfile share while they are carried out: the wishes, the job, and the ways to take a step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from soliton.build import cached, carry_out, digests, plans, stage
from soliton.build.dockerfile import context as contexts
from soliton.build.dockerfile import words
from soliton.build.dockerfile.config import Config
from soliton.build.dockerfile.parser import Instruction
from soliton.build.dockerfile.stages import Recipe
from soliton.build.job import Job, StageState
from soliton.build.step_cache import PARENT, Ingredients
from soliton.errors import BuildError
from soliton.launch.plan import Copy, DirectoryRoot, DirectSurface
from soliton.record import replace

_SHOWN = 60


@dataclass(frozen=True)
class Wishes:
    """given: `--build-arg`. hidden: secrets by id, their contents. agents: sockets of SSH agents by id."""

    recipe: Recipe
    context: contexts.Context
    given: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Current:
    """What is known of one stage while it is built."""

    state: StageState
    config: Config


@dataclass(frozen=True)
class Work:
    """stage_of: what `--from=` names, built: (word, number of the stage that asks, its instruction)."""

    wishes: Wishes
    job: Job
    ledger: cached.Ledger
    stage_of: Callable[[str, int, Instruction], StageState]

    def place(self, item: Instruction) -> str:
        """Of an instruction, for messages."""
        return f"{self.wishes.recipe.file.name}:{item.line}"

    def expand(self, current: Current, item: Instruction, text: str, *, quotes: bool = True) -> str:
        file = self.wishes.recipe.file
        return words.expand(text, current.config.variables, file.escape, file.name, item.line, quotes=quotes)

    def step(
        self,
        current: Current,
        item: Instruction,
        known: Ingredients | None,
        work: Callable[[], None],
        why: str = "",
    ) -> None:
        """One step: found in the cache, or done and kept there. known: None if that cannot be told, for the reason `why`."""
        state = current.state
        whole = None if known is None else ((PARENT, state.key), *known)
        cached.through(self.job, state, title(item), whole, self.ledger, work, why)

    def put(self, state: StageState, copies: tuple[Copy, ...], root: DirectoryRoot | None = None) -> None:
        """Copies into the stage, or into another root."""
        scene = state.scene if root is None else replace(state.scene, root=root, surface=DirectSurface())
        folder = self.job.workspace.place(state.folder, "root")
        os.makedirs(folder, mode=0o755, exist_ok=True)
        plan = plans.on_host(scene, stage.NOTHING_TO_RUN, folder, self.job.settings.cwd, copies)
        carry_out.execute(plan, self.job.settings.environment)

    def digest(self, path: str, item: Instruction, context: contexts.Context | None = None) -> str:
        """Of a file or directory of the context, without what is ignored."""
        cache = self.job.cache
        try:
            return contexts.digest(
                context or self.wishes.context, path, cache.digest if cache else digests.of_file
            )
        except FileNotFoundError:
            raise self.missing(path, item) from None
        except OSError as error:
            raise BuildError(f"{self.place(item)}: `{path}` cannot be read", why=error.strerror) from None

    def missing(self, path: str, item: Instruction) -> BuildError:
        ignored = self.wishes.context.ignores(path.strip("/") or ".")
        return BuildError(
            f"{self.place(item)}: the build context has no `{path}`",
            why="`.dockerignore` leaves it out" if ignored else f"looked for in {self.wishes.context.root}",
        )


def title(item: Instruction) -> str:
    """An instruction in one short line."""
    text = " ".join(f"{item.word} {item.rest}".split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
