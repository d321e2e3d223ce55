"""What the study compares: every experiment as a recipe, with the question that it answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path("runs/study")
RESULTS: Final = Path("docs/study")
STORIES: Final = "${SENSEKD_DATA}/corpora/tinystories"
WORDNET: Final = "${SENSEKD_DATA}/lexicon/wordnet/wordnet-3.0.lmf.xml.xz"

WORKERS: Final = 1
"""Processes of one experiment; two experiments may run beside each other."""

Tree = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One `sensekd compare` (or one `--sensitivity`).

    Attributes:
        name: of its recipe, its folder and its results.
        question: what it is for.
        tree: the recipe.
        sensitivity: vary one factor at a time instead of comparing arms.
    """

    name: str
    question: str
    tree: Tree
    sensitivity: bool = False


def _stories(name: str, **part: Any) -> Tree:
    return {"path": f"{STORIES}/{name}", "format": "text", "separator": "<|endoftext|>", **part}


def _books(name: str, **part: Any) -> Tree:
    return {"path": f"{ROOT}/texts/{name}.jsonl", **part}


# Of every teacher: its folder, its training text, and two held-out texts that share no document with one another.
TEACHERS: Final[Mapping[str, Tree]] = {
    "stories3m": {
        "model": "${SENSEKD_DATA}/models/stories3m",
        "corpus": _stories("tinystories_test_decoded.txt"),
        "development": _stories("tinystories_val_decoded.txt", max_documents=120),
        "test": _stories("tinystories_val_decoded.txt", skip_documents=1000, max_documents=240),
    },
    **{
        name: {
            "model": f"{ROOT}/{name}",
            "corpus": _books("train"),
            "development": _books("development", max_documents=40),
            "test": _books("test", max_documents=80),
        }
        for name in ("books4k", "books1k")
    },
}

TOKENS: Final = 20_480
"""Tokens of the little regime: 160 rows of 128, read 12 times."""


def base(teacher: str, output: str, *, tokens: int | None = TOKENS) -> Tree:
    """The regime that was fixed beforehand: little text read often, half of the layers, the top one trained, κ = 1."""
    known = TEACHERS[teacher]
    corpus = {**known["corpus"], **({} if tokens is None else {"max_tokens": tokens})}
    return {
        "name": f"study-{output}",
        "output": f"{ROOT}/{output}",
        "device": "cpu",
        "teacher": {"model": known["model"]},
        "corpus": corpus,
        "lexicon": {"sources": [{"kind": "wordnet", "path": WORDNET}]},
        "linking": {"floor": 0.0},
        "student": {"layers": 3, "train_top": 1},
        "loss": {"kappa": 1},
        "training": {"steps": 240, "batch_size": 8, "sequence_length": 128, "learning_rate": 1e-3},
        "evaluation": {"corpus": known["test"]},
        "compare": {"seeds": [0, 1, 2], "workers": WORKERS, "correction": "holm"},
    }


CACHED: Final[Tree] = {"mode": "before", "top": "all", "log_probs": "float32", "trunk": True}
"""The whole distribution and the trunk's states, stored once: trains what the live teacher trains, in less time."""


STORED: Final[Tree] = {"mode": "before", "top": 64, "trunk": True}
"""What a user would store: the 64 likeliest tokens, in half precision."""


def changed(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """A copy with dotted keys replaced."""
    new = copy.deepcopy(tree)
    for key, value in changes.items():
        *path, last = key.split(".")
        at = new
        for name in path:
            at = at.setdefault(name, {})
        at[last] = value
    return new


def _tune(trials: int, **ranges: tuple[float, float]) -> Tree:
    keys = {"learning_rate": "training.learning_rate", "alpha": "loss.alpha", "lam": "loss.lambda", "mu": "loss.mu"}
    space = {keys[name]: {"low": low, "high": high} for name, (low, high) in ranges.items()}
    return {"trials": trials, "metric": "kl", "space": space}


TUNE: Final = _tune(5, learning_rate=(5e-4, 4e-3), alpha=(0.3, 3.0), lam=(0.3, 10.0), mu=(0.3, 10.0))

LAMBDA: Final = 3.0
"""λ of the side questions."""

COST: Final = 1.05
"""Time of a step of `dskd` over one of `kd`: what the paper reports; `make bench ONLY=steps` measures less."""

_ALIKE: Final[Tree] = {"loss.alpha": 2.4, "training.learning_rate": 3.5e-3}
TUNED: Final[Mapping[str, Tree]] = {"stories3m": _ALIKE, "books4k": _ALIKE}
"""What tuning chose for plain KD in `<teacher>-main`: where the stored and the lexical questions start from."""

MU: Final[Mapping[str, float]] = {"stories3m": 3.0, "books4k": 3.0}
"""Hidden-state MSE there; three times as much is tried too (tuning chose 9.4, at another learning rate)."""


def _main(teacher: str) -> Experiment:
    tree = changed(base(teacher, f"{teacher}-main"), {
        "compare.seeds": [0, 1, 2, 3, 4],
        "compare.development": {"corpus": TEACHERS[teacher]["development"]},
        "compare.tune": TUNE,
    })  # fmt: skip
    if teacher != "stories3m":
        tree = changed(tree, {"cache": CACHED})
    return Experiment(f"{teacher}-main", "Does DSKD beat plain KD at equal tokens, every arm tuned alike?", tree)


def _time(teacher: str) -> Experiment:
    tree = changed(base(teacher, f"{teacher}-time"), {
        "loss.lambda": LAMBDA,
        "cache": CACHED,
        "compare.arms": ["kd", "dskd-own"],
        "compare.seeds": [0, 1, 2, 3, 4],
        "compare.budget": "time",
        "compare.costs": {"kd": 1.0, "dskd-own": COST},
        **({} if teacher == "stories3m" else {"loss.pull": "teacher"}),
    })  # fmt: skip
    return Experiment(f"{teacher}-time", "Does it at equal time, at the start values?", tree)


def _fewer(teacher: str) -> Experiment:
    tree = changed(base(teacher, f"{teacher}-fewer"), {
        "loss.lambda": LAMBDA,
        "training.steps": 192,
        "cache": CACHED,
        "compare.arms": ["kd", "dskd-own"],
        "compare.seeds": [0, 1, 2],
    })  # fmt: skip
    return Experiment(f"{teacher}-fewer", "The same KL with a fifth fewer tokens?", tree)


def _stored(teacher: str) -> Experiment:
    """Aim (b). A stored target is 4 bytes a position (the row of a sense) or 16 (a sense and a code of 15 bytes)."""
    mu = MU.get(teacher, LAMBDA)
    tree = changed(base(teacher, f"{teacher}-stored"), {
        **TUNED.get(teacher, {}),
        "cache": CACHED,
        "compare.seeds": [0, 1, 2],
        "compare.arms": ["kd"],
        "compare.custom": {
            "hidden": {"loss.lambda": 0.0, "loss.mu": mu},
            "hidden-x3": {"loss.lambda": 0.0, "loss.mu": 3 * mu},
            "code16": {"loss.lambda": 0.0, "loss.mu": mu, "cache.residual": 15},
            "code16-x3": {"loss.lambda": 0.0, "loss.mu": 3 * mu, "cache.residual": 15},
            "sense4": {"loss.lambda": mu, "loss.synonyms": False, "loss.antonyms": False},
        },
    })  # fmt: skip
    return Experiment(f"{teacher}-stored", "What is left of hidden-state MSE's gain in 16 stored bytes?", tree)


def _refined(teacher: str, top: int) -> Experiment:
    """Aim (b) as a user has it: k stored tokens, float16; the stored scores correct what is decoded."""
    mu = 3 * MU.get(teacher, LAMBDA)
    hidden = {"loss.lambda": 0.0, "loss.mu": mu}
    tree = changed(base(teacher, f"{teacher}-refined{top}"), {
        **TUNED.get(teacher, {}),
        "cache": {"mode": "before", "top": top, "trunk": True},
        "compare.seeds": [0, 1, 2] if top == 64 else [0, 1],
        "compare.arms": ["kd"],
        "compare.custom": {
            "hidden": hidden,
            "code16": {**hidden, "cache.residual": 15},
            "refined16": {**hidden, "cache.residual": 15, "cache.refine": True},
        },
    })  # fmt: skip
    return Experiment(f"{teacher}-refined{top}", f"The same from {top} stored tokens, corrected by their scores", tree)


def _lexicon(teacher: str) -> Experiment:
    """Aim (c): a fifth of the antonym pairs is withheld from training."""
    mu = MU.get(teacher, LAMBDA)
    senses = {"loss.lambda": 0.3 * LAMBDA, "loss.mu": mu}
    tree = changed(base(teacher, f"{teacher}-lexicon"), {
        **TUNED.get(teacher, {}),
        "lexicon.withhold_antonyms": 0.2,
        "cache": CACHED,
        "evaluation.lexical": {"data": "${SENSEKD_DATA}/senses", "limits": {"coarsewsd20": 40}},
        "compare.arms": ["kd"],
        "compare.baseline": "hidden",
        "compare.seeds": [0, 1, 2],
        "compare.custom": {
            "hidden": {"loss.lambda": 0.0, "loss.mu": mu},
            "hidden+dskd": dict(senses),
            "hidden+relative": {**senses, "loss.push": "relative"},
            "hidden+contrastive": {**senses, "loss.push": "contrastive", "loss.beta_negative": 3.0},
        },
    })  # fmt: skip
    return Experiment(f"{teacher}-lexicon", "Do senses and lexicon add to hidden-state MSE in lexical tests?", tree)


FRESH: Final[Mapping[str, Mapping[str, Tree]]] = {
    "stories3m": {
        "corpus": _stories("tinystories_test_decoded.txt", skip_documents=1000),
        "development": _stories("tinystories_val_decoded.txt", skip_documents=120, max_documents=120),
        "test": _stories("tinystories_val_decoded.txt", skip_documents=2000, max_documents=240),
    },
    "books4k": {
        "corpus": _books("train", skip_documents=1000),
        "development": _books("development", skip_documents=40, max_documents=40),
        "test": _books("test", skip_documents=80, max_documents=80),
    },
}
"""Text of the second round: nothing had been trained or tested on it when the forms of the loss were chosen."""

LAST: Final[Mapping[str, Mapping[str, Tree]]] = {
    "stories3m": {
        "corpus": _stories("tinystories_test_decoded.txt", skip_documents=2000),
        "development": _stories("tinystories_val_decoded.txt", skip_documents=240, max_documents=120),
        "test": _stories("tinystories_val_decoded.txt", skip_documents=2500, max_documents=240),
    },
    "books4k": {
        "corpus": _books("train", skip_documents=2000),
        "development": _books("development", skip_documents=80, max_documents=40),
        "test": _books("test", skip_documents=160, max_documents=80),
    },
}
"""Text of the third round: neither trained nor tested on in the first two."""

TUNE_AGAIN: Final = _tune(6, learning_rate=(7e-4, 4e-3), alpha=(0.5, 3.0), lam=(0.3, 10.0), mu=(1.0, 30.0))
TUNE_WIDE: Final = _tune(8, learning_rate=(7e-4, 4e-3), alpha=(1.0, 30.0), lam=(0.1, 10.0), mu=(1.0, 100.0))

OWN: Final[Tree] = {"loss.synonyms": False, "loss.antonyms": False}
REACH: Final[Tree] = {**OWN, "loss.lambda": LAMBDA, "loss.pull": "teacher"}
CODE: Final[Tree] = {"loss.lambda": 0.0, "loss.mu": LAMBDA, "cache.residual": 15}


def _fresh(teacher: str, output: str, texts: Mapping[str, Mapping[str, Tree]] = FRESH) -> Tree:
    """The regime that was fixed beforehand, on fresh text, five seeds, every arm tuned alike."""
    new = texts[teacher]
    return changed(base(teacher, output), {
        "corpus": {**new["corpus"], "max_tokens": TOKENS},
        "evaluation.corpus": new["test"],
        "compare.seeds": [0, 1, 2, 3, 4],
        "compare.development": {"corpus": new["development"]},
        "compare.tune": TUNE_AGAIN,
        "compare.arms": ["kd"],
    })  # fmt: skip


def _live_and_stored(
    teacher: str,
    name: str,
    texts: Mapping[str, Mapping[str, Tree]],
    changes: Tree,
    more: Tree,
    questions: tuple[str, str],
) -> list[Experiment]:
    """With the live teacher and from 64 stored tokens: `pull: teacher`, a sense with its code, and more live arms."""
    regimes: dict[str, tuple[Tree, Tree]] = {
        name: (CACHED, {**more, "senses": REACH, "code16": CODE}),
        f"{name}64": (STORED, {"senses": REACH, "refined16": {**CODE, "cache.refine": True}}),
    }
    return [
        Experiment(
            f"{teacher}-{regime}", question,
            changed(_fresh(teacher, f"{teacher}-{regime}", texts), {**changes, "cache": cache, "compare.custom": arms}),
        )
        for (regime, (cache, arms)), question in zip(regimes.items(), questions, strict=True)
    ]  # fmt: skip


def _confirm(teacher: str) -> list[Experiment]:
    """Aim (a) again, with the two forms that the first round had led to: `pull: teacher`, and a sense with its code."""
    hidden = {"hidden": {"loss.lambda": 0.0, "loss.mu": LAMBDA}}
    return _live_and_stored(
        teacher, "fresh", FRESH, {}, hidden,
        ("On fresh text: does a changed sense loss beat plain KD, tuned alike?",
         "The same from 64 stored tokens, without the teacher"),
    )  # fmt: skip


def _wide(teacher: str) -> list[Experiment]:
    """Aim (a) a last time: α and μ may be ten times as large as in the second round, where tuning met the edge of α."""
    return _live_and_stored(
        teacher, "wide", LAST, {"compare.tune": TUNE_WIDE}, {},
        ("On text still unseen, with a KL term as heavy as it likes?",
         "The same from 64 stored tokens, without the teacher"),
    )  # fmt: skip


def _fewer_fresh(teacher: str, regime: str, arm: str) -> list[Experiment]:
    """A fifth less text and a fifth fewer steps, with the settings that tuning chose for all of it."""
    path = RESULTS / f"{teacher}-{regime}.json"
    if not path.exists():
        return []
    tuned = json.loads(path.read_text(encoding="utf-8"))
    chosen = {name: found["settings"] for name, found in tuned["tuning"]["arms"].items()}
    whole = tuned["recipe"]
    tree = changed(whole, {
        "name": f"{whole['name']}-fewer",
        "output": f"{whole['output']}-fewer",
        "corpus.max_tokens": TOKENS * 4 // 5,
        "training.steps": 192,
        "training.learning_rate": chosen[arm]["training.learning_rate"],
        "loss.alpha": chosen["kd"]["loss.alpha"],
        "compare.custom": {
            arm: {
                **whole["compare"]["custom"][arm],
                **{key: value for key, value in chosen[arm].items() if key.startswith("loss.")},
            }
        },
    })  # fmt: skip
    del tree["compare"]["tune"], tree["compare"]["development"]
    return [Experiment(f"{teacher}-{regime}-fewer", "The same KL from a fifth less text in a fifth fewer steps?", tree)]


def _alpha(teacher: str) -> list[Experiment]:
    """Which α to start from, and whether the best lies beyond what was tuned: one seed, judged on development text."""
    tree = changed(base(teacher, f"{teacher}-alpha"), {
        "corpus": {**FRESH[teacher]["corpus"], "max_tokens": TOKENS},
        "evaluation.corpus": FRESH[teacher]["development"],
        "compare.seeds": [0],
        "compare.arms": ["kd"],
    })  # fmt: skip
    senses = {**REACH, "loss.lambda": 1.0}
    arms: Tree = {"senses": senses}
    for alpha in (1.5, 3.0, 6.0, 12.0):
        arms[f"kd-{alpha:g}"] = {"loss.alpha": alpha, "loss.lambda": 0.0}
        arms[f"senses-{alpha:g}"] = {"loss.alpha": alpha, **senses}
    stored = changed(tree, {
        "name": f"study-{teacher}-alpha64",
        "output": f"{ROOT}/{teacher}-alpha64",
        "cache": STORED,
        "loss.alpha": 3.0,
        "compare.custom": {name: arms[name] for name in ("kd-6", "kd-12")},
    })  # fmt: skip
    return [
        Experiment(f"{teacher}-alpha", "The weight of the KL term: on development text",
                   changed(tree, {"cache": CACHED, "compare.custom": arms})),
        Experiment(f"{teacher}-alpha64", "The same from 64 stored tokens", stored),
    ]  # fmt: skip


PIECES: Final[Mapping[str, Tree]] = {
    "own": OWN,
    "own-kappa5": {**OWN, "loss.kappa": 5},
    "synonyms": {"loss.antonyms": False},
    "antonyms": {"loss.synonyms": False},
    "contrastive": {"loss.push": "contrastive"},
    "soft": {"loss.kappa": 5, "loss.assignment": "soft", "cache.mode": "off"},
    "confidence": {"loss.confidence": "probability"},
    "anneal": {"loss.anneal": {"start": 0.0, "end": 0.7, "to": 0.0}},
}
"""What each part and each change of the method's free choices adds: arms beside `kd` and `dskd`, at λ = 3, κ = 1."""


def _reach(teacher: str) -> Experiment:
    arms = {"own": OWN, "own-reach": {**OWN, "loss.pull": "teacher"}}
    if teacher == "books1k":
        arms |= {
            "own-weak": {**OWN, "loss.lambda": 0.3},
            "reach": {"loss.pull": "teacher"},
            "hidden-3": {"loss.lambda": 0.0, "loss.mu": 3.0},
        }
    tree = changed(base(teacher, f"{teacher}-reach"), {
        "loss.lambda": LAMBDA,
        "compare.arms": ["kd"],
        "compare.custom": arms,
    })  # fmt: skip
    return Experiment(f"{teacher}-reach", "A pull that ends where the teacher is", tree)


def _pieces(teacher: str) -> list[Experiment]:
    # One folder for all: what a variant does not touch (plain KD above all) is trained once.
    plain = changed(base(teacher, f"{teacher}-little"), {"loss.lambda": LAMBDA, "cache": CACHED})
    if teacher != "stories3m":  # The plain pull hurts there, whatever is added to it.
        plain = changed(plain, {"loss.pull": "teacher"})
    arms = {"compare.arms": ["kd", "dskd"], "compare.custom": dict(PIECES)}
    own = {"compare.arms": ["kd", "dskd-own"]}
    found = [Experiment(f"{teacher}-pieces", "What does each part add, and each change of a free choice?",
                        changed(plain, arms))]  # fmt: skip
    variants: dict[str, tuple[str, Tree]] = {
        "hypernyms": ("What do hypernyms add?", {"lexicon.hypernyms": 0.5, "compare.arms": ["kd", "dskd"]}),
        "next": ("States filed under the actual next token", {"senses.assignment": "next"}),
        "agree": ("States kept where prediction and text agree", {"senses.assignment": "agree"}),
        "adaptive": ("As many senses as the states need", {"senses.k": "adaptive"}),
        "k40": ("Many senses", {"senses.k": 40}),
        "more-text": ("Senses of all of the text, training on little of it",
                      {"senses.corpus": TEACHERS[teacher]["corpus"], "senses.k": 40}),
    }  # fmt: skip
    for name, (question, changes) in variants.items():
        found.append(Experiment(f"{teacher}-{name}", question, changed(plain, {**own, **changes})))
    published = changed(plain, {"compare.arms": ["kd", "dskd"], "preset": "published", "cache": {"mode": "off"}})
    del published["loss"]
    found.append(Experiment(f"{teacher}-published", "The published setting, in its raw units", published))
    return found


def _regimes(teacher: str) -> list[Experiment]:
    arms = {"compare.arms": ["kd", "kd+hidden", "dskd-own", "dskd"], "loss.lambda": LAMBDA}
    if teacher != "stories3m":  # As in `_pieces`.
        arms |= {"loss.pull": "teacher"}
    variants: dict[str, tuple[str, Tree, int | None]] = {
        "much-text": ("Much text, read once", {}, None),
        "top2": ("Two trainable layers", {"student.train_top": 2}, TOKENS),
        "top3": ("Three trainable layers", {"student.train_top": 3, "cache": CACHED}, TOKENS),
        "top4": ("Four layers, all trained", {"student.layers": 4, "student.train_top": 4, "cache": CACHED}, TOKENS),
        "third": ("A third of the layers", {"student.layers": 2, "cache": CACHED}, TOKENS),
    }
    return [
        Experiment(
            f"{teacher}-{name}", question, changed(base(teacher, f"{teacher}-{name}", tokens=tokens), {**arms, **more})
        )
        for name, (question, more, tokens) in variants.items()
    ]


def _assigned(teacher: str) -> list[Experiment]:
    """Whether `next`, which gained in the first round, gains on fresh text with a well weighted KL."""
    own = {**OWN, "loss.pull": "teacher"}
    tree = changed(base(teacher, f"{teacher}-assigned"), {
        "corpus": {**FRESH[teacher]["corpus"], "max_tokens": TOKENS},
        "evaluation.corpus": FRESH[teacher]["test"],
        "cache": CACHED,
        "loss.alpha": 3.0,
        "compare.arms": ["kd"],
        "compare.custom": {f"own-{lam:g}": {**own, "loss.lambda": lam} for lam in (1.0, 3.0)},
    })  # fmt: skip
    return [
        Experiment(f"{teacher}-assigned-{name}", f"States filed under the {which} token, on fresh text",
                   changed(tree, {"senses.assignment": name}))
        for name, which in {"predicted": "likeliest", "next": "actual next"}.items()
    ]  # fmt: skip


def _much_stored(teacher: str) -> Experiment:
    """Every row once, from 64 stored tokens: what a recipe for a large teacher does."""
    steps = base(teacher, "")["training"]
    tokens = steps["steps"] * steps["batch_size"] * steps["sequence_length"]
    name = f"{teacher}-much-text64"
    tree = changed(base(teacher, name, tokens=tokens), {
        "cache": STORED,
        "loss.alpha": 3.0,
        "compare.arms": ["kd"],
        "compare.custom": {
            "senses": {**REACH, "loss.lambda": 1.0},
            "refined16": {**CODE, "loss.mu": 10.0, "cache.refine": True},
            "refined16-mu3": {**CODE, "loss.mu": 3.0, "cache.refine": True},
        },
    })  # fmt: skip
    return Experiment(name, "Much text, read once, from 64 stored tokens", tree)


def _sensitivity(teacher: str, name: str, question: str, factors: Tree, changes: Tree) -> Experiment:
    tree = changed(base(teacher, f"{teacher}-{name}"), {
        "cache": CACHED,
        "compare.arms": ["kd", "dskd"],
        "compare.seeds": [0],
        "compare.development": {"corpus": TEACHERS[teacher]["development"]},
        "compare.sensitivity": factors,
        **changes,
    })  # fmt: skip
    return Experiment(f"{teacher}-{name}", question, tree, sensitivity=True)


def _sensitivities(teacher: str) -> list[Experiment]:
    lambdas = {"lambda": [0.3, 1.0, 3.0, 10.0], "kappa": [1, 5]}
    raw = {"senses.units": "raw", "loss.lambda": 0.1, "loss.margin": 1.0}
    return [
        _sensitivity(teacher, "sensitivity", "Does one default serve several teachers?",
                     {**lambdas, "k": [5, 10, 40], "margin": [0.4, 0.8, 1.6]}, {}),
        _sensitivity(teacher, "sensitivity-reach", "The same of the pull that ends at the teacher", lambdas,
                     {"loss.pull": "teacher"}),
        _sensitivity(teacher, "sensitivity-raw", "The same of the plain pull in raw units",
                     {"lambda": [0.03, 0.1, 0.3, 1.0], "margin": [1.0, 4.0, 16.0]}, raw),
    ]  # fmt: skip


def plan() -> dict[str, Experiment]:
    """All experiments by name, in the order in which they are run."""
    pairs = ("stories3m", "books4k")
    small = changed(base("books1k", "books1k-main"), {
        "loss.lambda": LAMBDA, "cache": CACHED,
        "compare.arms": ["pruned", "ce", "kd", "kd+hidden", "dskd-own", "dskd"],
    })  # fmt: skip
    found = [
        *(_main(teacher) for teacher in pairs),
        *(_stored(teacher) for teacher in pairs),
        *(_refined(teacher, top) for teacher in pairs for top in (64, 256)),
        *(_lexicon(teacher) for teacher in pairs),
        *_pieces("stories3m"),
        *(each for teacher in pairs for each in _confirm(teacher)),
        *(each for teacher in pairs for each in _fewer_fresh(teacher, "fresh", "code16")),
        *(each for teacher in pairs for each in _fewer_fresh(teacher, "fresh64", "refined16")),
        *(each for teacher in pairs for each in _alpha(teacher)),
        *(each for teacher in pairs for each in _wide(teacher)),
        *(each for teacher in pairs for each in _fewer_fresh(teacher, "wide64", "refined16")),
        *(each for teacher in pairs for each in _assigned(teacher)),
        Experiment("books1k-main", "Does a small vocabulary gain more?", small),
        *(_reach(teacher) for teacher in TEACHERS),
        *_regimes("stories3m"),
        *(_time(teacher) for teacher in pairs),
        *(_fewer(teacher) for teacher in pairs),
        *(each for teacher in pairs for each in _sensitivities(teacher)),
        *_regimes("books4k"),
        *(_much_stored(teacher) for teacher in pairs),
        *_pieces("books4k"),
    ]
    return {experiment.name: experiment for experiment in found}
