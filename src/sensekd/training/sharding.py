"""FSDP2: shards of the student (and of the teacher) over processes, and the way back to whole tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sensekd.errors import InputError
from sensekd.training.trunk import layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ASKED: Final = "ACCELERATE_USE_FSDP"


def shard(model: PreTrainedModel, **options: Any) -> None:
    """Shard a model by `torch.distributed.fsdp.fully_shard`, layer by layer, in place.

    It has to be run by its root forward from then on; the distillation does so with student and teacher.

    Args:
        model: a student, its tail, or a teacher.
        options: as `fully_shard` takes them, such as `mesh` and `mp_policy`.
    """
    from torch.distributed.fsdp import fully_shard

    for layer in layers_of(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)


def whole(value: Tensor) -> Tensor:
    """A tensor gathered from its shards: every process has to ask for it. One that is whole already is returned."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


@dataclass(frozen=True)
class Originals:
    """The parameters of a model before it is sharded: the student's own objects, which the export reads.

    Attributes:
        model: what will be sharded.
        parameters: name -> parameter, the frozen ones too.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> Originals:
        """Remember them."""
        return cls(model, dict(model.named_parameters(remove_duplicate=False)))

    def restore(self, trained: nn.Module) -> None:
        """Give the whole trained values back to them, and them back to the model; every process has to take part.

        Args:
            trained: the model after training; where it was not sharded nothing is done.
        """
        found = dict(trained.named_parameters(remove_duplicate=False))
        if not any(isinstance(value, DTensor) for value in found.values()):
            return
        for name, original in self.parameters.items():
            if original.requires_grad:
                original.data.copy_(whole(found[name].detach()))
            owner, _, key = name.rpartition(".")
            self.model.get_submodule(owner)._parameters[key] = original


def refuse_launcher(trainer: Any) -> None:
    """FSDP2 and DDP are what a distillation runs under.

    Raises:
        InputError: DeepSpeed, FSDP1, or FSDP where accelerate would quietly run DDP instead.
    """
    do = "use torchrun (DDP), or an accelerate configuration with fsdp_version: 2"
    if trainer.is_deepspeed_enabled:
        raise InputError("the launcher asks for DeepSpeed", "DDP or FSDP2", do)
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    asked = os.environ.get(_ASKED, "false").lower() == "true" or bool(trainer.args.fsdp)
    kind = str(trainer.accelerator.distributed_type.value)
    if asked and kind != "FSDP":
        raise InputError(
            f"the launcher asks for FSDP, but on {trainer.args.device.type} accelerate would run {kind} in silence",
            "GPUs for FSDP2, DDP on the CPU", "start it with torchrun, without FSDP",
        )  # fmt: skip
    if plugin is not None and kind == "FSDP" and int(getattr(plugin, "fsdp_version", 1)) != 2:
        raise InputError("the launcher asks for FSDP1", "FSDP2", do)
