"""Where the models stand: devices by name, a quantised or offloaded teacher, and what carries tensors between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError, require
from sensekd.training.processes import local_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from sensekd.config import Recipe, TeacherConfig

_HALF: Final = {"bf16": "bfloat16", "fp16": "float16"}


def pick_device(name: str, key: str = "device") -> torch.device:
    """The device of a recipe: `auto` takes a GPU where there is one; of several processes each takes its own.

    Args:
        name: what the recipe says.
        key: under which key, for the message.

    Raises:
        InputError: a device that torch does not know or that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and (own := local_device()) is not None:
            device = torch.device("cuda", own)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        found = f"{key}: {name!r} cannot be used: {str(error).splitlines()[0]}"
        raise InputError(found, "auto, cpu, cuda or cuda:N", f"change `{key}` in the recipe") from error
    return device


def teacher_device(config: TeacherConfig, student: torch.device) -> torch.device:
    """Where the teacher computes: the student's device unless `teacher.device` names another.

    Raises:
        InputError: no such device, or a quantised teacher elsewhere than on a GPU.
    """
    device = student if config.device == "same" else pick_device(config.device, "teacher.device")
    if config.quantization is not None and device.type != "cuda":
        raise InputError(
            f"teacher.quantization is {config.quantization}, but the teacher stands on {device.type}",
            "a CUDA device: bitsandbytes quantises there alone",
            "set teacher.device to a GPU, or remove teacher.quantization (teacher.dtype: bfloat16 halves it as well)",
        )
    return device


def student_device(recipe: Recipe, teacher: PreTrainedModel) -> torch.device:
    """Where the student trains: beside the teacher, unless that one was sent elsewhere."""
    return teacher.device if recipe.teacher.device == "same" else pick_device(recipe.device)


def variant(config: TeacherConfig) -> str:
    """What besides its weights decides the states of a teacher: empty, or such as `+8bit`."""
    return f"+{config.quantization}" if config.quantization else ""


def autocast_dtype(trainer: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype that `training.trainer` asks the Trainer to compute in, or None."""
    import torch

    chosen = [name for flag, name in _HALF.items() if trainer.get(flag)]
    return getattr(torch, chosen[0]) if chosen else None


def loading_options(config: TeacherConfig, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs for a quantised teacher: nothing for any other.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if config.quantization is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    require("bitsandbytes", "quantization")
    options: dict[str, Any] = {"load_in_8bit": True}
    if config.quantization == "4bit":
        compute = getattr(torch, config.dtype)
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}


def offload(model: PreTrainedModel, device: torch.device) -> None:
    """Keep the decoder layers in host memory and bring each to `device` only while it computes, in place.

    Embeddings, norm and output embedding stay on `device`: losses look at the last of them.
    """
    from accelerate import cpu_offload

    from sensekd.training.trunk import layers_of

    layers = layers_of(model)
    parts = [(layer, {name: value.cpu() for name, value in layer.state_dict().items()}) for layer in layers]
    for layer, weights in parts:
        cpu_offload(layer, execution_device=device, state_dict=weights)
    for module in model.modules():
        if not hasattr(module, "_hf_hook"):
            _move_own(module, device)


def _move_own(module: nn.Module, device: torch.device) -> None:
    for parameter in module._parameters.values():
        if parameter is not None and parameter.device.type != "meta":
            parameter.data = parameter.data.to(device)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = value.to(device)


def _weights_map(module: nn.Module) -> Mapping[str, Tensor] | None:
    hook: Any = getattr(module, "_hf_hook", None)
    maps = (getattr(each, "weights_map", None) for each in getattr(hook, "hooks", (hook,)))
    return next((found for found in maps if found is not None), None)


def is_offloaded(model: PreTrainedModel) -> bool:
    """Whether `offload` was called on a model."""
    return any(_weights_map(module) is not None for module in model.modules())


def source_of(teacher: PreTrainedModel, config: TeacherConfig) -> PreTrainedModel:
    """A model whose parameters hold the teacher's values, for a student to be cut from.

    That is the teacher itself; for an offloaded one a form that shares the memory its layers rest in; for a quantised
    one the checkpoint in `config.dtype`, read again into host memory.

    Raises:
        InputError: the checkpoint of a quantised teacher does not load.
    """
    if getattr(teacher, "is_quantized", False):
        from sensekd.training.teacher import load_unquantised

        return load_unquantised(config)
    return _at_rest(teacher) if is_offloaded(teacher) else teacher


def _at_rest(teacher: PreTrainedModel) -> PreTrainedModel:
    from torch import nn

    from sensekd.training.surgery import graft, shell

    every = range(teacher.config.num_hidden_layers)
    twin = shell(teacher, every)

    def parameter(name: str, value: nn.Parameter) -> nn.Parameter:
        owner, _, key = name.rpartition(".")
        held = _weights_map(teacher.get_submodule(owner))
        return nn.Parameter(value.detach() if held is None else held[key], requires_grad=False)

    graft(twin, teacher, every, parameter, lambda value: value)
    return twin


def carry(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on another device; where they are there already, the same objects."""
    # Towards the host a copy that does not block may be read before it has arrived.
    return {name: value.to(device, non_blocking=device.type == "cuda") for name, value in inputs.items()}
