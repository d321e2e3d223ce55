"""Equal wall time, tuning and sensitivity: what follows from costs, spaces and trials, without training anything."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import write_inputs

from sensekd.artefacts import write_json
from sensekd.config import CompareConfig, Recipe, SensitivityConfig, recipe_from_tree
from sensekd.errors import InputError, SenseKDError
from sensekd.pipeline.budget import costs, relative_cost, steps_at_equal_time, timed_jobs
from sensekd.pipeline.check import problems
from sensekd.pipeline.jobs import DEVELOPMENT, TEACHER, Job
from sensekd.pipeline.sensitivity import points, summaries
from sensekd.pipeline.stages import Silent, Stages
from sensekd.pipeline.tuning import Trial, best, judged, relevant, settings_to_try, trial_jobs
from sensekd.pipeline.workspace import Workspace

RATES = {"low": 1e-4, "high": 1e-2}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("matched"))


def recipe(tree: dict[str, Any], **compare: Any) -> Recipe:
    arms = ["pruned", "ce", "kd", "kd+hidden", "dskd-own", "dskd"]
    return recipe_from_tree({**tree, "compare": {"arms": arms, "seeds": [0, 1], **compare}}, "tiny", kind=Recipe)


def tuned(tree: dict[str, Any], space: dict[str, Any], **more: Any) -> Recipe:
    development = {"corpus": tree["evaluation"]["corpus"]}
    return recipe(tree, development=development, tune={"space": space, "trials": 5, **more})


def record(seconds: float, steps: int, resumed: int = 0, arm: str = "kd") -> dict[str, Any]:
    return {"arm": arm, "student": {"steps": steps}, "resumed_from": resumed, "seconds": {"train": seconds}}


def test_unused_keys_are_not_written_and_used_ones_come_back(tree: dict[str, Any]) -> None:
    assert set(CompareConfig().model_dump(mode="json")) == {"arms", "custom", "seeds", "workers", "baseline"}
    used = tuned(tree, {"training.learning_rate": RATES, "loss.kappa": [1, 5]}, metric="kl")
    again = Recipe.model_validate(used.model_dump(mode="json", by_alias=True))
    assert again == used
    assert set(used.model_dump(mode="json")["compare"]) >= {"tune", "development"}


def test_the_settings_on_the_page_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text()
    blocks = re.findall(r"\n((?:    .*\n)+)", page)
    trees = [yaml.safe_load(block) for block in blocks if block.lstrip().startswith("compare:")]
    found = [CompareConfig.model_validate(each["compare"]) for each in trees]
    assert [config.tune is not None for config in found] == [True, False]
    assert found[1].sensitivity == SensitivityConfig(seeds=(0, 1, 2))


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ({"costs": {"kd": 1.0}}, "belongs to `budget: time`"),
        ({"budget": "time", "costs": {"kd": 1.0, "pruned": 1.0}}, r"not trained here \['pruned'\]"),
        ({"tune": {"space": {"loss.mu": [1.0, 2.0]}}}, "needs `development`"),
        ({"sensitivity": {"arm": "pruned"}}, "no trained arm 'pruned'"),
        ({"tune": {"space": {"training.steps": [1, 2]}}}, "`space` may name"),
        ({"tune": {"space": {"loss.mu": {"low": 0, "high": 1}}}}, "low > 0 where log"),
    ],
)
def test_what_contradicts_itself_is_refused(tree: dict[str, Any], compare: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(tree, **compare)


def test_a_space_holds_values_that_the_loss_takes(tree: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"compare.tune.space loss.kapa: kapa: unknown key"):
        tuned(tree, {"loss.kapa": [1, 2]})
    with pytest.raises(InputError, match=r"compare.tune.space loss.tau"):
        tuned(tree, {"loss.tau": {"low": -1.0, "high": 1.0, "log": False}})


def test_a_cost_is_the_median_of_paired_ratios_of_what_was_trained_since_the_resume() -> None:
    ours = [record(30.0, 10), record(9.0, 10, 4), record(100.0, 10)]
    theirs = [record(20.0, 10), record(10.0, 10), record(10.0, 10)]
    # Seconds per step: 3.0 / 2.0, 1.5 / 1.0, 10 / 1.
    assert relative_cost(ours, theirs) == 1.5
    assert relative_cost([record(1.0, 10, 10), record(2.0, 10)], [record(9.0, 10), record(1.0, 10)]) == 2.0
    with pytest.raises(SenseKDError, match="what a step of dskd costs is not known"):
        relative_cost([record(1.0, 10, 10, "dskd")], [record(1.0, 10)])


def test_measured_costs_are_kept_until_an_arm_changes(tree: dict[str, Any], tmp_path: Path) -> None:
    def found(seconds: dict[str, float], **changes: Any) -> dict[str, float]:
        whole = recipe({**tree, **changes}, arms=["kd", "dskd"], budget="time")
        work = Workspace(whole, Stages(tmp_path, Silent()))
        jobs = [Job(TEACHER, 0), *(Job(arm, seed) for seed in (0, 1) for arm in ("kd", "dskd"))]
        for job in jobs[1:]:
            write_json(job.outputs(tmp_path)[-1], record(seconds[job.arm] * (1 + job.seed), 4, 0, job.arm))
        return costs(work, jobs)

    assert found({"kd": 10.0, "dskd": 12.5}) == {"kd": 1.0, "dskd": 1.25}
    # A run that was made again takes another time; the costs, and with them the steps, stay.
    assert found({"kd": 10.0, "dskd": 30.0}) == {"kd": 1.0, "dskd": 1.25}
    assert found({"kd": 10.0, "dskd": 30.0}, loss={"kappa": 2}) == {"kd": 1.0, "dskd": 3.0}


def test_steps_at_equal_time_by_hand() -> None:
    assert steps_at_equal_time({"ce": 0.5, "kd": 1.0, "dskd": 1.25}, 200) == {"ce": 500, "kd": 250, "dskd": 200}


def test_timed_jobs_change_only_what_has_more_steps(tree: dict[str, Any]) -> None:
    work = Workspace(recipe(tree), Stages(Path(tree["output"]), Silent()))
    jobs = [Job(TEACHER, 0), Job("pruned", 0), Job("kd", 0, settings='{"loss.alpha": 0.5}'), Job("dskd", 0)]
    teacher, pruned, kd, dskd = timed_jobs(work, jobs, {"kd": 6, "dskd": 4})
    assert [teacher, pruned, dskd] == [jobs[0], jobs[1], jobs[3]]
    assert (kd.name, json.loads(kd.settings)) == ("kd@time-0", {"loss.alpha": 0.5, "training.steps": 6})
    settings, steps = kd.recipe(work.recipe)
    assert (settings.loss.alpha, steps) == (0.5, 6)


def test_an_arm_is_tuned_by_what_means_something_to_it(tree: dict[str, Any]) -> None:
    keys = ["training.learning_rate", "loss.alpha", "loss.tau", "loss.lambda", "loss.mu", "loss.kappa", "loss.margin"]
    keys += ["loss.synonyms"]
    whole = recipe(tree)
    found = {arm: [key.partition(".")[2] for key in relevant(whole, arm, keys)] for arm in whole.compare.trained}
    assert found == {
        "ce": ["learning_rate"],
        "kd": ["learning_rate", "alpha", "tau"],
        "kd+hidden": ["learning_rate", "alpha", "tau", "mu"],
        "dskd-own": ["learning_rate", "alpha", "tau", "lambda", "kappa"],
        "dskd": ["learning_rate", "alpha", "tau", "lambda", "kappa", "margin", "synonyms"],
    }
    bare = recipe({**tree, "lexicon": {"sources": []}})
    assert "loss.margin" not in relevant(bare, "dskd", keys)


def test_every_arm_has_as_many_different_trials_and_begins_with_itself(tree: dict[str, Any]) -> None:
    space = {"training.learning_rate": RATES, "loss.alpha": [0.3, 0.7], "loss.lambda": {"low": 0.1, "high": 10.0}}
    whole = tuned(tree, space)
    assert whole.compare.tune is not None
    tried = {arm: settings_to_try(whole, arm, whole.compare.tune) for arm in whole.compare.trained}
    for settings in tried.values():
        assert settings[0] == {}
        assert len({json.dumps(each, sort_keys=True) for each in settings}) == 5
    rates = {arm: [each["training.learning_rate"] for each in settings[1:]] for arm, settings in tried.items()}
    assert all(each == rates["ce"] for each in rates.values())
    # Evenly spread: one rate in each quarter of the two decades.
    edges = [1e-4 * 100 ** (quarter / 4) for quarter in range(5)]
    assert all(sum(low <= rate <= high for rate in rates["ce"]) == 1 for low, high in itertools.pairwise(edges))
    other = tuned(tree, space, seed=1)
    assert other.compare.tune is not None
    assert settings_to_try(other, "ce", other.compare.tune) != tried["ce"]


def test_a_key_that_no_recipe_writes_may_be_tuned(tree: dict[str, Any]) -> None:
    whole = tuned(tree, {"loss.confidence": ["off", "probability"], "loss.lambda": {"low": 0.1, "high": 10.0}})
    assert whole.compare.tune is not None
    tried = settings_to_try(whole, "dskd", whole.compare.tune)
    assert tried[0] == {}
    assert {each["loss.confidence"] for each in tried[1:]} == {"off", "probability"}


def test_trials_are_jobs_on_the_development_split(tree: dict[str, Any]) -> None:
    whole = tuned(tree, {"training.learning_rate": RATES}, seeds=[3, 4], steps=2)
    assert whole.compare.tune is not None
    jobs = trial_jobs(whole, whole.compare.tune)
    assert set(jobs) == set(whole.compare.trained)
    first = jobs["kd"][1]
    assert [job.seed for job in first] == [3, 4]
    assert {job.split for job in first} == {DEVELOPMENT}
    settings, steps = first[0].recipe(whole)
    assert steps == 2
    assert settings.training.learning_rate == json.loads(first[0].settings)["training.learning_rate"]
    assert first[0].outputs(Path("o")) == [Path("o/records/kd@trial1-3.json")]


def test_too_small_a_space_is_refused_and_says_for_whom(tree: dict[str, Any]) -> None:
    small = tuned(tree, {"training.learning_rate": [1e-4, 1e-3, 3e-3], "loss.alpha": [0.1, 0.5, 0.9]})
    assert small.compare.tune is not None
    # The arm's own rate, 1e-3, is one of the three: two others are left beside it.
    with pytest.raises(InputError, match="arm 'ce' has 3 different settings in"):
        settings_to_try(small, "ce", small.compare.tune)
    assert len(settings_to_try(small, "kd", small.compare.tune)) == 5
    assert any("arm 'ce' has 3 different settings" in line for line in problems(small))
    assert not problems(tuned(tree, {"training.learning_rate": RATES}))
    unknown = tuned(tree, {"loss.mu": [0.1, 0.2]})
    assert unknown.compare.tune is not None
    with pytest.raises(InputError, match="arm 'kd' has no key"):
        settings_to_try(unknown, "kd", unknown.compare.tune)


def test_the_best_trial_is_the_first_of_equals_and_never_a_failed_one(tmp_path: Path) -> None:
    trials = [
        Trial({}, (2.0,)),
        Trial({"a": 1}, (1.0, 2.0)),
        Trial({"a": 2}, (1.5,)),
        Trial({"a": 3}, (), "not finite"),
    ]
    assert best(trials, "ce") == 1
    assert best(trials, "facts") == 0
    assert best(trials[3:], "ce") is None
    jobs = [Job("kd", seed, "trial1", split=DEVELOPMENT, trial=True) for seed in (0, 1)]
    for job, ce in zip(jobs, (1.0, 3.0), strict=True):
        write_json(job.outputs(tmp_path)[0], {"metrics": {"ce": ce}})
    assert judged(tmp_path, jobs, {}, "ce").mean == 2.0
    with pytest.raises(InputError, match=r"no 'facts' on the development split"):
        judged(tmp_path, jobs, {}, "facts")
    write_json(jobs[1].outputs(tmp_path)[0], {"metrics": {}, "failed": "the loss is not finite at step 3"})
    trial = judged(tmp_path, jobs, {}, "ce")
    assert (trial.mean, trial.failed) == (None, "the loss is not finite at step 3")


def test_one_factor_at_a_time_with_the_recipes_value_among_them(tree: dict[str, Any]) -> None:
    config = SensitivityConfig.model_validate({"lambda": [0.3, 3.0], "kappa": [1, 5], "k": [2, 6], "margin": [0.4]})
    found, skipped = points(recipe(tree), config)
    listed: dict[str, list[tuple[Any, str]]] = {}
    for point in found:
        listed.setdefault(point.factor, []).append((point.value, point.arm))
    assert listed == {
        "lambda": [(0.3, "dskd@lambda=0.3"), (1.0, "dskd"), (3.0, "dskd@lambda=3")],
        "kappa": [(1, "dskd"), (5, "dskd@kappa=5")],
        "k": [(2, "dskd@k=2"), (3, "dskd"), (6, "dskd@k=6")],
        "margin": [(0.4, "dskd@margin=0.4"), (0.8, "dskd")],
    }
    assert skipped == {}
    own = SensitivityConfig(arm="dskd-own")
    found, skipped = points(recipe(tree), own)
    assert set(skipped) == {"margin"}
    assert "margin" not in {point.factor for point in found}
    with pytest.raises(InputError, match="'kd' has no sense loss"):
        points(recipe(tree), SensitivityConfig(arm="kd"))


def test_a_value_that_fails_with_one_seed_has_no_mean_of_the_others() -> None:
    def run(seed: int, ce: float | None) -> dict[str, Any]:
        whole = {"seed": seed, "tokens": 8, "items": {}, "metrics": {} if ce is None else {"ce": ce}}
        return {**whole, "failed": "the loss is not finite"} if ce is None else whole

    values = {"kd": (3.0, 3.5), "dskd": (2.0, None), "dskd@lambda=3": (1.0, None), "dskd@lambda=0.3": (2.5, 3.0)}
    records = [(arm, run(seed, ce)) for arm, pair in values.items() for seed, ce in enumerate(pair)]
    found = summaries(records, "dskd", "kd")
    seeds = {arm: each["ce"]["n"] for arm, each in found["summary"].items()}
    assert seeds == {"kd": 2, "dskd": 1, "dskd@lambda=0.3": 2}
    assert set(found["failed"]) == {"dskd-1", "dskd@lambda=3-1"}
    assert [(row["arm"], row["mean"], row["n"]) for row in found["from_default"]] == [("dskd@lambda=0.3", 0.5, 1)]
    assert len(found["arms"]) == 6
    lost = [(arm, run(seed, None) if arm == "kd" else each) for seed, (arm, each) in enumerate(records)]
    with pytest.raises(InputError, match="every training of kd failed"):
        summaries(lost, "dskd", "kd")
