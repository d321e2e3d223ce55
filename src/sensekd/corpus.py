"""Documents and their tokens. Tokens are written once and memory-mapped ever after, so that any position can be
found again, and so that resuming a training is exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from sensekd.artefacts import Manifest, atomic_directory, read_manifest, readable, write_manifest
from sensekd.config import CorpusConfig
from sensekd.errors import InputError
from sensekd.provenance import tokenizer_fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

FORMAT: Final = 1
_BATCH: Final = 1024
_CHUNK: Final = 1 << 20


def _split_stream(path: Path, separator: str) -> Iterator[str]:
    rest = ""
    with path.open(encoding="utf-8", errors="strict", newline="") as handle:
        while chunk := handle.read(_CHUNK):
            *complete, rest = (rest + chunk).split(separator)
            yield from complete
    yield rest


def _text_documents(path: Path, config: CorpusConfig) -> Iterator[str]:
    if config.separator is None:
        with path.open(encoding="utf-8", newline="") as handle:
            yield from handle
    else:
        yield from _split_stream(path, config.separator)


def _unreadable(config: CorpusConfig, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{config.path} cannot be read as {config.format}: {reason}",
        "well-formed rows",
        "check the file and its format",
    )


def _is_damage(config: CorpusConfig, error: Exception) -> bool:
    """Whether the file is to blame. Of a damaged Parquet file pyarrow raises nearly anything, an `OSError` that the
    system knows nothing of among it; what the system or the network refuses is no damage."""
    if isinstance(error, OSError):
        return config.format != "hub" and error.errno is None
    return isinstance(error, ValueError) or (config.format != "hub" and not isinstance(error, MemoryError))


def _rows(dataset: Iterable[dict[str, Any]], config: CorpusConfig) -> Iterator[dict[str, Any]]:
    rows = iter(dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            if _is_damage(config, error):
                raise _unreadable(config, error) from error
            raise
        yield row


def ids_hash(ids: Sequence[int] | NDArray[Any]) -> int:
    """The identity of a document or a prompt: 64 bits of its ids, whatever their dtype."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(ids, dtype=np.uint32).tobytes())


def source_rows(config: CorpusConfig) -> Iterator[dict[str, Any]]:
    """Stream the rows of a JSONL or Parquet file or of a dataset of the hub, in the order of the source.

    Raises:
        InputError: it cannot be loaded, or a row is malformed.
    """
    import datasets

    if config.format == "hub":
        try:
            dataset = datasets.load_dataset(config.path, config.subset, split=config.split, streaming=True)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise InputError(
                f"the dataset {config.path!r} cannot be loaded: {str(error).splitlines()[0]}",
                "a dataset of the hub that can be reached",
                "check corpus.path, corpus.subset and corpus.split, or download it and give its files",
            ) from error
    else:
        if Path(config.path).stat().st_size == 0:
            return
        builder = {"jsonl": "json", "parquet": "parquet"}[config.format]
        try:
            dataset = datasets.load_dataset(builder, data_files=config.path, split="train", streaming=True)
        except (ValueError, OSError) as error:
            raise _unreadable(config, error) from error
    yield from _rows(dataset, config)


def _dataset_documents(config: CorpusConfig) -> Iterator[str]:
    for number, row in enumerate(source_rows(config)):
        text = row.get(config.field)
        if not isinstance(text, str):
            raise InputError(
                f"{config.path}: document {number} has no text under {config.field!r} (keys: {sorted(row)})",
                f"a string under {config.field!r}",
                "set corpus.field to the key that holds the text",
            )
        yield text


def documents(config: CorpusConfig) -> Iterator[str]:
    """Stream the non-empty documents of a corpus, in the order of the source, without surrounding white space.

    A text file without `separator` has one document a line.

    Raises:
        InputError: no such file, a file that is not UTF-8, or a document without its text field.
    """
    path = Path(config.path)
    if config.format != "hub" and not path.is_file():
        raise InputError(f"no corpus at {path}", f"a {config.format} file", "check the path of `corpus` in the recipe")
    source = _text_documents(path, config) if config.format == "text" else _dataset_documents(config)
    kept = 0
    try:
        for raw in source:
            text = raw.strip()
            if not text:
                continue
            kept += 1
            if kept <= config.skip_documents:
                continue
            yield text
            if config.max_documents is not None and kept - config.skip_documents >= config.max_documents:
                return
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: {error}", "text in UTF-8", "convert it, for example with iconv"
        ) from error


@dataclass(frozen=True)
class TokenDocuments:
    """A tokenised corpus, memory-mapped.

    Attributes:
        folder: where it stands.
        tokens: [N] ids of all documents one after the other (uint16 or uint32).
        indptr: [documents + 1] int64; document d is `tokens[indptr[d]:indptr[d + 1]]`.
        hashes: [documents] uint64, a hash of each document's ids: its identity wherever it stands.
        manifest: what it was made from.
        supervised: [N] bool, the tokens of completions (what an assistant says, an answer); None where every token is
            one, as in plain text.
    """

    folder: Path
    tokens: np.ndarray[Any, Any]
    indptr: np.ndarray[Any, np.dtype[np.int64]]
    hashes: np.ndarray[Any, np.dtype[np.uint64]]
    manifest: Manifest
    supervised: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def document(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The ids of one document, [length] int64."""
        return np.asarray(self.tokens[self.indptr[index] : self.indptr[index + 1]], dtype=np.int64)

    @classmethod
    def open(cls, folder: Path) -> TokenDocuments:
        """Memory-map a tokenised corpus.

        Raises:
            InputError: not a tokenised corpus, or cut short.
        """
        manifest = read_manifest(folder, "tokens", FORMAT)
        with readable(folder):
            tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
            indptr = np.load(folder / "indptr.npy", allow_pickle=False)
            hashes = np.load(folder / "hashes.npy", allow_pickle=False)
            mask = folder / "supervised.npy"
            supervised = np.load(mask, mmap_mode="r", allow_pickle=False) if mask.is_file() else None
            if len(hashes) + 1 != len(indptr) or indptr[-1] != len(tokens):
                raise ValueError(f"{len(indptr)} offsets of {len(hashes)} documents and {len(tokens)} tokens")
        return cls(folder, tokens, indptr, hashes, manifest, supervised)


def _encoded(config: CorpusConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    total = 0
    batch: list[str] = []

    def encode() -> Iterator[list[int]]:
        nonlocal total
        for ids in tokenizer(batch, return_attention_mask=False)["input_ids"]:
            ids = list(ids)
            ids += [] if ids[-1:] == end else end
            if config.max_tokens is not None and total + len(ids) > config.max_tokens:
                ids = ids[: config.max_tokens - total]
            total += len(ids)
            if ids:
                yield ids
        batch.clear()

    for text in documents(config):
        batch.append(text)
        if len(batch) == _BATCH:
            yield from encode()
            if config.max_tokens is not None and total >= config.max_tokens:
                return
    if batch:
        yield from encode()


def tokenise(config: CorpusConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenDocuments:
    """Tokenise a corpus into `folder`, each document with the tokenizer's own prefix and one end-of-text token.

    Raises:
        InputError: the corpus is missing, unreadable or empty.
    """
    return write_documents(((ids, None) for ids in _encoded(config, tokenizer)), config, tokenizer, folder)


def write_documents(
    rows: Iterable[tuple[Sequence[int], Sequence[bool] | None]],
    config: CorpusConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    made_from: Mapping[str, Any] | None = None,
    counts: Mapping[str, int] | None = None,
) -> TokenDocuments:
    """Write token documents, atomically.

    Args:
        rows: a document's ids and which of them belong to a completion (None: all of them).
        config: the corpus, for the manifest and for messages.
        tokenizer: its fingerprint is remembered.
        folder: where they go.
        made_from: further identities that the manifest remembers.
        counts: further facts of the manifest, read when all rows are written.

    Raises:
        InputError: not one document.
    """
    lengths: list[int] = []
    hashes: list[int] = []
    masked = False
    dtype = np.uint32 if len(tokenizer) > np.iinfo(np.uint16).max else np.uint16
    with atomic_directory(folder) as temporary:
        raw, raw_mask = temporary / "tokens.raw", temporary / "supervised.raw"
        with raw.open("wb") as handle, raw_mask.open("wb") as marks:
            for ids, supervised in rows:
                row = np.asarray(ids, dtype=dtype)
                handle.write(row.tobytes())
                mask = np.ones(len(row), dtype=bool) if supervised is None else np.asarray(supervised, dtype=bool)
                marks.write(mask.tobytes())
                masked |= supervised is not None
                lengths.append(len(row))
                hashes.append(ids_hash(row))
        if not lengths:
            raise InputError(
                f"the corpus {config.name} has no document left (skip_documents={config.skip_documents})",
                "at least one document that is not empty",
                "check the path, the format and the separator of `corpus`",
            )
        np.save(temporary / "tokens.npy", np.memmap(raw, dtype=dtype, mode="r"), allow_pickle=False)
        if masked:
            np.save(temporary / "supervised.npy", np.memmap(raw_mask, dtype=bool, mode="r"), allow_pickle=False)
        raw.unlink()
        raw_mask.unlink()
        np.save(temporary / "indptr.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        np.save(temporary / "hashes.npy", np.asarray(hashes, dtype=np.uint64))
        facts = {"documents": len(lengths), "tokens": int(sum(lengths)), **(counts or {})}
        origins = {"tokenizer": tokenizer_fingerprint(tokenizer), **(made_from or {})}
        write_manifest(temporary, Manifest("tokens", FORMAT, origins, config.model_dump(mode="json"), facts))
    return TokenDocuments.open(folder)
