"""Words to tokens: which vocabulary items spell a word of the lexicon, and how its neighbours are spelled in pieces.

Nothing here knows a family of tokenizers. The text of a token is what the tokenizer's own decoder makes of it behind
another token, which shows the space that a marker stands for (`Ġred`, `▁red`: " red"; `red`: "red") whatever the marker
is; and the pieces of a neighbour are what the tokenizer makes of it behind another word, verified by decoding.
"""

from sensekd.linking.coverage import Coverage
from sensekd.linking.linker import link
from sensekd.linking.positions import Positions, count_positions, word_tokens
from sensekd.linking.relations import TokenRelations, single_token_antonyms, single_token_neighbours, without_neighbours

__all__ = [
    "Coverage",
    "Positions",
    "TokenRelations",
    "count_positions",
    "link",
    "single_token_antonyms",
    "single_token_neighbours",
    "without_neighbours",
    "word_tokens",
]
