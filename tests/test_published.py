"""The published targets against a literal loop over sequences, positions and rows, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensekd.config import PositionsConfig, Recipe
from sensekd.losses import sense_pull, sense_push
from sensekd.presets import PRESETS
from sensekd.published import Neighbours, build_published, draw_neighbours, select_published
from sensekd.targets import Ragged
from sensekd.training.supervision import pick
from test_targets import World, distance, worlds

SEQUENCES, LENGTH = 3, 9


def neighbours_of(world: World, token: int, relation: dict[int, list[int]]) -> list[list[list[float]]]:
    """Vectors of every neighbour that the published code keeps: spans of two pieces and more, with senses."""
    vectors = world.span_vectors()
    spans = [span for span in relation.get(token, []) if len(world.spans[span]) > 1 and vectors[span]]
    return [list(vectors[span].values()) for span in spans]


def published_loss(
    world: World, labels: list[list[int]], whole: list[list[bool]], draws: list[list[float]],
    teacher: list[list[list[float]]], student: list[list[list[float]]], kappa: int, share: float, least: int,
) -> tuple[float, float, int]:  # fmt: skip
    """Pull, push and the number of picked positions, one position after the other; every neighbour is drawn."""
    rows = world.centroids.double().tolist()
    pull, push, count = 0.0, 0.0, 0
    width = len(rows[0]) if rows else 1
    for b, sequence in enumerate(labels):
        synonyms, antonyms = (
            [neighbours_of(world, y, relation) if y >= 0 and whole[b][t] else [] for t, y in enumerate(sequence)]
            for relation in (world.synonyms, world.antonyms)
        )
        related = [t for t in range(len(sequence)) if synonyms[t] or antonyms[t]]
        size = max(math.ceil(share * len(related) - 1e-9), min(least, len(related)))
        picked = sorted(related, key=lambda t, b=b: draws[b][t])[:size]
        others = [t for t, y in enumerate(sequence) if y >= 0 and t not in picked]
        again = sorted(others, key=lambda t, b=b: draws[b][t])[:size]
        for t in picked + again:
            count += 1
            own = [rows[row] for row in world.own(sequence[t])]
            mean = lambda vector, b=b, t=t: distance(vector, student[b][t]) / width  # noqa: E731
            candidates = own + ([row for word in synonyms[t] for row in word] if t in picked else [])
            kept = sorted(candidates, key=lambda row, b=b, t=t: distance(row, teacher[b][t]))[:kappa]
            if kept:
                pull += sum(mean(row) for row in kept) / len(kept)
            if t in picked and antonyms[t]:
                away = own + [row for word in antonyms[t] for row in word]
                kept = sorted(away, key=lambda row, b=b, t=t: distance(row, teacher[b][t]))[:kappa]
                push += sum(max(0.0, 1.0 - mean(row)) for row in kept) / len(kept)
    return pull, push, count


@settings(max_examples=60, deadline=None)
@given(world=worlds(), kappa=st.integers(1, 4), share=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99))
def test_the_loss_equals_a_loop_over_positions(world: World, kappa: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, len(world.counts), (SEQUENCES, LENGTH), generator=generator)
    labels[labels == -1] = -100
    whole = torch.rand(labels.shape, generator=generator) < 0.7
    draws = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    teacher, student = torch.randn(2, SEQUENCES, LENGTH, 6, generator=generator)

    table = build_published(world.dictionary(), world.relations())  # type: ignore[arg-type]
    positions = PositionsConfig(fraction=share, minimum=1)
    chosen, related = pick(labels, table.related(labels, whole), positions, draws)
    targets = select_published(
        table, chosen.reshape(-1), related.reshape(-1), teacher.flatten(0, 1), draws.reshape(-1), (kappa, 25)
    )  # fmt: skip
    states = student.flatten(0, 1)
    push, _ = sense_push(states, targets, 1.0, 1.0)
    pull_sum, push_sum, count = published_loss(
        world, labels.tolist(), whole.tolist(), draws.tolist(),
        teacher.double().tolist(), student.double().tolist(), kappa, share, 1,
    )  # fmt: skip
    assert int((chosen != -100).sum()) == count
    assert sense_pull(states, targets, 1.0).sum.item() == pytest.approx(pull_sum, rel=1e-4, abs=1e-5)
    assert push.sum.item() == pytest.approx(push_sum, rel=1e-4, abs=1e-5)


def test_single_token_neighbours_are_lost_and_own_senses_push() -> None:
    # Token 0 has the synonym [1] and [1, 2], and the antonym [2, 1].
    world = World([2, 1, 1], [[1], [1, 2], [2, 1]], synonyms={0: [0, 1]}, antonyms={0: [2]})
    table = build_published(world.dictionary(), world.relations())  # type: ignore[arg-type]
    rows = table.rows
    here, draws, state = torch.tensor([True]), torch.zeros(1, dtype=torch.float64), torch.zeros(1, 6)
    targets = select_published(table, torch.tensor([0]), here, state, draws, (9, 25))
    # Own rows 0 and 1, and the composed row of [1, 2]; row 2, of the lone token 1, is missing.
    torch.testing.assert_close(targets.pull_mean[0], rows[[0, 1, 4]].mean(0))
    pushed = targets.push_rows[0][targets.push_mask[0]]
    assert {tuple(row.tolist()) for row in pushed} == {tuple(rows[row].tolist()) for row in (0, 1, 5)}
    assert table.related(torch.tensor([0, 1, -100]), torch.tensor([True, True, True])).tolist() == [True, False, False]
    bare = build_published(world.dictionary(), world.relations(), synonyms=False, antonyms=False)  # type: ignore[arg-type]
    assert not bare.related(torch.tensor([0]), here).any()
    assert isinstance(table.to("cpu").neighbours, Neighbours)


def test_drawing_takes_the_limit_at_random_and_the_same_however_a_batch_is_cut() -> None:
    sizes = [40, 3, 0, 26]
    lists = Ragged(torch.tensor([0, *sizes]).cumsum(0), torch.arange(sum(sizes)))
    tokens = torch.arange(4).repeat(500)
    draws = torch.rand(len(tokens), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    crow, spans = draw_neighbours(lists, tokens, draws, 25)
    assert crow.diff().reshape(500, 4).unique(dim=0).tolist() == [[25, 3, 0, 25]]
    taken = [frozenset(spans[a:b].tolist()) for a, b in zip(crow[:-1].tolist(), crow[1:].tolist(), strict=True)]
    assert all(len(part) == size for part, size in zip(taken, [25, 3, 0, 25] * 500, strict=True))
    assert all(part <= set(range(40)) for part in taken[::4])
    assert len(set(taken[::4])) > 490
    # Each of 40 is drawn with probability 25/40: mean 312.5 of 500, standard deviation 10.8.
    often = torch.tensor([sum(span in part for part in taken[::4]) for span in range(40)])
    assert 312.5 - 5 * 10.8 < often.min() < 295
    assert 330 < often.max() < 312.5 + 5 * 10.8
    half_crow, half = draw_neighbours(lists, tokens[1000:], draws[1000:], 25)
    assert torch.equal(half, spans[crow[1000] :])
    assert torch.equal(half_crow, crow[1000:] - crow[1000])


def test_picking_by_hand() -> None:
    labels = torch.tensor([[5, 6, -100, 7, 8, 9, 4]])
    related = torch.tensor([[True, False, True, True, True, False, False]]) & (labels >= 0)
    draw = torch.tensor([[0.5, 0.4, 0.0, 0.1, 0.9, 0.3, 0.2]], dtype=torch.float64)
    chosen, first = pick(labels, related, PositionsConfig(fraction=0.4, minimum=0), draw)
    # Two of three with relations (5 and 7), then the two others with the smallest numbers (4 and 9).
    assert first[0].tolist() == [True, False, False, True, False, False, False]
    assert chosen[0].tolist() == [5, -100, -100, 7, -100, 9, 4]


# ---- the preset


def tree(**more: Any) -> dict[str, Any]:
    needed: dict[str, Any] = {
        "name": "t", "output": "o", "preset": "published", "teacher": {"model": "m"}, "corpus": {"path": "c"},
        "student": {"layers": 2}, "training": {"steps": 5}, "evaluation": {"corpus": {"path": "h"}},
    }  # fmt: skip
    return needed | more


def test_the_preset_fills_in_keys_and_gives_way() -> None:
    recipe = Recipe.model_validate(tree())
    assert recipe.senses.units == "raw"
    loss = recipe.loss
    assert (loss.targets, loss.neighbours, loss.kappa, loss.lam, loss.effective_margin) == (
        "published",
        25,
        5,
        1.0,
        1.0,
    )
    assert loss.positions == PositionsConfig(fraction=0.4, minimum=25)
    for key in ("lambda", "lam"):
        other = Recipe.model_validate(tree(loss={key: 1.5, "kappa": 10}, senses={"units": "sigma"}))
        assert (other.loss.lam, other.loss.kappa, other.senses.units) == (1.5, 10, "sigma")
        assert other.loss.targets == "published"
    assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe
    plain = Recipe.model_validate(tree(preset=None))
    assert (plain.loss.targets, plain.loss.positions, plain.senses.units) == ("method", "all", "sigma")
    assert all(hasattr(Recipe.model_fields[section].annotation, "model_fields") for section in PRESETS["published"])


@pytest.mark.parametrize("loss", [{"positions": "all"}, {"push": "relative"}])
def test_published_targets_need_their_sub_sampling_and_their_hinge(loss: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="targets: published needs"):
        Recipe.model_validate(tree(loss=loss))
