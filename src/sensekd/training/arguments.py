"""`transformers.TrainingArguments` from a recipe."""

from __future__ import annotations

import difflib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from sensekd.config import Recipe

# Fields that the recipe has a key of its own for: one place for each, so that nothing is said twice.
_OWN_KEYS: Final = {
    "max_steps": "training.steps",
    "num_train_epochs": "training.steps",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulation",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.scheduler",
    "warmup_steps": "training.warmup",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "logging_steps": "training.log_every",
    "logging_strategy": "training.log_every",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    "save_total_limit": "training.save_every",
    "seed": "seed",
    "data_seed": "seed",
    "use_cpu": "device",
    "output_dir": "output",
}
# Fields that would do nothing here, or that would change the model or the loss behind the method's back.
_UNUSED: Final = (
    "auto_find_batch_size",
    "deepspeed",
    "eval_strategy",
    "fsdp",
    "fsdp_config",
    "label_smoothing_factor",
    "load_best_model_at_end",
    "neftune_noise_alpha",
    "push_to_hub",
    "use_liger_kernel",
)


def _refuse_unknown(extra: dict[str, Any], known: set[str]) -> None:
    for name in extra:
        if name in _OWN_KEYS:
            raise InputError(
                f"training.trainer.{name}", f"the recipe's own key {_OWN_KEYS[name]}",
                f"set {_OWN_KEYS[name]} instead",
            )  # fmt: skip
        if name in _UNUSED:
            raise InputError(
                f"training.trainer.{name} has no meaning in a distillation",
                "a field that its loss and its model allow", "remove it",
            )  # fmt: skip
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            raise InputError(
                f"training.trainer.{name} is not a field of transformers.TrainingArguments",
                f"one of its fields{f', such as {near[0]}' if near else ''}",
                "correct the name or remove it",
            )


def training_arguments(recipe: Recipe, steps: int, work: Path, device: torch.device) -> TrainingArguments:
    """The Trainer's arguments of one training.

    Args:
        recipe: its `training` section and seed.
        steps: optimiser steps.
        work: folder of checkpoints.
        device: where it runs; on the CPU nothing else is looked for.

    Raises:
        InputError: `training.trainer` holds an unknown field, one with a key of its own, or a value that is refused.
    """
    from transformers import TrainingArguments

    config = recipe.training
    extra = dict(config.trainer)
    _refuse_unknown(extra, {field.name for field in fields(TrainingArguments)})
    saving: dict[str, Any] = {"save_strategy": "no"}
    if config.save_every is not None:
        saving = {"save_strategy": "steps", "save_steps": config.save_every, "save_total_limit": 2}
    defaults: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device.type == "cuda",
        # This filter would wait for the device at every step; non-finite losses stop the training instead.
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,
    }
    try:
        arguments = TrainingArguments(
            output_dir=str(work),
            max_steps=steps,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.scheduler,
            warmup_steps=round(config.warmup * steps),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            logging_steps=config.log_every,
            seed=recipe.seed,
            data_seed=recipe.seed,
            use_cpu=device.type == "cpu",
            **saving,
            **{**defaults, **extra},
        )
        # DataParallel would copy the model past the hooks; several GPUs take torchrun, one process each.
        arguments._n_gpu = min(arguments.n_gpu, 1)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(
            f"the training arguments are refused: {error}", "values that transformers.TrainingArguments takes",
            "correct the `training` section of the recipe",
        ) from error  # fmt: skip
    return arguments
