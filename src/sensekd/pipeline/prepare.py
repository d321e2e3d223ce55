"""The stages before training: tokens, lexicon, linking, sample, senses, coverage."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import write_json
from sensekd.config import CorpusConfig, SensesConfig
from sensekd.corpus import TokenDocuments
from sensekd.errors import InputError
from sensekd.pipeline.workspace import WHOLE, Workspace, pick_device, source_key
from sensekd.training.placement import teacher_device

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.linking import TokenRelations
    from sensekd.pipeline.stages import Progress
    from sensekd.senses.shards import Shard
    from sensekd.targets import SenseTable
    from sensekd.training.data import TokenBlocks
    from sensekd.training.respond import Responses

# What shapes the sample; everything else of the section shapes the clustering alone, and leaves the sample standing.
_SAMPLING: Final = {"assignment", "samples_per_token", "window", "batch_size", "dtype", "seed"}


def prepare_tokens(work: Workspace, name: str, corpus: CorpusConfig) -> TokenDocuments:
    """Tokenise a corpus into `tokens-<name>`, with the teacher's continuations where they are its targets."""
    from sensekd.training.mixture import tokenise_corpus

    folder = work.path(f"tokens-{name}")
    answers = prepare_responses(work, name, corpus)
    key = [corpus.model_dump(mode="json"), corpus_key(corpus), work.teacher_key["tokenizer"]]
    key += [[number, each.manifest.id] for number, each in answers.items()]

    def build(_: Progress) -> None:
        tokenise_corpus(corpus, work.tokenizer, folder, answers)
        _refuse_changed(f"the corpus {corpus.name}", key[1], corpus_key(corpus))

    work.stages.run(f"tokens {name}", key, [folder], build)
    return TokenDocuments.open(folder)


def _refuse_changed(what: str, before: object, after: object) -> None:
    """Refuse what was made from files that somebody wrote to meanwhile; without its stamp it is made again.

    Raises:
        InputError: the fingerprints differ.
    """
    if before != after:
        raise InputError(
            f"{what} changed while it was read", "files that stay as they are during a run",
            "start again when nobody writes to them",
        )  # fmt: skip


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
    _refuse_changed(f"the corpus {part.path}", before, corpus_key(part))


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


def prepare_lexicon(work: Workspace) -> None:
    """Read and merge the recipe's sources into `lexicon`."""
    from sensekd.lexicon import build_lexicon

    config, folder = work.recipe.lexicon, work.path("lexicon")
    paths = [*(source.path for source in config.sources), *([config.frequencies] if config.frequencies else [])]
    # What is withheld from training is in the lexicon all the same.
    read = config.model_dump(mode="json", exclude={"withhold_antonyms", "withhold_seed"})
    key = [read, [source_key(path) for path in paths]]

    def build(_: Progress) -> None:
        build_lexicon(config).save(folder)
        _refuse_changed("a source of the lexicon", key[1], [source_key(path) for path in paths])

    work.stages.run("lexicon", key, [folder], build)


def prepare_relations(work: Workspace) -> TokenRelations | None:
    """Link the lexicon to the teacher's tokens into `relations`; None if the recipe has no lexicon.

    Where antonym pairs are withheld, `relations` is without them, and `relations-whole` has all.
    """
    from sensekd.lexicon import Lexicon, withheld_pairs
    from sensekd.linking import TokenRelations, link

    if not work.recipe.lexicon.sources:
        return None
    prepare_lexicon(work)
    config, folder = work.recipe.linking, work.path("relations")
    key = [work.artefact("lexicon"), work.teacher_key["tokenizer"], work.vocabulary, config.model_dump(mode="json")]
    share, seed, outputs = work.recipe.lexicon.withhold_antonyms, work.recipe.lexicon.withhold_seed, [folder]
    if share:
        key, outputs = [*key, share, seed], [folder, work.path(WHOLE)]

    def build(_: Progress) -> None:
        lexicon = Lexicon.load(work.path("lexicon"))
        withheld = withheld_pairs(lexicon, share, seed) if share else None
        for output, left_out in zip(outputs, (withheld, None), strict=False):
            linked = link(
                lexicon,
                work.tokenizer,
                vocabulary=work.vocabulary,
                max_pieces=config.max_pieces,
                floor=config.floor,
                withheld=left_out,
            )
            linked.save(output)

    work.stages.run("linking", key, outputs, build)
    return TokenRelations.load(folder)


def prepare_positions(work: Workspace, documents: TokenDocuments, relations: TokenRelations | None) -> None:
    """Count what the relations reach of the training text into `positions.json`, before the teacher is run.

    Raises:
        InputError: less than `linking.position_floor`.
    """
    from sensekd.linking import count_positions, word_tokens

    if relations is None:
        return
    path, floor = work.path("positions.json"), work.recipe.linking.position_floor

    def build(_: Progress) -> None:
        found = count_positions(
            relations, word_tokens(work.tokenizer, work.vocabulary), documents.tokens, documents.indptr
        )
        found.refuse_below_floor(floor)
        write_json(path, {**found.as_dict(), "floor": floor})

    work.stages.run("positions", [documents.manifest.id, work.artefact("relations"), floor], [path], build)


def sampling_key(work: Workspace, documents: TokenDocuments) -> list[Any]:
    """What a sample is made from."""
    shape = work.recipe.senses.model_dump(mode="json")
    return [documents.manifest.id, work.teacher_key, {name: shape[name] for name in shape if name in _SAMPLING}]


def prepare_shard(work: Workspace, documents: TokenDocuments, shard: Shard) -> Path:
    """Sample one shard of the documents into `sample-<i>-of-<n>`, the folder that is returned."""
    from sensekd.senses.capture import CapturePlan, capture_into

    name = f"sample-{shard.name}"
    folder = work.path(name)

    def build(progress: Progress) -> None:
        teacher, plan = work.teacher, CapturePlan(work=work.path("work", name), shard=shard)
        capture_into(folder, teacher.model, documents, work.recipe.senses, teacher.identity, progress, plan)

    work.stages.run(name, [*sampling_key(work, documents), shard.name], [folder], build)
    return folder


def finished_shards(work: Workspace, key: list[Any]) -> list[Path]:
    """The folders of all shards, where a whole set of them stands that was made from `key`; else none."""
    from sensekd.senses.shards import Shard

    for first in sorted(work.output.glob("sample-1-of-*")):
        count = int(first.name.rpartition("-")[2])
        names = [Shard(index, count).name for index in range(1, count + 1)]
        folders = [work.path(f"sample-{name}") for name in names]
        pairs = zip(names, folders, strict=True)
        if all(work.stages.fresh(f"sample-{name}", [*key, name], [folder]) for name, folder in pairs):
            return folders
    return []


def prepare_senses(work: Workspace, documents: TokenDocuments) -> None:
    """Sample the teacher's states and cluster them into `sample` and `senses`."""
    from sensekd.senses.capture import CapturePlan, capture_into
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.shards import merge_into

    config: SensesConfig = work.recipe.senses
    if config.dictionary is not None:
        SenseDictionary.load(work.senses, work.identity, verify=True)
        work.stages.reporter.note(f"senses: {work.senses} is used as it is; its checksums hold")
        return
    sample_folder = work.path("sample")
    key = sampling_key(work, documents)

    def build_sample(progress: Progress) -> None:
        if shards := finished_shards(work, key):
            work.stages.reporter.note(f"sample: {len(shards)} shards are merged")
            merge_into(sample_folder, shards, progress)
            return
        teacher, plan = work.teacher, CapturePlan(work=work.path("work", "sample"))
        capture_into(sample_folder, teacher.model, documents, config, teacher.identity, progress, plan)

    # A sample may fill a disk: it is read whole only where it is about to be clustered.
    clustered = work.stages.fresh("senses", _clustering_key(work, config), [work.senses], verify=False)
    work.stages.run("sample", key, [sample_folder], build_sample, verify=not clustered)
    cluster_into(work, config)


def _clustering_key(work: Workspace, config: SensesConfig) -> list[Any]:
    """What a dictionary is clustered from."""
    shape = config.model_dump(mode="json")
    del shape["corpus"], shape["dictionary"], shape["residence"], shape["memory"]
    return [work.artefact("sample"), shape]


def cluster_into(work: Workspace, config: SensesConfig, name: str = "senses") -> None:
    """Cluster the run's sample into a folder of this name."""
    from sensekd.senses.cluster import cluster
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.sample import StateSample

    sample_folder, folder = work.path("sample"), work.path(name)

    def build(progress: Progress) -> None:
        device = pick_device(work.recipe.device)
        found = cluster(StateSample.load(sample_folder), config, device=str(device), progress=progress)
        found.stored_as(config.store).save(folder)

    if not work.stages.run(name, _clustering_key(work, config), [folder], build, verify=False):
        # Once a run, and not in every worker: a dictionary that was built in another one is read whole.
        SenseDictionary.load(folder, verify=True)


def sense_table(
    work: Workspace, *, synonyms: bool, antonyms: bool, published: bool = False, folder: Path | None = None
) -> SenseTable:
    """Candidate rows of every token, from the run's dictionary and relations; `published` as the published code's.

    `folder` names another dictionary than the run's.

    Raises:
        InputError: the dictionary was built from another teacher.
    """
    from sensekd.linking import TokenRelations
    from sensekd.published import build_published
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.residence import device_limit
    from sensekd.targets import build_table

    dictionary = SenseDictionary.load(folder or work.senses, work.identity)
    # Known without the teacher's weights: where a cache stands, nothing loads them.
    device = teacher_device(work.recipe.teacher, pick_device(work.recipe.device))
    limit = {"device": None, "host": 0, "auto": device_limit(device)}[work.recipe.senses.residence]
    linked = bool(work.recipe.lexicon.sources)
    relations = TokenRelations.load(work.path("relations")) if linked else None
    if published:
        return build_published(dictionary, relations, synonyms=synonyms, antonyms=antonyms).to(device)
    return build_table(dictionary, relations, synonyms=synonyms, antonyms=antonyms, limit=limit).to(device)


def supervised_share(
    table: SenseTable, blocks: TokenBlocks, relations: TokenRelations | None, words: Tensor | None
) -> dict[str, int]:
    """How many labels of the training text have own senses, a synonym's, an antonym's.

    Relations count where the label is a whole word; without relations no label is taken for one.

    Args:
        table: candidate rows.
        blocks: the training text.
        relations: the linked lexicon, None without one.
        words: [V] bool, `linking.word_tokens`; needed with relations.

    Returns:
        Counts: `labels`, `whole` (whole words, neither punctuation nor special tokens), `own`, `own_words` (whole words
        with own senses), `synonym`, `antonym`. What the relations lose: `related` (labels whose token has a linked
        neighbour), of these `cut` (no whole words) and `without_senses` (no neighbour has senses, or, of antonyms,
        none that is not a positive row too).
    """
    import torch
    from torch.utils.data import DataLoader

    from sensekd.losses import IGNORE
    from sensekd.targets import whole_words

    names = ("labels", "whole", "own", "own_words", "synonym", "antonym", "related", "cut", "without_senses")
    totals = dict.fromkeys(names, 0)
    own = table.own.counts
    with_synonym = table.positive.counts[len(own) :] > own
    device = table.rows.device
    for batch in DataLoader(blocks, batch_size=256):
        ids = batch["input_ids"].to(device)
        labels, whole = ids[:, 1:], torch.zeros_like(ids[:, 1:], dtype=torch.bool)
        kept = batch["labels"][:, 1:].to(device) != IGNORE
        related = whole
        if relations is not None and words is not None:
            ends_word = relations.ends_word.to(device)
            apart = batch["position_ids"].to(device) if "position_ids" in batch else None
            whole = whole_words(ids, relations.starts_word.to(device), ends_word, apart) & words.to(device)[labels]
            linked = (relations.synonym_indptr.diff() > 0) | (relations.antonym_indptr.diff() > 0)
            related = linked.to(device)[labels]
        pushed = table.pushed(labels, whole)
        found = {
            "whole": whole,
            "own": (own > 0)[labels],
            "own_words": whole & (own > 0)[labels],
            "synonym": whole & with_synonym[labels],
            "antonym": pushed,
            "related": related,
            "cut": related & ~whole,
            "without_senses": related & whole & ~with_synonym[labels] & ~pushed,
        }
        totals["labels"] += int(kept.sum())
        for name, mask in found.items():
            totals[name] += int((mask & kept).sum())
    return totals


def prepare_coverage(work: Workspace, documents: TokenDocuments) -> dict[str, Any]:
    """Write and return `coverage.json`: what of lexicon and corpus the senses reach.

    Raises:
        InputError: not one position of the corpus has a sense.
    """
    import orjson

    from sensekd.lexicon import Lexicon
    from sensekd.linking import TokenRelations, word_tokens
    from sensekd.training.packing import make_blocks

    path = work.path("coverage.json")
    training = work.recipe.training
    shape = [training.sequence_length, training.packing, training.supervise]

    def build(_: Progress) -> None:
        table = sense_table(work, synonyms=True, antonyms=True)
        lexicon: Any = None
        linking: Any = None
        relations = words = None
        if work.recipe.lexicon.sources:
            relations = TokenRelations.load(work.path("relations"))
            words = word_tokens(work.tokenizer, work.vocabulary)
            lexicon = dict(Lexicon.load(work.path("lexicon")).facts)
            linking = {**relations.coverage.as_dict(), "spans_without_senses": table.dropped_spans}
            linking["positions"] = orjson.loads(work.path("positions.json").read_bytes())
        positions = supervised_share(table, make_blocks(documents, training), relations, words)
        # Special tokens have senses too; a corpus in which only these are known is of no use.
        if positions["own" if relations is None else "own_words"] == 0:
            raise InputError(
                f"not one word in {positions['labels']} positions of {work.recipe.corpus.name} has a sense",
                "a training corpus with words of the dictionary",
                "build the senses from text like the training corpus, or check its language",
            )
        write_json(path, {"lexicon": lexicon, "linking": linking, "positions": positions})

    key = [documents.manifest.id, work.artefact("senses"), work.artefact("relations"), work.artefact("lexicon"), shape]
    work.stages.run("coverage", key, [path], build)
    coverage: dict[str, Any] = orjson.loads(path.read_bytes())
    return coverage


def gold_quality(work: Workspace) -> dict[str, Any] | None:
    """Senses against the gold senses of held-out text; None where the recipe names none."""
    from sensekd.senses.dictionary import SenseDictionary
    from sensekd.senses.quality import evaluate_gold, read_gold

    source = work.recipe.evaluation.gold_senses
    if source is None:
        return None
    path = work.path("quality.json")

    def build(_: Progress) -> None:
        teacher = work.teacher
        gold = read_gold(Path(source))
        dictionary = SenseDictionary.load(work.senses, teacher.identity)
        write_json(path, evaluate_gold(dictionary, teacher.model, teacher.tokenizer, gold))

    work.stages.run("gold senses", [work.artefact("senses"), source_key(source), work.teacher_key], [path], build)
    quality: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return quality


def prepare(work: Workspace) -> dict[str, Any]:
    """Run every stage before training, in order, and return the coverage.

    Raises:
        InputError: the tokenizer has more tokens than the teacher has rows, or any input of a stage is wrong.
    """
    if len(work.tokenizer) > work.vocabulary:
        raise InputError(
            f"vocabulary mismatch: the tokenizer has {len(work.tokenizer)} tokens, the teacher {work.vocabulary} rows",
            "a teacher with a row for every token",
            "use the tokenizer that the teacher was trained with",
        )
    documents = prepare_tokens(work, "train", work.recipe.corpus)
    prepare_tokens(work, "heldout", work.recipe.evaluation.corpus)
    prepare_positions(work, documents, prepare_relations(work))
    other = work.recipe.senses.corpus
    prepare_senses(work, documents if other is None else prepare_tokens(work, "senses", other))
    coverage = prepare_coverage(work, documents)
    # Judged before anything is trained: what is wrong with the dictionary shows in minutes, not after a night.
    gold_quality(work)
    return coverage
