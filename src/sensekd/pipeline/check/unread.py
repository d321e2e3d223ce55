"""Keys of a recipe that are set and change nothing, because another key decides otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sensekd.config import CorpusConfig, Recipe

if TYPE_CHECKING:
    from pydantic import BaseModel

_SENSES_BUILT: Final = (
    "corpus", "assignment", "samples_per_token", "k", "minimum_support", "restarts", "iterations", "window",
    "batch_size", "units", "dtype", "store", "seed",
)  # fmt: skip

_PUSHED: Final = ("push", "margin", "push_temperature")
_PULLED: Final = ("kappa", "pull", "assignment", "assignment_temperature", "confidence", "anneal")

# section, keys, when they are not read, why.
_RULES: Final[tuple[tuple[str, tuple[str, ...], Callable[[Recipe], bool], str], ...]] = (
    ("student", ("importance_tokens",), lambda r: r.student.selection != "importance", "selection is not importance"),
    ("student", ("train_top",), lambda r: r.student.width is not None, "a student of another width trains as a whole"),
    ("student", ("init",), lambda r: r.student.width is None, "the student has the teacher's width"),
    ("loss", ("tau", "divergence"), lambda r: r.loss.alpha == 0, "loss.alpha is 0"),
    ("loss", ("jsd_beta",), lambda r: r.loss.divergence != "jsd", "loss.divergence is not jsd"),
    ("loss", ("chunk_elements",), lambda r: r.loss.chunked == "off", "loss.chunked is off"),
    ("loss", ("neighbours",), lambda r: r.loss.targets != "published", "loss.targets is not published"),
    ("loss", ("assignment_temperature",), lambda r: r.loss.assignment != "soft", "loss.assignment is not soft"),
    ("loss", ("assignment", "assignment_temperature"), lambda r: r.loss.kappa == 1, "loss.kappa is 1"),
    ("loss", ("push_temperature",), lambda r: r.loss.push != "contrastive", "loss.push is not contrastive"),
    ("loss", ("margin",), lambda r: r.loss.push == "contrastive", "loss.push is contrastive"),
    ("senses", ("k_max",), lambda r: r.senses.k != "adaptive", "senses.k is not adaptive"),
    (
        "loss", ("beta_positive", "beta_negative", *_PULLED, *_PUSHED, "synonyms", "antonyms", "positions"),
        lambda r: r.loss.lam == 0, "loss.lambda is 0",
    ),
    ("loss", (*_PUSHED, "beta_negative"), lambda r: not r.loss.antonyms, "loss.antonyms is off"),
    (
        "loss", ("synonyms", "antonyms", *_PUSHED), lambda r: not r.lexicon.sources,
        "the recipe has no lexicon.sources",
    ),
    ("linking", ("max_pieces", "floor"), lambda r: not r.lexicon.sources, "the recipe has no lexicon.sources"),
    ("senses", _SENSES_BUILT, lambda r: r.senses.dictionary is not None, "senses.dictionary names one that stands"),
    ("lexicon", ("language", "drop_tags"), lambda r: not r.lexicon.sources, "the recipe has no lexicon.sources"),
)  # fmt: skip


def _changed(section: BaseModel, key: str) -> bool:
    """Whether a key was set to something else than its default."""
    field = type(section).model_fields[key]
    return key in section.model_fields_set and getattr(section, key) != field.get_default(call_default_factory=True)


def _corpus(where: str, part: CorpusConfig) -> list[str]:
    needs = {
        "subset": (part.format == "hub", "format is not hub"),
        "separator": (part.format == "text", "format is not text"),
        "field": (part.records == "text" and part.format != "text", "rows have no field of a text"),
        "messages_field": (part.records == "messages", "records are not messages"),
        "prompt_field": (part.records == "completion", "records are not completions"),
        "completion_field": (part.records == "completion", "records are not completions"),
        "split": (part.format == "hub", "format is not hub"),
        "seed": (part.fraction < 1 or part.limit is not None, "no share of the documents is drawn"),
        "template": (part.chat or part.records == "messages", "no conversation is rendered"),
    }
    found = [f"{where}.{key}: {why}" for key, (read, why) in needs.items() if not read and _changed(part, key)]
    answers = part.respond
    if answers is not None and answers.temperature == 0:
        found += [f"{where}.respond.{key}: temperature is 0" for key in ("top_p", "seed") if _changed(answers, key)]
    return found


def unread_keys(recipe: Recipe) -> list[str]:
    """Every such key with the reason, one line each."""
    found = [
        f"{section}.{key}: {why}"
        for section, keys, unread, why in _RULES
        if unread(recipe)
        for key in keys
        if _changed(getattr(recipe, section), key)
    ]
    corpora = (
        ("corpus", recipe.corpus),
        ("senses.corpus", recipe.senses.corpus),
        ("evaluation.corpus", recipe.evaluation.corpus),
    )
    for name, corpus in corpora:
        if corpus is None:
            continue
        for number, part in enumerate(corpus.parts):
            found += _corpus(f"{name}.mixture[{number}]" if corpus.mixture else name, part)
    return list(dict.fromkeys(found))
