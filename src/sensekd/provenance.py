"""Who made this: library versions and the identities of models and tokenizers."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import xxhash

from sensekd.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PACKAGES: Final = (
    "sensekd",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "polars",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of the libraries that shape results, and of Python."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class TeacherIdentity:
    """What a dictionary, a cache or a student was made from; equal identities give equal states.

    Attributes:
        model: folder or hub name as the recipe gives it (informative: not compared).
        weights: fingerprint of the configuration and the weight files.
        tokenizer: fingerprint of the tokenizer.
        width: D, the hidden width.
        vocabulary: rows of the output embedding.
        state: which hidden state is meant; `last` is the state after the final norm.
        dtype: in which the teacher computed, which decides the last bits; None where it does not matter.
    """

    model: str
    weights: str
    tokenizer: str
    width: int
    vocabulary: int
    state: str = "last"
    dtype: str | None = None

    def compared(self) -> dict[str, Any]:
        """The fields that must be equal for two identities to be the same teacher; a dtype only where one is named."""
        fields = asdict(self)
        del fields["model"]
        if self.dtype is None:
            del fields["dtype"]
        return fields


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of everything that turns text into ids (for slow tokenizers: of the vocabulary)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def file_fingerprint(*files: Path) -> str:
    """Fingerprint of the names and bytes of files, in the order given (fast, not cryptographic)."""
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 24):
                digest.update(block)
    return str(digest.hexdigest())


def weights_fingerprint(model: str, revision: str | None = None) -> str:
    """Fingerprint of a local checkpoint's bytes, or of a hub checkpoint's name and commit.

    Raises:
        InputError: neither a folder with weights nor a hub name that resolves.
    """
    folder = Path(model)
    if folder.is_dir():
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
        if not any(file.suffix == ".safetensors" for file in files):
            raise InputError(
                f"no *.safetensors in {folder}", "a Hugging Face checkpoint saved as safetensors",
                "save it with model.save_pretrained(folder)",
            )  # fmt: skip
        return file_fingerprint(*files)
    return f"{model}@{_commit(model, revision)}"


def _commit(model: str, revision: str | None) -> str:
    from transformers.utils import cached_file

    try:
        path = cached_file(model, "config.json", revision=revision)
    except OSError as error:
        raise InputError(
            f"no model at {model!r}: {str(error).splitlines()[0]}",
            "a folder with config.json and *.safetensors, or a hub name that can be reached",
            "check the path (an environment variable may be unset) or download the model first",
        ) from error
    # The hub's cache keeps every file under snapshots/<commit>/.
    return Path(str(path)).parent.name
