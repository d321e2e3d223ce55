"""Results of a comparison as the contract has them, made up."""

from __future__ import annotations

import math
import random
from typing import Any

from sensekd.evaluation.compare import ArmResult, summarise

# Where each arm stands between nothing learnt (0) and the teacher (1), and its advantage where words are meant.
LEVELS = {
    "teacher": (1.0, 0.0), "pruned": (0.02, 0.0), "ce": (0.55, 0.0), "kd": (0.70, 0.0), "kd+hidden": (0.70, 0.012),
    "dskd-own": (0.705, 0.02), "dskd": (0.705, 0.06),
}  # fmt: skip
CHANCE = {"facts": 0.25, "senses": 0.25, "relations": 0.25}
TOP = {"facts": 0.74, "senses": 0.81, "relations": 0.86}


def runs(seeds: int = 3) -> list[ArmResult]:
    """Runs whose differences are known in sign: dskd is better where words are meant, and no different elsewhere."""
    found = []
    for arm, (level, bonus) in LEVELS.items():
        for seed in range(1 if arm in {"teacher", "pruned"} else seeds):
            rng = random.Random(f"{arm}{seed}")
            noise = [rng.gauss(0, 0.006) for _ in range(8)]
            metrics = {
                name: CHANCE[name] + level * (TOP[name] - CHANCE[name]) + bonus * (name != "facts") + noise[at]
                for at, name in enumerate(CHANCE)
            }
            metrics["antonym_discrimination"] = 0.5 + 0.45 * level + bonus / 2 + noise[3]
            metrics["agreement"] = 1.0 if arm == "teacher" else 0.1 + 0.8 * level + noise[4]
            metrics["ce"] = 5.2 - 2.6 * level + noise[5]
            metrics["kl"] = 0.0 if arm == "teacher" else 2.4 * (1 - level) + noise[6]
            metrics |= {"tokens": 20_000.0, "antonym_positions": 812.0}
            found.append(ArmResult(arm, seed, metrics, 0 if arm in {"teacher", "pruned"} else 614_400))
    return found


def histories(seeds: int = 3, steps: int = 600) -> dict[str, list[dict[str, float]]]:
    """Log records of every trained arm."""
    found = {}
    for arm in ("ce", "kd", "kd+hidden", "dskd-own", "dskd"):
        for seed in range(seeds):
            rng = random.Random(f"{arm}{seed}")
            rows: list[dict[str, float]] = []
            for step in range(10, steps + 1, 10):
                fall = math.exp(-step / 150)
                row = {"step": step, "ce": 2.9 + 2.2 * fall + rng.gauss(0, 0.03), "learning_rate": 1e-3}
                row["tokens_per_second"] = 7000.0 + rng.gauss(0, 90)
                row["loss"] = row["ce"] * 1.4
                if arm != "ce":
                    row["kl"] = 0.4 + 1.3 * fall + rng.gauss(0, 0.02)
                if arm == "kd+hidden":
                    row["hidden"] = 0.5 + 0.9 * fall + rng.gauss(0, 0.01)
                if arm.startswith("dskd"):
                    row["pull"] = 0.45 + 0.8 * fall + rng.gauss(0, 0.01)
                if arm == "dskd":
                    row["push"] = 0.02 + 0.15 * fall + abs(rng.gauss(0, 0.004))
                    row["push_active"] = 0.05 + 0.5 * fall
                rows.append(row)
            found[f"{arm}-{seed}"] = [*rows, {"step": steps, "train_runtime": 12.0}]
    return found


def provenance() -> dict[str, Any]:
    return {
        "recipe": {
            "name": "demo", "seed": 0, "student": {"layers": 2, "train_top": 1},
            "loss": {"alpha": 0.7, "tau": 2.0, "lambda": 1.0, "kappa": 5},
            "compare": {"arms": list(LEVELS)[1:], "seeds": [0, 1, 2], "baseline": "kd"},
        },
        "command": "sensekd compare recipes/demo.yaml",
        "teacher": {"model": "runs/demo/teacher", "weights": "91c0ffee91c0ffee", "width": 128, "vocabulary": 2048},
        "inputs": {"corpus": "aa11", "heldout": "bb22", "questions": {"facts": "cc33"}},
        "versions": {"python": "3.11.2", "sensekd": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }  # fmt: skip


def results(seeds: int = 3) -> dict[str, Any]:
    """The whole tree."""
    arms = runs(seeds)
    return {
        "arms": [run.as_dict() for run in arms],
        **summarise(arms, "kd"),
        "chance": CHANCE,
        "senses": {
            "ami": 0.57, "ami_left": 0.66, "ami_shuffled": 0.01, "purity": 0.86, "purity_most_frequent": 0.55,
            "occurrences": 4210, "skipped": 12,
        },
        "examples": [
            {
                "word": "bank",
                "senses": [
                    {"support": 84, "contexts": ["the fisherman walked along the muddy", "they pulled a raft to the"]},
                    {"support": 61, "contexts": ["she took the cheque to the", "the clerk of the old"]},
                ],
            },
            {"word": "spring", "senses": [{"support": 40, "contexts": ["the snow is gone and it is"]}]},
        ],
        "coverage": {
            "lexicon": {"relations": 812, "synonym": 512, "antonym": 300, "dropped": {"self-pairs": 3, "conflicts": 2}},
            "linking": {
                "words": 391, "heads": 902, "candidates": 940,
                "synonyms_by_pieces": [1204, 311, 57], "antonyms_by_pieces": [610, 140, 12],
                "dropped": {"longer than 3 pieces": 18, "no senses for a piece": 4},
            },
            "positions": {"labels": 614_400, "own": 560_000, "synonym": 101_000, "antonym": 60_500},
        },
        "provenance": provenance(),
        "times": {
            "stages": {"world": 1.2, "teacher": 92.4, "lexicon": 0.4, "senses": 14.9, "evaluate": 22.0},
            "arms": {f"{run.arm}-{run.seed}": 11.0 + run.seed for run in arms},
        },
    }  # fmt: skip
