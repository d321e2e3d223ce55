"""Text as token sets, with what the teacher answers to prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensekd.config import CorpusConfig
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.workspace import Workspace, source_key

if TYPE_CHECKING:
    from sensekd.pipeline.stages import Progress
    from sensekd.training.respond import Responses


def prepare_tokens(work: Workspace, name: str, corpus: CorpusConfig) -> TokenDocuments:
    """Tokenise a corpus into `tokens-<name>`, with the teacher's continuations where they are its targets."""
    from sensekd.training.mixture import tokenise_corpus

    folder = work.path(f"tokens-{name}")
    answers = prepare_responses(work, name, corpus)
    key = [corpus.model_dump(mode="json"), corpus_key(corpus), work.teacher_key["tokenizer"]]
    key += [[number, each.manifest.id] for number, each in answers.items()]

    def build(_: Progress) -> None:
        tokenise_corpus(corpus, work.tokenizer, folder, answers)
        refuse_changed(f"the corpus {corpus.name}", key[1], corpus_key(corpus))

    work.stages.run(f"tokens {name}", key, [folder], build)
    return TokenDocuments.open(folder)


def prepare_responses(work: Workspace, name: str, corpus: CorpusConfig) -> dict[int, Responses]:
    """Let the teacher answer the prompts of every part that asks for it, into `responses-<name>-<part>`."""
    from sensekd.training.respond import Responses

    found = {}
    for number, part in enumerate(corpus.parts):
        if part.respond is None:
            continue
        folder = work.path(f"responses-{name}-{number}")
        key = [part.model_dump(mode="json"), corpus_key(part), work.teacher_key]
        work.stages.run(f"responses {name} {number}", key, [folder], partial(_respond, work, part, folder, key[1]))
        found[number] = Responses.open(folder)
    return found


def _respond(work: Workspace, part: CorpusConfig, folder: Path, before: object, progress: Progress) -> None:
    from sensekd.training.mixture import prompts
    from sensekd.training.respond import Asked, respond

    assert part.respond is not None
    teacher = work.teacher
    asked = Asked(teacher.model, teacher.tokenizer, teacher.identity)
    respond(asked, prompts(part, teacher.tokenizer), part.respond, folder, progress)
    refuse_changed(f"the corpus {part.path}", before, corpus_key(part))


def refuse_changed(what: str, before: object, after: object) -> None:
    """Refuse what was made from files that somebody wrote to meanwhile; without its stamp it is made again.

    Raises:
        InputError: the fingerprints differ.
    """
    if before != after:
        raise InputError(
            f"{what} changed while it was read", "files that stay as they are during a run",
            "start again when nobody writes to them",
        )  # fmt: skip


def corpus_key(corpus: CorpusConfig) -> list[Any]:
    """Fingerprints of the files of a corpus: of every part, with what stands beside it and its chat template."""
    found: list[Any] = []
    for part in corpus.parts:
        path = Path(part.path)
        files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if part.records == "piqa":
            files.append(path.with_name(f"{path.stem}-labels.lst"))
        found.append([*(source_key(str(file)) for file in files), source_key(part.template)])
    return found
