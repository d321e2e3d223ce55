"""Loading the teacher: frozen, in evaluation mode, with its identity, or a message that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from sensekd.errors import InputError
from sensekd.provenance import TeacherIdentity, tokenizer_fingerprint, weights_fingerprint
from sensekd.training.placement import loading_options, offload, teacher_device, variant

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import TeacherConfig


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of loading and saving inside the block."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def _refusing(found: str, expected: str, hint: str) -> Iterator[None]:
    """Whatever transformers raises over a checkpoint that does not load becomes one error that says so."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{found}: {reason}", expected, hint) from error


def _options(config: TeacherConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def load_tokenizer(config: TeacherConfig) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, without its weights.

    Raises:
        InputError: no such model, or no tokenizer beside it.
    """
    from transformers import AutoTokenizer

    expected, hint = "a checkpoint with its tokenizer files", "save it there with tokenizer.save_pretrained(folder)"
    with _refusing(f"no tokenizer loads from {config.model!r}", expected, hint):
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.model, **_options(config))
    return loaded


def load_config(config: TeacherConfig) -> PretrainedConfig:
    """The teacher's configuration, without its weights.

    Raises:
        InputError: none is there, or transformers does not know it.
    """
    from transformers import AutoConfig

    expected = "a folder with config.json and *.safetensors, or a hub name that can be reached"
    with _refusing(f"no model at {config.model!r}", expected, "check teacher.model and teacher.revision"):
        loaded: PretrainedConfig = AutoConfig.from_pretrained(config.model, **_options(config))
    return loaded


def _model(name: str, dtype: torch.dtype | str, **options: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    expected = "a causal language model that transformers knows (or code of its own, with trust_remote_code: true)"
    with _refusing(f"no decoder loads from {name!r}", expected, "check the path or name, and teacher.revision"):
        model, info = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
    bad = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind) or ()]
    if bad:
        raise InputError(
            f"{name!r} leaves {len(bad)} weights without values, such as {sorted(bad)[0]}",
            "a checkpoint with every weight of its model",
            "save it again with model.save_pretrained(folder)",
        )
    loaded: PreTrainedModel = model
    return loaded


@torch.no_grad()
def refuse_other_than_decoder(model: PreTrainedModel, name: str) -> None:
    """Refuse a model in which an earlier position sees a later one.

    Raises:
        InputError: the state at the first position changes with a later token.
    """
    causal = not getattr(model.config, "is_encoder_decoder", False)
    if causal:
        ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=model.device)
        ids %= model.get_input_embeddings().num_embeddings
        one, other = model(ids, use_cache=False).logits.float()
        change = (one - other).abs().amax(-1)
        # Only the last token differs, so only the last position may.
        causal = bool(change[:3].max() <= 1e-4 * change[3])
    if not causal:
        raise InputError(
            f"{name!r} is not a decoder: {type(model).__name__} sees tokens to the right",
            "a decoder-only (causal) language model",
            "choose another teacher",
        )


def load_teacher(
    config: TeacherConfig, device: torch.device | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TeacherIdentity]:
    """Load the teacher, its tokenizer and its identity.

    Args:
        config: which model, in which dtype, and where it stands.
        device: of the student.

    Returns:
        The model on `device` or where `config` places it, in evaluation mode, no parameter of which requires a
        gradient.

    Raises:
        InputError: no such model, weights without values, not a decoder, a tokenizer with more tokens than the
            model has rows, or a placement that this machine does not have.
    """
    place = teacher_device(config, torch.device(device))
    weights = weights_fingerprint(config.model, config.revision) + variant(config)
    options = loading_options(config, place)
    with quiet_transformers():
        tokenizer = load_tokenizer(config)
        model = _model(config.model, getattr(torch, config.dtype), **_options(config), **options)
    model.eval().requires_grad_(False)
    if config.offload:
        offload(model, place)
    elif not options:
        model = model.to(place)
    refuse_other_than_decoder(model, config.model)
    rows = int(model.get_output_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise InputError(
            f"vocabulary mismatch in {config.model!r}: {len(tokenizer)} tokens in its tokenizer, {rows} in the model",
            "a model with a row for every token",
            "use the tokenizer that the model was trained with",
        )
    width = int(model.config.hidden_size)
    return model, tokenizer, TeacherIdentity(config.model, weights, tokenizer_fingerprint(tokenizer), width, rows)


def load_unquantised(config: TeacherConfig) -> PreTrainedModel:
    """A quantised teacher's checkpoint as it was before, in `config.dtype` and host memory, frozen.

    Raises:
        InputError: no model loads from there.
    """
    with quiet_transformers():
        model = _model(config.model, getattr(torch, config.dtype), **_options(config))
    return model.eval().requires_grad_(False)


def load_student(folder: Path, device: torch.device | str) -> PreTrainedModel:
    """A finished student as its users load it: from its folder, in the dtype it was saved in, in evaluation mode.

    Raises:
        InputError: no model loads from there.
    """
    with quiet_transformers():
        return _model(str(folder), "auto").to(device).eval()
