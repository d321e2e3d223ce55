"""The distillation as the Trainer calls it, three optimiser steps by hand: its module may be sharded so."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from training_world import blocks, edges, recipe, table, tiny
from transformers import TrainingArguments

from sensekd.training.data import collate
from sensekd.training.sharding import shard, whole
from sensekd.training.students import make_student
from sensekd.training.supervision import SenseSupervision
from sensekd.training.trainer import Distillation, SenseDistillationTrainer
from sensekd.training.trunk import share_trunk

STEPS, ROWS = 3, 4
# Trunk shared or not, logits in chunks or whole, teacher whole or sharded.
CASES = list(itertools.product((True, False), ("on", "off"), (False, True)))


def train(trunk: bool, chunked: str, teacher_too: bool, rank: int, size: int) -> dict[str, Tensor]:
    """Losses, gradients of every step, and weights in the end; of a global batch of four rows."""
    teacher = tiny(tied=False).double()
    config = recipe(loss__chunked=chunked, loss__mu=0.2, loss__margin=3.0, student={"layers": 3, "train_top": 2})
    student = make_student(teacher, config.student)
    shared = share_trunk(teacher, student, (0, 1, 2)) if trunk else None
    model, layers = (shared.model, shared.layers) if shared else (student, 0)
    assert layers == (1 if trunk else 0)
    senses = SenseSupervision(table(), *edges())
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=folder, use_cpu=True, report_to="none", disable_tqdm=True)
        trainer = SenseDistillationTrainer(model, Distillation(teacher, config.loss, senses, layers), args=args)
    if size > 1:
        shard(model)
        if teacher_too:
            shard(teacher)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert size == 1 or all(isinstance(value, DTensor) for value in model.parameters())
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    data, found = blocks(), {}
    for step in range(STEPS):
        rows = range(step * ROWS + rank * ROWS // size, step * ROWS + (rank + 1) * ROWS // size)
        (batch,), _ = trainer.get_batch_samples(iter([collate([data[row] for row in rows])]), 1, args.device)
        loss: Any = trainer.compute_loss(model, batch)
        loss.backward()
        found[f"loss {step}"] = trainer._reduce(loss.detach().clone()) / size
        found |= {f"gradient {step} {name}": whole(value.grad) for name, value in trained.items()}
        optimizer.step()
        optimizer.zero_grad()
    trainer.refuse_non_finite()
    return found | {f"weight {name}": whole(value.detach()) for name, value in trained.items()}
