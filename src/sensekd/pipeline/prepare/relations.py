"""The lexicon, its link to the tokens, and what of the training text that reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensekd.artefacts import write_json
from sensekd.corpus import TokenDocuments
from sensekd.pipeline.prepare.corpora import refuse_changed
from sensekd.pipeline.workspace import WHOLE, Workspace, source_key

if TYPE_CHECKING:
    from sensekd.linking import TokenRelations
    from sensekd.pipeline.stages import Progress


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
        refuse_changed("a source of the lexicon", key[1], [source_key(path) for path in paths])

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
