"""What the sense terms add to a plain KD step with shared trunk: selection, pull and push, forward and backward.

By component timing (a whole-step comparison is too noisy): the extra work is timed alone on the tensors of a step, and
divided by the time of the step. Candidate rows per position are those of a real lexicon: 27 on average.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Line, cpu_seconds

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.targets import SenseTable

COMMAND = "make bench ONLY=sense_terms"
VOCABULARY, SEQUENCES, LENGTH, OWN, RELATED, ROUNDS = 8192, 8, 128, 10, 17, 9
SHAPES = {256: (16, 8), 576: (30, 15)}


def sense_rows(width: int) -> SenseTable:
    """Every token has ten senses; half of them have 17 rows of synonyms more, a tenth 17 rows of antonyms."""
    import torch

    from sensekd.targets import Ragged, SenseTable

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(VOCABULARY * OWN, width, generator=generator)

    def lists(share: float, with_own: bool) -> Ragged:
        found = []
        for token in range(VOCABULARY):
            own = list(range(token * OWN, token * OWN + OWN)) if with_own else []
            if torch.rand((), generator=generator) < share:
                own += torch.randint(len(rows), (RELATED,), generator=generator).tolist()
            found.append(sorted(set(own)))
        counts = torch.tensor([0] + [len(ids) for ids in found])
        return Ragged(counts.cumsum(0), torch.tensor([row for ids in found for row in ids]))

    own, linked, negative = lists(0.0, True), lists(0.5, True), lists(0.1, False)
    positive = Ragged(torch.cat([own.indptr, linked.indptr[1:] + own.indptr[-1]]), torch.cat([own.ids, linked.ids]))
    return SenseTable(rows, rows.square().sum(-1), 1.0, own, positive, negative)


def sense_models(width: int) -> tuple[Any, Any]:
    """A frozen teacher with random weights and a student cut from it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sensekd.config import StudentConfig
    from sensekd.training.students import make_student

    torch.manual_seed(0)
    teacher = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=SHAPES[width][0],
            num_attention_heads=width // 32,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    teacher.requires_grad_(False)
    return teacher, make_student(teacher, StudentConfig(layers=SHAPES[width][1], train_top=2))


def _share(width: int) -> float:
    import torch
    from transformers import TrainingArguments

    from sensekd.config import LossConfig
    from sensekd.losses import sense_pull, sense_push
    from sensekd.targets import select
    from sensekd.training.trainer import Distillation, SenseDistillationTrainer
    from sensekd.training.trunk import share_trunk

    teacher, student = sense_models(width)
    trunk = share_trunk(teacher, student, tuple(range(SHAPES[width][1])))
    table = sense_rows(width)
    ids = torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    labels, whole = ids[:, 1:].reshape(-1), torch.ones(SEQUENCES * (LENGTH - 1), dtype=torch.bool)
    states_T = torch.randn(len(labels), width)
    states_S = torch.randn(len(labels), width, requires_grad=True)

    def terms() -> Tensor:
        targets = select(table, labels, whole, states_T, 5)
        push, _ = sense_push(states_S, targets, 1.0, 0.8)
        total = sense_pull(states_S, targets, 1.0).mean() + push.mean()
        total.backward()
        return total

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=str(Path(folder)), use_cpu=True, report_to="none", disable_tqdm=True)
        loss = LossConfig.model_validate({"lambda": 0.0})
        trainer = SenseDistillationTrainer(trunk.model, Distillation(teacher, loss, None, trunk.layers), args=args)
        trainer.create_optimizer_and_scheduler(1000)

        def step() -> None:
            (batch,), _ = trainer.get_batch_samples(iter([{"input_ids": ids, "labels": ids}]), 1, ids.device)
            trainer.compute_loss(trunk.model, batch).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        terms(), step()
        return statistics.median(cpu_seconds(terms) / cpu_seconds(step) for _ in range(ROUNDS))


def measure() -> list[Line]:
    """The share at two widths."""
    import torch

    torch.set_num_threads(1)
    lines = []
    for width, target in ((256, 5.0), (576, 3.0)):
        depth = "{} to {} layers".format(*SHAPES[width])
        baseline = f"plain KD step, shared trunk, {depth}, width {width}, {SEQUENCES} x {LENGTH}, all positions"
        lines.append(Line(f"sense_terms_{width}", 100 * _share(width), "%", baseline, target, "most", ROUNDS, COMMAND))
    return lines
