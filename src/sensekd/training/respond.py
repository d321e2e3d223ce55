"""The teacher's own continuations of prompts, stored: targets of the paper's training (DSKD, arXiv 2602.22351).

Prompts are padded on the left to a multiple of 32 tokens (or to all the room there is) and batched with others of that
length. A drawn token is the
largest of logit / temperature + Gumbel noise, and the noise follows from the seed, the prompt and the step alone; so
neither the batch nor an interruption decides what is drawn. Bytes are equal for one device, dtype and thread count;
between batch sizes they are equal but for two tokens whose scores differ by less than the rounding of a forward.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from sensekd.artefacts import (
    Manifest,
    atomic_directory,
    atomic_file,
    check_made_from,
    fingerprint,
    read_manifest,
    readable,
    write_manifest,
)  # fmt: skip
from sensekd.corpus import ids_hash
from sensekd.errors import InputError, SenseKDError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import RespondConfig
    from sensekd.provenance import TeacherIdentity

Progress = Callable[[int, int], None]

FORMAT: Final = 1
_KIND: Final = "responses"
_WIDTH: Final = 32
# Prompts that are stored together: what an interruption costs at most.
_CHUNK: Final = 256


@dataclass(frozen=True)
class Responses:
    """Continuations by prompt.

    Attributes:
        indptr: [P + 1] int64; continuation p is `tokens[indptr[p]:indptr[p + 1]]`.
        tokens: [N] uint32.
        hashes: [P] uint64 of the prompts.
        manifest: what they were made from.
    """

    indptr: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    hashes: NDArray[np.uint64]
    manifest: Manifest
    _index: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.hashes)

    def of(self, prompt: Sequence[int]) -> list[int]:
        """The continuation of a prompt.

        Raises:
            InputError: the teacher was never asked.
        """
        number = self._index.get(ids_hash(prompt))
        if number is None:
            raise InputError(
                f"no continuation of a prompt of {len(prompt)} tokens among {len(self)}",
                "continuations of every prompt of the corpus", "sensekd respond RECIPE",
            )  # fmt: skip
        found: list[int] = self.tokens[self.indptr[number] : self.indptr[number + 1]].tolist()
        return found

    @classmethod
    def open(cls, folder: Path, made_from: Mapping[str, Any] | None = None) -> Responses:
        """Read stored continuations.

        Args:
            folder: as `respond` left it.
            made_from: identities that must be those of the teacher asked.

        Raises:
            InputError: nothing of the kind is there, it is damaged, or another teacher was asked.
        """
        manifest = read_manifest(folder, _KIND, FORMAT)
        check_made_from(manifest, made_from or {}, command="sensekd respond RECIPE")
        with readable(folder):
            indptr, tokens, hashes = (
                np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("indptr", "tokens", "hashes")
            )
        return cls(indptr, tokens, hashes, manifest, {int(value): at for at, value in enumerate(hashes)})


@dataclass(frozen=True)
class Asked:
    """The teacher that is asked.

    Attributes:
        model: on its device, in evaluation mode.
        tokenizer: for its end-of-text and padding tokens.
        identity: stands in the manifest.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: TeacherIdentity

    @property
    def made_from(self) -> dict[str, Any]:
        """What must be equal for continuations to be this teacher's."""
        return {**self.identity.compared(), "dtype": str(self.model.dtype).removeprefix("torch.")}

    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's and those of the model's own generation configuration."""
        config = getattr(self.model, "generation_config", None)
        named = getattr(config, "eos_token_id", None)
        found = {*(named if isinstance(named, (list, tuple)) else [named]), self.tokenizer.eos_token_id}
        return sorted(int(token) for token in found if token is not None)


def respond(
    asked: Asked,
    prompts: Iterable[Sequence[int]],
    config: RespondConfig,
    folder: Path,
    progress: Progress | None = None,
) -> Responses:
    """Let the teacher continue every distinct prompt by at most `config.tokens` tokens, and store what it says.

    What is done is kept beside `folder` until the whole is; the same call then goes on from there.

    Args:
        asked: the teacher.
        prompts: their ids.
        config: number of tokens, how they are drawn, rows of a batch.
        folder: where the continuations go.
        progress: called with (prompts done, prompts).

    Raises:
        InputError: there is no prompt, or one leaves no room for an answer.
    """
    distinct: dict[int, NDArray[np.uint32]] = {}
    for prompt in prompts:
        distinct.setdefault(ids_hash(prompt), np.asarray(prompt, dtype=np.uint32))
    room = _room(asked, distinct.values(), config)
    hashes = np.fromiter(distinct, dtype=np.uint64, count=len(distinct))
    settings = config.model_dump(mode="json")
    made_from = asked.made_from | {"prompts": xxhash.xxh3_128_hexdigest(hashes.tobytes())}
    # Long prompts first: what does not fit into memory shows at once. Equal widths stand side by side.
    keys = sorted(distinct, key=lambda key: (-_width(len(distinct[key]), room), key))
    scratch = folder.with_name(f"{folder.name}-partial-{fingerprint([made_from, settings, _CHUNK])}")
    answers: dict[int, NDArray[np.uint32]] = {}
    for low in range(0, len(keys), _CHUNK):
        chosen = keys[low : low + _CHUNK]
        path = scratch / f"{low:010d}.npy"
        if not path.is_file():
            _store(path, _ask(asked, {key: distinct[key] for key in chosen}, config, room))
        answers |= zip(chosen, _read(path), strict=True)
        if progress is not None:
            progress(min(low + _CHUNK, len(keys)), len(keys))
    ordered = [answers[key] for key in distinct]
    with atomic_directory(folder) as temporary:
        lengths = [len(answer) for answer in ordered]
        np.save(temporary / "tokens.npy", np.concatenate(ordered))
        np.save(temporary / "indptr.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        np.save(temporary / "hashes.npy", hashes)
        facts = {"prompts": len(ordered), "tokens": sum(lengths), "model": asked.identity.model}
        write_manifest(temporary, Manifest(_KIND, FORMAT, made_from, settings, facts))
    shutil.rmtree(scratch, ignore_errors=True)
    return Responses.open(folder)


def _room(asked: Asked, prompts: Iterable[NDArray[np.uint32]], config: RespondConfig) -> int:
    """Tokens that a prompt may have beside its answer."""
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        found = "a prompt has no token" if lengths else "there is no prompt to answer"
        raise InputError(found, "at least one prompt, of at least one token", "check the corpus and its fraction")
    longest = max(lengths)
    positions = getattr(asked.model.config.get_text_config(), "max_position_embeddings", None)
    room = _width(longest) if positions is None else positions - config.tokens
    if longest > room:
        raise InputError(
            f"a prompt of {longest} tokens and an answer of {config.tokens}", f"at most {positions} tokens in all",
            "leave the longest out (corpus.longest), or ask for shorter answers",
        )  # fmt: skip
    return room


def _width(length: int, room: int | None = None) -> int:
    rounded = -(-length // _WIDTH) * _WIDTH
    return rounded if room is None else min(rounded, room)


def _store(path: Path, answers: Sequence[NDArray[np.uint32]]) -> None:
    """Lengths and tokens in one array; a chunk is whole or not there."""
    lengths = np.asarray([len(answer) for answer in answers], dtype=np.uint32)
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, np.concatenate([[len(lengths)], lengths, *answers]).astype(np.uint32), allow_pickle=False)


def _read(path: Path) -> list[NDArray[np.uint32]]:
    stored = np.load(path, allow_pickle=False)
    count = int(stored[0])
    return np.split(stored[1 + count :], np.cumsum(stored[1 : 1 + count])[:-1].astype(np.int64))


def _ask(
    asked: Asked, prompts: Mapping[int, NDArray[np.uint32]], config: RespondConfig, room: int
) -> list[NDArray[np.uint32]]:
    """Continuations of some prompts, in their order."""
    found: dict[int, NDArray[np.uint32]] = {}
    by_width: dict[int, list[int]] = {}
    for key, prompt in prompts.items():
        by_width.setdefault(_width(len(prompt), room), []).append(key)
    for width, keys in by_width.items():
        for low in range(0, len(keys), config.batch_size):
            batch = {key: prompts[key] for key in keys[low : low + config.batch_size]}
            found |= zip(batch, _generate(asked, batch, width, config), strict=True)
    return [found[key] for key in prompts]


def _generate(
    asked: Asked, prompts: Mapping[int, NDArray[np.uint32]], width: int, config: RespondConfig
) -> list[NDArray[np.uint32]]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    ends = asked.ends()
    pad = asked.tokenizer.pad_token_id
    pad = int(pad) if pad is not None else (ends[0] if ends else 0)
    ids = np.full((len(prompts), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts.values()):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    watch = _Watch()
    processors = LogitsProcessorList([watch])
    if config.temperature > 0:
        processors.append(TemperatureLogitsWarper(config.temperature))
        if config.top_p < 1:
            processors.append(TopPLogitsWarper(config.top_p))
        processors.append(_noise(list(prompts), config.seed, width))
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=config.tokens, pad_token_id=pad, eos_token_id=ends or None
    )
    device = asked.model.device
    with torch.inference_mode(), _plain_generation(asked.model):
        out = asked.model.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            generation_config=settings,
            logits_processor=processors,
        )
    watch.refuse(len(prompts))
    return [_ended(row, ends) for row in out[:, width:].cpu().numpy().astype(np.uint32)]


class _Watch:
    """A logits processor that changes nothing and remembers whether a score was not a number."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = scores.isnan().any()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def refuse(self, rows: int) -> None:
        """Stop where the largest score would have been chosen among what is no number.

        Raises:
            SenseKDError: some score was NaN.
        """
        if self._bad is not None and bool(self._bad):
            raise SenseKDError(
                f"the teacher's scores are not numbers in a batch of {rows} prompts\n"
                "  do:       use another teacher.dtype (bfloat16 or float32), or another attention implementation"
            )


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Without the checkpoint's own generation settings (sampling, penalties), which would fill whatever is not set."""
    from transformers import GenerationConfig

    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _ended(row: NDArray[np.uint32], ends: Sequence[int]) -> NDArray[np.uint32]:
    """Up to and including the first token that ends an answer."""
    last = np.flatnonzero(np.isin(row, ends))
    return row[: last[0] + 1] if len(last) else row


def _noise(keys: Sequence[int], seed: int, width: int) -> Any:
    """A logits processor that adds each row's own Gumbel noise, so that the largest score is a draw."""
    import torch
    from transformers import LogitsProcessor

    class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
        """Noise of (seed, prompt, step), float64, made on the CPU: equal wherever the model runs."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            step = input_ids.shape[1] - width
            rows = [
                np.random.Generator(np.random.Philox(key=[key, seed & (1 << 64) - 1], counter=[0, 0, 0, step])).gumbel(
                    size=scores.shape[1]
                )
                for key in keys
            ]
            return scores.double() + torch.from_numpy(np.stack(rows)).to(scores.device)

    return GumbelNoise()
