"""A training step of a LLaMA-3-8B-shaped teacher and its 16-layer student on one GPU: plain KD against DSKD.

Weights and dictionary are drawn at random, nothing is loaded: `python -m benchmarks.gpu_step`. Both arms share the
trunk, compute CE and KL in chunks and train the top two layers by AdamW, with bfloat16 autocast over float32 masters.
The dictionary has 10 senses a token; its values are bfloat16, as stored, its rows float32, as the loss holds them.
Prints one JSON object; `--small` shrinks every size so that the same code runs anywhere.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sensekd.targets import Ragged, SenseTable

_STRIDE = 7919
_ANTONYMS = 17


@dataclass(frozen=True)
class Sizes:
    """Everything that may be shrunk."""

    vocabulary: int = 128_256
    senses: int = 10
    width: int = 4096
    intermediate: int = 14_336
    heads: int = 32
    kv_heads: int = 8
    layers: int = 32
    student_layers: int = 16
    batch: int = 8
    length: int = 1024
    candidates: tuple[int, ...] = (27, 64, 260)
    warmup: int = 3
    rounds: int = 10


SMALL = Sizes(512, 4, 64, 128, 4, 2, 4, 3, 2, 16, (9, 20), 1, 2)


def _teacher(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def _lists(tokens: int, first: torch.Tensor, more: int, rows: int) -> Ragged:
    """Of every token the rows `first` [V, F] and `more` others, spread over the table; sorted."""
    import torch

    from sensekd.targets import Ragged

    token = torch.arange(tokens, device=first.device)[:, None]
    others = (token * _STRIDE + torch.arange(1, more + 1, device=first.device) * (rows // (more + 1))) % rows
    ids = torch.cat([first, others], 1).sort(1).values
    indptr = torch.arange(tokens + 1, device=first.device) * ids.shape[1]
    return Ragged(indptr, ids.reshape(-1))


def _table(sizes: Sizes, candidates: int, device: torch.device) -> SenseTable:
    """Every token has own senses, and synonyms up to `candidates` rows; one in ten has antonyms."""
    import torch

    from sensekd.targets import Ragged, SenseTable

    generator = torch.Generator(device).manual_seed(1)
    count = sizes.vocabulary * sizes.senses
    rows = torch.empty(count, sizes.width, device=device)
    for part in rows.split(1 << 16):
        part.normal_(generator=generator).copy_(part.bfloat16())
    own_ids = torch.arange(count, device=device).reshape(sizes.vocabulary, sizes.senses)
    own = _lists(sizes.vocabulary, own_ids, 0, count)
    linked = _lists(sizes.vocabulary, own_ids, candidates - sizes.senses, count)
    positive = Ragged(torch.cat([own.indptr, linked.indptr[1:] + own.indptr[-1]]), torch.cat([own.ids, linked.ids]))
    having = (torch.arange(sizes.vocabulary, device=device) % 10 == 0).long() * _ANTONYMS
    indptr = torch.nn.functional.pad(having.cumsum(0), (1, 0))
    negative = Ragged(indptr, torch.arange(int(indptr[-1]), device=device) * _STRIDE % count)
    norms = torch.cat([part.square().sum(-1) for part in rows.split(1 << 16)])
    return SenseTable(rows, norms, 1.0, own, positive, negative)


def _recipe(sizes: Sizes, device: str, lam: float) -> Any:
    from sensekd.config import Recipe

    return Recipe.model_validate({
        "name": "gpu-step", "output": "none", "device": device, "teacher": {"model": "none", "dtype": "bfloat16"},
        "corpus": {"path": "none"}, "evaluation": {"corpus": {"path": "none"}},
        "student": {"layers": sizes.student_layers, "train_top": 2},
        "loss": {"lambda": lam, "chunked": "on"},
        "training": {"steps": 1000, "batch_size": sizes.batch, "sequence_length": sizes.length,
                     "trainer": {"bf16": True}},
    })  # fmt: skip


def _step(teacher: PreTrainedModel, sizes: Sizes, table: SenseTable | None, device: torch.device, folder: str) -> Any:
    """A function that does one whole step and returns its loss."""
    from pathlib import Path

    import torch

    from sensekd.training.arguments import training_arguments
    from sensekd.training.assembly import Cut, make_apprentice
    from sensekd.training.students import make_student
    from sensekd.training.supervision import SenseSupervision
    from sensekd.training.trainer import Distillation, SenseDistillationTrainer

    recipe = _recipe(sizes, device.type, 0.0 if table is None else 1.0)
    student = make_student(teacher, recipe.student)
    layers = tuple(range(sizes.student_layers))
    apprentice = make_apprentice(Cut(student, teacher, layers, None, 0, None), teacher, recipe)
    assert apprentice.trunk.layers == sizes.student_layers - 2, apprentice.trunk.reason
    whole = torch.zeros(sizes.vocabulary, dtype=torch.bool)
    senses = None if table is None else SenseSupervision(table, whole, whole)
    made = Distillation(teacher, recipe.loss, senses, apprentice.trunk.layers)
    arguments = training_arguments(recipe, 1000, Path(folder), device)
    model = apprentice.trained.train()
    trainer = SenseDistillationTrainer(model, made, args=arguments)
    trainer.create_optimizer_and_scheduler(1000)
    model = trainer.accelerator.prepare_model(model)
    generator = torch.Generator().manual_seed(2)

    def step() -> float:
        ids = torch.randint(sizes.vocabulary, (sizes.batch, sizes.length), generator=generator).to(device)
        (batch,), _ = trainer.get_batch_samples(iter([{"input_ids": ids, "labels": ids}]), 1, device)
        loss: Any = trainer.compute_loss(model, batch)
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return float(loss.detach())

    return step


def _measure(step: Any, sizes: Sizes, device: torch.device) -> dict[str, float]:
    import torch

    cuda = device.type == "cuda"
    losses = [step() for _ in range(sizes.warmup)]
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(sizes.rounds):
        start = time.perf_counter()
        losses.append(step())  # Reading the loss waits for the device.
        seconds.append(time.perf_counter() - start)
    assert all(value == value and abs(value) != float("inf") for value in losses), losses
    peak = torch.cuda.max_memory_allocated(device) if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"seconds": statistics.median(seconds), "peak_gib": peak / 2**30}


def run(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Plain KD, then DSKD at every number of candidates; the dictionary is built anew for each."""
    import torch

    found: dict[str, Any] = {"device": str(device), "sizes": asdict(sizes), "torch": torch.__version__}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as folder:
        teacher = _teacher(sizes, device, torch.bfloat16)
        plain = _measure(_step(teacher, sizes, None, device, folder), sizes, device)
        found["kd"] = plain
        for candidates in sizes.candidates:
            table = _table(sizes, candidates, device)
            arm = _measure(_step(teacher, sizes, table, device, folder), sizes, device)
            held = table.rows.numel() * table.rows.element_size()
            arm |= {"over_kd": arm["seconds"] / plain["seconds"] - 1, "dictionary_gib": held / 2**30}
            found[f"dskd_{candidates}"] = arm
            del table
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    for name, value in asdict(Sizes()).items():
        if isinstance(value, int):
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default {value}")
    parser.add_argument("--candidates", type=int, nargs="+", help="candidate rows at a position")
    chosen = vars(parser.parse_args(arguments))
    import torch

    small = chosen.pop("small")
    if not torch.cuda.is_available() and not small:
        print("error: no CUDA device; `--small` runs the same code anywhere", file=sys.stderr)
        return 1
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items() if v is not None}
    sizes = replace(SMALL if small else Sizes(), **given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps(run(sizes, device), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
