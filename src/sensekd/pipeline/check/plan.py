"""What each stage of a run will do: run, reuse or redo, and why. Asks the stages themselves and builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sensekd.artefacts import check_made_from, read_manifest
from sensekd.config import Recipe
from sensekd.errors import InputError
from sensekd.pipeline.jobs import TEACHER, Job
from sensekd.pipeline.stages import Progress, Silent, Stages
from sensekd.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from sensekd.corpus import TokenDocuments

Action = Literal["run", "reuse", "redo", "unknown"]


@dataclass(frozen=True)
class Step:
    """One stage."""

    stage: str
    action: Action
    why: str


class _PendingError(Exception):
    """A stage would be run."""


class _Planner(Stages):
    """Stages that only look: the first one that would be run ends the walk along its line."""

    def __init__(self, output: Path) -> None:
        super().__init__(output, Silent())
        self.steps: dict[str, Step] = {}

    def look(self, name: str, key: object, outputs: Sequence[Path]) -> bool:
        """Note what the stage will do; whether it is reused."""
        if self.fresh(name, key, outputs, verify=False):
            self.steps[name] = Step(name, "reuse", "nothing it is made from has changed")
            return True
        stamp = self._read(name)
        if stamp is None:
            self.steps[name] = Step(name, "run", "not made yet")
            return False
        gone = [path.name for path in outputs if not path.exists()]
        why = "what it is made from has changed: recipe, inputs or libraries"
        if gone:
            why = f"{', '.join(gone)} is gone"
        elif self.fresh_key(name, key):
            why = f"{', '.join(path.name for path in outputs)} is not as the stage left it"
        self.steps[name] = Step(name, "redo", why)
        return False

    def fresh_key(self, name: str, key: object) -> bool:
        """Whether the stage was last run with this key."""
        from sensekd.pipeline.stages import _identity

        stamp = self._read(name)
        return stamp is not None and stamp["key"] == _identity(key)

    def run(
        self,
        name: str,
        key: object,
        outputs: Sequence[Path],
        build: Callable[[Progress], object],
        *,
        verify: bool = True,
    ) -> bool:
        """Look instead of building."""
        if not self.look(name, key, outputs):
            raise _PendingError(name)
        return False

    def wait(self, name: str, reason: str) -> None:
        """Note a stage whose inputs are not there yet."""
        stands = self._read(name) is not None
        kept = "; kept if that comes out the same" if stands else ""
        self.steps[name] = Step(name, "redo" if stands else "run", reason + kept)

    def reused(self, *names: str) -> str | None:
        """The first of these stages that is not reused."""
        return next((name for name in names if self.steps[name].action != "reuse"), None)


class _Walk:
    """Goes through the preparing stages in the order in which a run does."""

    def __init__(self, recipe: Recipe) -> None:
        self.planner = _Planner(Path(recipe.output))
        self.work = Workspace(recipe, self.planner)

    def visit(self, name: str, needs: Sequence[str], look: Callable[[], Any]) -> Any:
        """The result of a stage that is reused, else None."""
        if (missing := self.planner.reused(*needs)) is not None:
            self.planner.wait(name, f"after {missing!r}")
            return None
        try:
            return look()
        except _PendingError as pending:
            if name not in self.planner.steps:
                self.planner.wait(name, f"after {str(pending)!r}")
        except (InputError, OSError) as error:
            found = error.found if isinstance(error, InputError) else str(error)
            self.planner.steps.setdefault(name, Step(name, "unknown", found.splitlines()[0]))
        return None

    def tokens(self, name: str, corpus: Any) -> TokenDocuments | None:
        """The tokens of a corpus, where they are reused."""
        from sensekd.pipeline.prepare import prepare_tokens

        found: TokenDocuments | None = self.visit(f"tokens {name}", (), lambda: prepare_tokens(self.work, name, corpus))
        return found

    def lexicon(self) -> list[str]:
        """The stages of the lexicon; their names."""
        from sensekd.pipeline.prepare import prepare_lexicon, prepare_relations

        if not self.work.recipe.lexicon.sources:
            return []
        self.visit("lexicon", (), lambda: prepare_lexicon(self.work))
        self.visit("linking", ("lexicon",), lambda: prepare_relations(self.work))
        return ["linking"]

    def senses(self, source: str, documents: TokenDocuments | None) -> list[str]:
        """The stages of the dictionary; the name of the last."""
        from sensekd.pipeline.prepare import prepare_senses

        if self.work.recipe.senses.dictionary is not None:
            return []

        def look() -> None:
            assert documents is not None
            prepare_senses(self.work, documents)

        self.visit("sample", (f"tokens {source}",), look)
        if "senses" not in self.planner.steps:
            self.visit("senses", ("sample",), lambda: None)
        return ["senses"]

    def jobs(self, jobs: Sequence[Job], needs: Sequence[str]) -> None:
        """Students and their records."""
        for job in jobs:

            def look(job: Job = job) -> None:
                if not self.planner.look(job.name, job.key(self.work), job.outputs(self.work.output)):
                    raise _PendingError(job.name)

            self.visit(job.name, needs, look)


def plan_of(recipe: Recipe, jobs: Sequence[Job] | None = None) -> list[Step]:
    """What `sensekd run` will do, stage by stage, without doing any of it.

    Args:
        recipe: of the run.
        jobs: the students; default: those of `run`.
    """
    from sensekd.pipeline.prepare import gold_quality, prepare_coverage

    walk = _Walk(recipe)
    documents = walk.tokens("train", recipe.corpus)
    walk.tokens("heldout", recipe.evaluation.corpus)
    source, theirs = "train", documents
    linked = walk.lexicon()
    if recipe.senses.corpus is not None:
        source, theirs = "senses", walk.tokens("senses", recipe.senses.corpus)
    made = walk.senses(source, theirs)

    def coverage() -> None:
        assert documents is not None
        prepare_coverage(walk.work, documents)

    walk.visit("coverage", ("tokens train", *linked, *made), coverage)
    if recipe.evaluation.gold_senses:
        walk.visit("gold senses", made, lambda: gold_quality(walk.work))
    walk.jobs(run_jobs_of(recipe) if jobs is None else jobs, ("tokens train", "tokens heldout", *linked, *made))
    return list(walk.planner.steps.values())


def run_jobs_of(recipe: Recipe) -> list[Job]:
    """The jobs of `sensekd run`."""
    return [Job(TEACHER, 0), Job("pruned", recipe.seed), Job("dskd", recipe.seed)]


def compare_jobs(recipe: Recipe) -> list[Job]:
    """The jobs of `sensekd compare`."""
    arms = [*recipe.compare.arms, *recipe.compare.custom]
    return [Job(TEACHER, 0), *(Job(arm, seed) for seed in recipe.compare.seeds for arm in arms)]


def foreign_dictionary(recipe: Recipe) -> str | None:
    """What is wrong with the dictionary that the recipe names: made from another teacher, or damaged; None if nothing.

    Where the teacher's weights are out of reach, only what its tokenizer and its configuration say is compared.
    """
    from sensekd.provenance import tokenizer_fingerprint, weights_fingerprint
    from sensekd.training.placement import variant
    from sensekd.training.teacher import load_config, load_tokenizer

    named = recipe.senses.dictionary
    if named is None:
        return None
    expected: dict[str, Any] = {}
    teacher = recipe.teacher
    try:
        text = load_config(teacher).get_text_config()
        expected = {"width": int(text.hidden_size), "vocabulary": int(text.vocab_size)}
        expected["tokenizer"] = tokenizer_fingerprint(load_tokenizer(teacher))
        expected["weights"] = weights_fingerprint(teacher.model, teacher.revision) + variant(teacher)
    except InputError:
        pass  # What is missing stands among the problems.
    try:
        from sensekd.senses.dictionary import FORMAT

        check_made_from(read_manifest(Path(named), "senses", FORMAT), expected, command="sensekd senses build RECIPE")
    except InputError as error:
        return f"senses.dictionary: {error.found}, the recipe's teacher has {error.expected}"
    return None
