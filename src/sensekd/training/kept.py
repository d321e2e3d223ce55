"""A Trainer that keeps small, sealed checkpoints and ends in order: on faults, on signals, in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from sensekd.errors import InputError
from sensekd.training.checkpoints import newest_checkpoint, seal, step_of
from sensekd.training.failures import Interruption, Watch, explain_fault, refuse_weights
from sensekd.training.sharding import put, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHTS: Final = "model.safetensors"


class KeptTrainer(Trainer):  # type: ignore[misc]
    """What of the distillation's Trainer has nothing to do with its loss.

    Args:
        model: as for `transformers.Trainer`.
        made_from: identities that a checkpoint remembers; one of another making is refused.
        rest: everything else that `transformers.Trainer` takes.
    """

    def __init__(self, model: nn.Module, made_from: Mapping[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(model=model, **rest)
        self._made_from = made_from or {}
        self._watch = Watch(self.args.device)
        self.interruption = Interruption()
        self._asked = torch.zeros((), device=self.args.device)

    # ---- over all processes

    def _reduce(self, value: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return value
        reduced: Tensor = self.accelerator.reduce(value, reduction="sum")
        return reduced

    def _gather(self, value: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return value
        gathered: Tensor = self.accelerator.gather(self.accelerator.pad_across_processes(value, pad_index=-1))
        return gathered

    def interrupted(self) -> bool:
        """Whether the training is to end after the step under way: every process finds the same answer.

        Of several processes each tells the others at the start of a step; nothing but that start is waited for.
        """
        return self.interruption.asked if self.args.world_size == 1 else bool(self._asked > 0)

    # ---- faults

    def refuse_non_finite(self) -> None:
        """Stop where the loss or a state of the teacher has become NaN or infinite, naming the first such batch.

        Raises:
            NonFiniteError: with the step and the documents of the batch.
        """
        fault = self._watch.read(self._gather)
        if fault is not None:
            raise explain_fault(fault, self.train_dataset, self.args.gradient_accumulation_steps)

    # ---- checkpoints

    def _trained(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainable weights alone, gathered where they are sharded: the frozen ones are the teacher's."""
        held = {name: whole(value.detach()).contiguous() for name, value in self._trained().items()}
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(held, folder / _WEIGHTS)

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = dict((model or self.model).named_parameters())
        stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        trained = {name for name, value in target.items() if value.requires_grad}
        if trained != set(stored):
            raise InputError(
                f"the checkpoint {resume_from_checkpoint} holds {len(stored)} tensors",
                f"the {len(trained)} trainable ones of this student",
                "remove the folder of checkpoints to start anew",
            )
        for name, value in stored.items():
            put(target[name], value)

    def load_finished(self, checkpoint: Path) -> None:
        """Take over the weights and the state of a training that had reached its last step."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def keep(self) -> None:
        """Leave a checkpoint of the last step, if there is none yet."""
        newest = newest_checkpoint(Path(self.args.output_dir), self._made_from)
        if newest is None or step_of(newest) != self.state.global_step:
            self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save, then seal what was saved to the end."""
        self.refuse_non_finite()
        local = {name: _local(value) for name, value in self._trained().items()}
        refuse_weights(local, self.state.global_step, self._reduce)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            seal(folder, self._made_from)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
