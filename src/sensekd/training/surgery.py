"""A decoder of the same class with fewer layers: its configuration and its weights, without a random initialisation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from sensekd.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Layers of these kinds carry a state, or keys and values, past the layer that made them.
_COUPLED_KINDS: Final = ("linear", "mamba", "recurrent", "conv", "ssm")
# Fields that name layers by number: a cut would have to translate them.
_BY_NUMBER: Final = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers")
_SHARED_KV: Final = ("num_kv_shared_layers", "cla_share_factor", "num_nextn_predict_layers")


def decoder_stack(model: PreTrainedModel) -> str:
    """Path of the list of decoder layers inside `model`, such as `model.layers`.

    Raises:
        InputError: no such list, or more than one of that length.
    """
    depth = int(getattr(model.config, "num_hidden_layers", 0))
    found = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth > 0
    ]
    outermost = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if len(outermost) != 1:
        raise InputError(
            f"{type(model).__name__} has {len(outermost)} lists of {depth} layers ({', '.join(outermost) or 'none'})",
            "a decoder with one list of layers",
            "use a decoder-only language model such as Llama, Mistral, Qwen or Gemma",
        )
    return str(outermost[0])


def refuse_uncuttable(config: PretrainedConfig) -> None:
    """Refuse families whose layers depend on each other in ways that a depth cut breaks.

    Raises:
        InputError: shared key/value layers, recurrent or linear attention among the layers, layers named by number,
            or an encoder-decoder.
    """
    kinds = [str(kind) for kind in getattr(config, "layer_types", None) or ()]
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder"
    elif any(part in kind for kind in kinds for part in _COUPLED_KINDS):
        reason = f"its layers mix {', '.join(sorted(set(kinds)))}"
    elif any(getattr(config, name, None) for name in _SHARED_KV):
        reason = "its layers share keys and values, or it has layers that predict further ahead"
    elif any(getattr(config, name, None) for name in _BY_NUMBER):
        reason = "its configuration names layers by number"
    elif getattr(config, "text_config", None) is not None:
        reason = "its language model is one part of a larger model"
    if reason is not None:
        raise InputError(
            f"a model of type {config.model_type!r} cannot be cut in depth: {reason}",
            "a plain decoder (Llama, Mistral, Qwen 2, Qwen 3, Gemma 2, Gemma 3 text and their like)",
            "choose another teacher",
        )


def trimmed_config(config: PretrainedConfig, keep: Sequence[int]) -> PretrainedConfig:
    """A deep copy of `config` for the layers `keep`: their number and every per-layer list.

    Args:
        config: of a model with L layers.
        keep: indices in 0..L-1 of the layers that stay, in their new order.
    """
    refuse_uncuttable(config)
    trimmed = copy.deepcopy(config)
    depth = config.num_hidden_layers
    for name, value in vars(config).items():
        # A list of the right length may also be a coincidence (token ids), hence the names.
        if isinstance(value, list | tuple) and len(value) == depth and ("layer" in name or name.endswith("_types")):
            setattr(trimmed, name, type(value)(value[index] for index in keep))
    trimmed.num_hidden_layers = len(keep)
    return trimmed


def shell(model: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """A model of the class of `model` with the layers `keep`, on the meta device: a form without weights."""
    config = trimmed_config(model.config, keep)
    with torch.device("meta"):
        empty: PreTrainedModel = type(model)(config)
    empty.generation_config = copy.deepcopy(model.generation_config)
    empty.train(model.training)
    return empty


def source_name(name: str, stack: str, keep: Sequence[int]) -> str:
    """The name in the source of a tensor or module that `name` has in the cut model, whose layer i is layer keep[i]."""
    if not name.startswith(stack + "."):
        return name
    number, *rest = name[len(stack) + 1 :].split(".")
    return ".".join([stack, str(keep[int(number)]), *rest])


def graft(
    target: PreTrainedModel,
    source: PreTrainedModel,
    keep: Sequence[int],
    parameter: Callable[[str, nn.Parameter], nn.Parameter],
    buffer: Callable[[Tensor], Tensor],
) -> None:
    """Fill the shell `target` from `source`: its layer i is layer keep[i] of `source`, all else has the same name.

    Strict in both directions: every tensor of `target` is filled, and every tensor of `source` outside the layers that
    were left out is used. Parameters that `source` ties stay tied.

    Args:
        target: made by `shell`.
        source: the model it takes from.
        keep: the layers of `source`, in the order of `target`.
        parameter: (name in target, parameter of source) -> the parameter to put there; asked once per parameter.
        buffer: buffer of source -> the buffer to put there.

    Raises:
        InputError: a tensor is missing on either side, or its shape differs.
    """
    stack = decoder_stack(source)
    modules: dict[str, nn.Module] = dict(source.named_modules(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}
    wanted: set[str] = set()
    for name, module in list(target.named_modules(remove_duplicate=False)):
        origin = modules.get(source_name(name, stack, keep))
        for kind in ("_parameters", "_buffers", "__dict__"):
            here: dict[str, Any] = getattr(module, kind)
            for key in [key for key, value in here.items() if isinstance(value, Tensor)]:
                value = None if origin is None else getattr(origin, kind).get(key)
                full = f"{name}.{key}".lstrip(".")
                if value is None or value.shape != here[key].shape:
                    raise _mismatch(source, f"{full} has no counterpart of shape {tuple(here[key].shape)}")
                if kind == "_parameters":
                    wanted.add(source_name(full, stack, keep))
                    if id(value) not in made:
                        made[id(value)] = parameter(full, value)
                    here[key] = made[id(value)]
                else:
                    here[key] = buffer(value)
    left = {name for name, _ in source.named_parameters(remove_duplicate=False)} - wanted
    dropped = {f"{stack}.{index}." for index in range(source.config.num_hidden_layers) if index not in set(keep)}
    unused = sorted(name for name in left if not any(name.startswith(prefix) for prefix in dropped))
    if unused:
        raise _mismatch(source, f"{unused[0]} has no place in the cut model")


def _mismatch(source: PreTrainedModel, what: str) -> InputError:
    return InputError(
        f"{type(source).__name__} cannot be cut in depth: {what}",
        "layers that can be taken out one by one",
        "choose another teacher, or keep all its layers",
    )
