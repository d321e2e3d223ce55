"""A comparison with withheld antonyms and lexical tests, from recipe to results, differences and table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from inside import jobs_inside
from tiny_run import write_inputs, write_recipe

from sensekd.config import LexiconConfig, load_recipe
from sensekd.errors import InputError
from sensekd.lexicon import Lexicon, withheld_pairs
from sensekd.linking import TokenRelations, single_token_antonyms
from sensekd.pipeline.bench import Bench
from sensekd.pipeline.check import refuse_problems
from sensekd.pipeline.jobs import DEVELOPMENT, HELDOUT, Job
from sensekd.pipeline.run import compare
from sensekd.pipeline.single import open_run
from sensekd.pipeline.stages import Silent
from sensekd.report.table import plain_table

NAMES = ("antonym_discrimination", "antonyms_trained", "antonyms_withheld")
LEXICAL = ("coarsewsd20", "coarsewsd20_words", "simlex999", "simlex999_centred")


def write_lexical(folder: Path) -> None:
    for word in ("w7", "w8"):
        (folder / word).mkdir(parents=True)
        for split in ("train", "test"):
            lines = [f"1\tw{n} {word} w3" for n in range(20, 26)]
            (folder / word / f"{split}.data.txt").write_text("\n".join(lines) + "\n")
            (folder / word / f"{split}.gold.txt").write_text("\n".join(str(n % 2) for n in range(6)) + "\n")
    pairs = [f"w{n}\tw{n + 5}\t{n % 4}.5" for n in range(3, 15)]
    (folder / "SimLex-999.txt").write_text("word1\tword2\tSimLex999\n" + "\n".join(pairs) + "\n")


def tree_of(folder: Path) -> dict[str, Any]:
    tree = write_inputs(folder)
    write_lexical(folder / "lexical")
    tree["lexicon"]["withhold_antonyms"] = 0.5
    tree["evaluation"]["lexical"] = {"data": str(folder / "lexical"), "limits": {"coarsewsd20": 5}}
    tree["compare"] |= {"bootstrap": 50, "seeds": [0]}
    return tree


@pytest.fixture(scope="module")
@jobs_inside()
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("withheld")
    path = write_recipe(folder, tree_of(folder))
    # Three pairs: a seed that withholds one of them.
    pairs = Path(folder / "antonyms.tsv").read_text().split("\n")[:3]
    seed = next(seed for seed in range(50) if len(_chosen([tuple(pair.split("\t")) for pair in pairs], seed)) == 1)
    recipe = load_recipe(path, [f"lexicon.withhold_seed={seed}"])
    return folder, path, compare(recipe, Silent(), "c")


def _chosen(pairs: list[tuple[str, ...]], seed: int) -> list[tuple[str, str]]:
    from sensekd.lexicon import ANTONYM, merge, relation_frame

    columns = {"head": [a for a, _ in pairs], "tail": [b for _, b in pairs], "relation": ANTONYM, "language": "en"}
    return list(withheld_pairs(merge([relation_frame(columns)]), 0.5, seed).iter_rows())


def test_training_lacks_the_pair_and_the_evaluation_has_it(run: tuple[Path, Path, dict[str, Any]]) -> None:
    work = open_run(run[0] / "run")
    ((low, high),) = withheld_pairs(Lexicon.load(work.path("lexicon")), 0.5, work.recipe.lexicon.withhold_seed).rows()
    token = work.tokenizer.convert_tokens_to_ids(low)
    for name, has in (("relations", 0), ("relations-whole", 1)):
        indptr, ids = single_token_antonyms(TokenRelations.load(work.path(name)))
        assert len(ids) == 4 + 2 * has
        assert ids[indptr[token] : indptr[token + 1]].tolist() == [work.tokenizer.convert_tokens_to_ids(high)] * has
    bench = Bench(work)
    table, known = bench.table(work.recipe.loss), bench.antonyms or pytest.fail("no antonyms")
    pushed = table.pushed(torch.arange(40)[None], torch.ones(1, 40, dtype=torch.bool))[0]
    assert 0 < int(pushed.sum()) <= int((known[0].diff() > 0).sum())
    assert not pushed[work.tokenizer.convert_tokens_to_ids([low, high])].any()
    whole, parts = bench.judged(HELDOUT) or pytest.fail("no antonyms")
    assert [len(each[1]) for each in (whole, *parts.values())] == [6, 4, 2]
    # What settings are chosen by must not know the withheld pairs.
    antonyms, parts = bench.judged(DEVELOPMENT) or pytest.fail("no antonyms")
    assert (len(antonyms[1]), parts) == (4, {})


def test_the_figures_reach_results_differences_and_table(run: tuple[Path, Path, dict[str, Any]]) -> None:
    results = run[2]
    for entry in results["arms"]:
        found = entry["metrics"]
        # One antonym a word: every position counts on one side.
        counts = [found[name] for name in ("antonym_positions", f"{NAMES[1]}_positions", f"{NAMES[2]}_positions")]
        assert counts[0] == counts[1] + counts[2]
        assert min(counts) > 0
        assert found[NAMES[0]] * counts[0] == pytest.approx(found[NAMES[1]] * counts[1] + found[NAMES[2]] * counts[2])
        assert set(LEXICAL) <= set(found)
        # Two words of five test sentences each.
        assert found["coarsewsd20"] * 10 == pytest.approx(round(found["coarsewsd20"] * 10))
    compared = {row["metric"] for row in results["differences"] if (row["arm"], row["against"]) == ("dskd", "kd")}
    assert {*NAMES, *LEXICAL} <= compared
    assert not any(name.endswith("positions") for name in compared)
    assert {row["metric"] for row in results["items"]} == {"quiz", "coarsewsd20"}
    assert set(results["provenance"]["inputs"]["lexical"]) == {"coarsewsd20", "simlex999"}
    table = plain_table(results, width=400)
    assert all(name.replace("_", " ") in table for name in (*NAMES, *LEXICAL))
    record = json.loads((run[0] / "run/records/dskd-0.json").read_text())
    assert record["lexical"]["coarsewsd20"]["items"] == 10


def test_jobs_depend_on_what_they_are_judged_by(run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, _ = run
    work, job = open_run(folder / "run"), Job("kd", 0)
    before = job.key(work)
    simlex = folder / "lexical/SimLex-999.txt"
    text = simlex.read_text()
    simlex.write_text(text.replace("3.5", "3.6"))
    assert job.key(work) != before
    simlex.write_text(text)
    assert job.key(work) == before
    assert "relations-whole" not in Job("kd", 0, split=DEVELOPMENT).key(_with_tokens(work))


def _with_tokens(work: Any) -> Any:
    import shutil

    shutil.copytree(work.path("tokens-heldout"), work.path("tokens-development"), dirs_exist_ok=True)
    return work


def test_keys_that_are_not_used_are_not_written_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    assert not {"withhold_antonyms", "withhold_seed"} & set(LexiconConfig().model_dump())
    tree = tree_of(tmp_path)
    plain = {**tree, "lexicon": {"sources": tree["lexicon"]["sources"]}}
    plain["evaluation"] = {name: value for name, value in tree["evaluation"].items() if name != "lexical"}
    written = load_recipe(write_recipe(tmp_path, plain)).model_dump(mode="json", by_alias=True)
    assert "lexical" not in written["evaluation"]
    assert "withhold_antonyms" not in written["lexicon"]
    path = write_recipe(tmp_path, tree)
    for override, named in (
        ("lexicon.withhold_antonyms=1.5", "withhold_antonyms"),
        ("lexicon.sources=[]", "needs `sou"),
    ):
        with pytest.raises(InputError, match=named):
            load_recipe(path, [override])
    with pytest.raises(InputError, match="no folder"):
        refuse_problems(load_recipe(path, ["evaluation.lexical.data=nowhere"]), "r")
