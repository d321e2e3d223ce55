"""A student without its teacher: only the layers that it trains or runs are read from the checkpoint.

A layer that stands in the shared trunk, whose state the cache holds, stays without values until the student is saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensekd.errors import InputError
from sensekd.training.assembly import UNCACHED, Apprentice, Cut, common_vocabulary, equip, form_of, tokens_of
from sensekd.training.students import chosen_layers, make_student, resize_vocabulary
from sensekd.training.surgery import decoder_stack, source_name, trimmed_config
from sensekd.training.teacher import load_config, quiet_transformers
from sensekd.training.trunk import Trunk, make_tail
from sensekd.training.width import make_resized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.config import Recipe, TeacherConfig

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


def _files(config: TeacherConfig) -> list[Path]:
    """The weight files of a checkpoint."""
    import json

    from transformers.utils import cached_file

    folder = Path(config.model)
    if folder.is_dir():
        found = sorted(folder.glob("*.safetensors"))
    else:
        index = cached_file(config.model, _INDEX, revision=config.revision, _raise_exceptions_for_missing_entries=False)
        names = [_SINGLE]
        if index is not None:
            names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        found = [Path(str(cached_file(config.model, name, revision=config.revision))) for name in names]
    if not found:
        raise InputError(
            f"no *.safetensors in {config.model}", "a checkpoint saved as safetensors",
            "save it with model.save_pretrained(folder)",
        )  # fmt: skip
    return found


def _weights(config: TeacherConfig, keep: Sequence[int], stack: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint outside its layers, and those of the layers `keep`, which are numbered anew."""
    from safetensors import safe_open

    layer = re.compile(rf"^(.*\b{re.escape(stack.rpartition('.')[2])}\.)(\d+)(\..*)$")
    numbers = {old: new for new, old in enumerate(keep)}
    found = {}
    for file in _files(config):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - an opened file is no mapping
                match = layer.match(name)
                if match is None:
                    found[name] = tensors.get_tensor(name)
                elif int(match[2]) in numbers:
                    found[f"{match[1]}{numbers[int(match[2])]}{match[3]}"] = tensors.get_tensor(name)
    return found


def load_layers(config: TeacherConfig, keep: Sequence[int]) -> PreTrainedModel:
    """The teacher with the layers `keep` alone, frozen, in evaluation mode, on the CPU; nothing else of it is read.

    Raises:
        InputError: no such checkpoint, or one whose tensors are not those of its model.
    """
    from transformers import AutoModelForCausalLM

    whole = load_config(config)
    with torch.device("meta"):
        form = AutoModelForCausalLM.from_config(whole, trust_remote_code=config.trust_remote_code)
    weights = _weights(config, keep, decoder_stack(form))
    with quiet_transformers():
        model, info = type(form).from_pretrained(
            None, config=trimmed_config(whole, keep), state_dict=weights, dtype=getattr(torch, config.dtype),
            output_loading_info=True,
        )  # fmt: skip
    bad = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind) or ()]
    if bad:
        raise InputError(
            f"{config.model!r} leaves {len(bad)} weights without values, such as {sorted(bad)[0]}",
            "a checkpoint with every weight of its model",
            "set cache.mode to off, or save the teacher again with model.save_pretrained(folder)",
        )
    loaded: PreTrainedModel = model
    return loaded.eval().requires_grad_(False)


def _hollow(config: TeacherConfig, keep: Sequence[int], absent: int) -> PreTrainedModel:
    """The teacher with the layers `keep`, of which the first `absent` have no values."""
    rest = load_layers(config, keep[absent:])
    if not absent:
        return rest
    with torch.device("meta"):
        whole: PreTrainedModel = type(rest)(trimmed_config(load_config(config), keep))
    whole.generation_config = rest.generation_config
    _take(whole, rest, range(absent, len(keep)))
    return whole.eval().requires_grad_(False)


def _take(target: nn.Module, source: PreTrainedModel, places: Sequence[int]) -> None:
    """Put what `source` holds into `target`: its layer i becomes layer places[i]; everything else has the same name."""
    stack = decoder_stack(source)
    for name, module in source.named_modules(remove_duplicate=False):
        there = target.get_submodule(source_name(name, stack, places)) if name else target
        for kind in ("_parameters", "_buffers", "__dict__"):
            values: dict[str, Any] = getattr(module, kind)
            into: dict[str, Any] = getattr(there, kind)
            into.update({key: value for key, value in values.items() if isinstance(value, Tensor)})


def cut_without_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, facts: Mapping[str, Any]) -> Cut:
    """The student as `cut_student` would cut it, from the layers that it needs.

    Args:
        recipe: of this arm.
        tokenizer: the teacher's.
        facts: of the cache: the layers that were chosen with the teacher at hand, and how many the trunk shares.

    Raises:
        InputError: the recipe's student does not fit the teacher, or its checkpoint does not load.
    """
    config, tokens = recipe.student, tokens_of(tokenizer)
    depth = int(load_config(recipe.teacher).get_text_config().num_hidden_layers)
    layers = tuple(facts.get("layers") or chosen_layers(depth, config))
    source = _hollow(recipe.teacher, layers, int(facts.get("shared_layers", 0)))
    keep = range(len(layers))
    if config.width is None:
        student = make_student(source, config, keep, tokens)
    else:
        student = make_resized(source, keep, config, recipe.seed)
        resize_vocabulary(student, config, tokens)
    importance = facts.get("importance")
    scores = None if importance is None else tuple(importance)
    vocabulary = common_vocabulary(tokens, source, student)
    return Cut(student, source, layers, scores, int(facts.get("importance_tokens", 0)), vocabulary)


def apprentice_without_teacher(cut: Cut, recipe: Recipe, facts: Mapping[str, Any], device: torch.device) -> Apprentice:
    """What is trained of a student cut without its teacher: its tail where the cache holds the trunk's state.

    Args:
        cut: by `cut_without_teacher`.
        recipe: of this arm.
        facts: of the cache.
        device: where it trains.
    """
    form, shared = form_of(cut, recipe, device), int(facts.get("shared_layers", 0))
    if shared:
        trunk = Trunk(make_tail(cut.student, shared, form), shared, str(facts["trunk_reason"]))
    else:
        form.settle(cut.student)
        trunk = Trunk(cut.student, 0, str(facts.get("trunk_reason", UNCACHED)))
    return equip(cut, trunk, recipe, device, int(cut.source.config.hidden_size))


def fill(cut: Cut, recipe: Recipe, shared: int) -> None:
    """Read the layers of the trunk, so that the student is whole; it is trained no further.

    Args:
        cut: a student of `cut_without_teacher`, after its training.
        recipe: of this arm.
        shared: layers that have no values yet.
    """
    if not shared:
        return
    lower = load_layers(recipe.teacher, cut.layers[:shared])
    stack = decoder_stack(lower)
    layers, ours = lower.get_submodule(stack), cut.student.get_submodule(stack)
    for place in range(shared):
        there, here = ours.get_submodule(str(place)), layers.get_submodule(str(place))
        for (_, target), (_, source) in zip(there.named_modules(), here.named_modules(), strict=True):
            for kind in ("_parameters", "_buffers"):
                getattr(target, kind).update(getattr(source, kind))
