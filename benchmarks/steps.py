"""Whole training steps: the published loop, the batched full student, chunked CE + KL, the shared trunk.

The published step, written anew, takes one sequence after the other: the teacher generates 1 or 10 tokens from it with
its key-value cache, is then run once more over the sequence for states and whole logits, the student runs in full with
whole logits, and the sense loss loops over the positions it has picked (`benchmarks/selection.py` tells how). The
gradients of all sequences make one step of the optimiser. `trunk_10_at_once` is against a kinder form that does all
of that for the whole batch together, but for the loop of the sense loss. All candidates train the same parameters on
the same batch; CE and KL are asserted equal, and so are the losses of all batched forms. Plain KD is compared with TRL
where TRL is installed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Line, cpu_seconds
from benchmarks.sense_terms import LENGTH, SEQUENCES, SHAPES, VOCABULARY, sense_models, sense_rows

if TYPE_CHECKING:
    from torch import Tensor

    from sensekd.training.trainer import SenseDistillationTrainer

COMMAND = "make bench ONLY=steps"
LEAST, SHARE, KAPPA, MARGIN, ALPHA, TAU = 25, 0.4, 5, 0.8, 0.7, 2.0


def _ids() -> Tensor:
    import torch

    return torch.randint(3, VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))


class Ours:
    """One step of the distillation's Trainer.

    Args:
        width: of the shape.
        folder: for the Trainer.
        chunked: CE and KL in chunks.
        shared: the trunk is shared.
        lam: λ; 0 is plain KD.
    """

    def __init__(self, width: int, folder: str, *, chunked: str, shared: bool, lam: float = 1.0) -> None:
        import torch
        from transformers import TrainingArguments

        from sensekd.config import LossConfig
        from sensekd.training.supervision import SenseSupervision
        from sensekd.training.trainer import Distillation, SenseDistillationTrainer
        from sensekd.training.trunk import share_trunk

        self.teacher, student = sense_models(width)
        layers = 0
        if shared:
            trunk = share_trunk(self.teacher, student, tuple(range(SHAPES[width][1])))
            student, layers = trunk.model, trunk.layers
            assert layers == SHAPES[width][1] - 2, trunk.reason
        self.model = student.train()
        nowhere = torch.zeros(VOCABULARY, dtype=torch.bool)
        senses = SenseSupervision(sense_rows(width), nowhere, nowhere) if lam else None
        loss = LossConfig.model_validate({"lambda": lam, "chunked": chunked, "alpha": ALPHA, "tau": TAU})
        args = TrainingArguments(output_dir=folder, use_cpu=True, report_to="none", disable_tqdm=True)
        made = Distillation(self.teacher, loss, senses, layers)
        self.trainer: SenseDistillationTrainer = SenseDistillationTrainer(self.model, made, args=args)
        self.trainer.create_optimizer_and_scheduler(1000)
        self.ids = _ids()

    def loss(self) -> Tensor:
        """Forward and backward."""
        (batch,), _ = self.trainer.get_batch_samples(
            iter([{"input_ids": self.ids, "labels": self.ids}]), 1, self.ids.device
        )
        loss: Any = self.trainer.compute_loss(self.model, batch)
        loss.backward()
        found: Tensor = loss.detach()
        return found

    def __call__(self) -> None:
        """The whole step."""
        self.loss()
        self.descend()

    def descend(self) -> None:
        """The optimiser's part. The learning rate is 0, so that candidates stay comparable however often they run."""
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = 0.0
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()

    def terms(self) -> dict[str, float]:
        """What was logged of the last steps."""
        return self.trainer._window.read(lambda value: value)


class Published:
    """The published step on the models of another candidate.

    Args:
        like: whose teacher and full student are trained.
        width: of the shape.
        tokens: how many the teacher generates.
        together: how many sequences are generated from and run at a time; the published loader gives one.
    """

    def __init__(self, like: Ours, width: int, tokens: int, together: int = 1) -> None:
        self.like, self.tokens, self.together = like, tokens, together
        self.table, self.random = sense_rows(width), random.Random(0)
        self.found: dict[str, float] = {}

    def _rows(self, lists: Any, label: int) -> Tensor:
        found: Tensor = lists.ids[lists.indptr[label] : lists.indptr[label + 1]]
        return found

    def _nearest(self, ids: Tensor, state: Tensor) -> Tensor:
        rows = self.table.rows[ids]
        return rows[(rows - state).norm(dim=1).topk(min(KAPPA, len(ids)), largest=False).indices]

    def _senses(self, labels: list[int], teacher: Tensor, student: Tensor) -> list[Tensor]:
        table, found = self.table, []
        own = table.own.indptr.diff()
        linked = table.positive.indptr.diff()[VOCABULARY:] > own
        related = [t for t, label in enumerate(labels) if linked[label]]
        picks = self.random.sample(related, min(len(related), max(LEAST, int(SHARE * len(related)))))
        rest = sorted({*range(len(labels))} - {*picks})
        for position in picks:
            label, state = labels[position], student[position]
            near = self._nearest(self._rows(table.positive, VOCABULARY + label), teacher[position])
            value = (near - state).square().mean()
            if len(away := self._rows(table.negative, label)):
                away = self._nearest(away, teacher[position])
                value = value + (MARGIN - (away - state).square().mean(-1)).clamp(min=0).mean()
            found.append(value)
        for position in self.random.sample(rest, min(len(rest), len(picks))):
            near = self._nearest(self._rows(table.own, labels[position]), teacher[position])
            found.append((near - student[position]).square().mean())
        return found

    def __call__(self) -> None:
        """One step."""
        ids, self.found = self.like.ids, {"ce": 0.0, "kl": 0.0}
        for part in ids.split(self.together):
            self._learn(part, len(part) / len(ids))
        self.like.descend()

    def _learn(self, ids: Tensor, share: float) -> None:
        """Forward and backward of some sequences; `share` is their part of the batch."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        from sensekd.training.trunk import capture_inputs

        teacher, student = self.like.teacher, self.like.model
        with torch.no_grad():
            teacher.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.tokens, min_new_tokens=self.tokens,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            with capture_inputs(teacher.get_output_embeddings()) as states_T:
                logits_T = teacher(ids, use_cache=False).logits[:, :-1]
        with capture_inputs(student.get_output_embeddings()) as states_S:
            logits_S = student(ids, use_cache=False).logits[:, :-1]
        labels = ids[:, 1:]
        ce = F.cross_entropy(logits_S.reshape(-1, VOCABULARY), labels.reshape(-1))
        log_p, log_q = (F.log_softmax(each / TAU, -1) for each in (logits_T, logits_S))
        kl = F.kl_div(log_q, log_p, log_target=True, reduction="sum") / labels.numel()
        senses = []
        for row in range(len(ids)):
            senses += self._senses(labels[row].tolist(), states_T[0][row], states_S[0][row])
        (share * (ce + ALPHA * TAU**2 * kl + torch.stack(senses).mean())).backward()
        self.found["ce"] += share * float(ce.detach())
        self.found["kl"] += share * float(kl.detach())


def _trl(plain: Ours, folder: str) -> Callable[[], None] | None:
    """A step of TRL's GKDTrainer without generation, on the models of `plain`; None where TRL is not installed."""
    try:
        from trl.experimental.gkd import GKDConfig, GKDTrainer
    except ImportError:
        return None
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    teacher, student = sense_models(256)
    words = Tokenizer(models.WordLevel({"a": 0}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a", pad_token="a", eos_token="a")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    trainer = GKDTrainer(
        model=student, teacher_model=teacher, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"messages": conversation}]),
        args=GKDConfig(
            output_dir=folder, use_cpu=True, report_to="none", lmbda=0.0, beta=0.0, temperature=TAU, bf16=False,
            gradient_checkpointing=False, disable_tqdm=True, disable_dropout=False,
        ),
    )  # fmt: skip
    trainer.create_optimizer_and_scheduler(1000)
    ids = plain.ids
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "prompts": ids[:, :1]}
    trained = trainer.accelerator.unwrap_model(trainer.model)

    def step() -> None:
        trainer.compute_loss(trained, dict(inputs)).backward()
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def _ratios(candidates: dict[str, Callable[[], None]], baseline: str, rounds: int) -> dict[str, float]:
    """Median over rounds of baseline / candidate, all of them one after the other in every round."""
    for each in candidates.values():
        each()
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        names = list(candidates) if number % 2 else list(reversed(candidates))
        seconds = {name: cpu_seconds(candidates[name]) for name in names}
        for name, value in seconds.items():
            found[name].append(seconds[baseline] / value)
    return {name: statistics.median(values) for name, values in found.items()}


def _refuse_difference(ours: dict[str, Ours], published: tuple[Published, ...]) -> None:
    losses = {}
    for name, each in ours.items():
        losses[name] = float(each.loss())
        each.trainer.optimizer.zero_grad()
    assert max(losses.values()) - min(losses.values()) <= 1e-5 * max(losses.values()), losses
    logged = ours["batched"].terms()
    for each in published:
        each()
        for name, value in each.found.items():
            assert abs(value - logged[name]) <= 1e-4 * max(1.0, value), (name, value, logged[name])


def measure(width: int = 256, rounds: int = 5) -> list[Line]:
    """Times of a step, as ratios."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours = {
            "batched": Ours(width, folder, chunked="off", shared=False),
            "chunked": Ours(width, folder, chunked="on", shared=False),
            "trunk": Ours(width, folder, chunked="on", shared=True),
        }
        one, ten = (Published(ours["batched"], width, tokens) for tokens in (1, 10))
        kinder = Published(ours["batched"], width, 10, SEQUENCES)
        _refuse_difference(ours, (one, kinder))
        steps: dict[str, Callable[[], None]] = {"published_1": one, "published_10": ten, "kinder_10": kinder, **ours}
        found = _ratios(steps, "published_1", rounds)
        shape = "{} to {} layers".format(*SHAPES[width])
        where = f", {shape}, width {width}, {SEQUENCES} x {LENGTH}"
        lines = []

        def line(name: str, value: float, baseline: str, target: float) -> None:
            full = f"steps_{name}_{width}"
            lines.append(Line(full, value, "times", baseline + where, target, "least", rounds, COMMAND))

        line("batched", found["batched"], "published step, 1 generated token", 1.0)
        line("chunked", found["chunked"], "published step, 1 generated token", 1.0)
        line("trunk", found["trunk"], "published step, 1 generated token", 1.6)
        line("trunk_10", found["trunk"] / found["published_10"], "published step, 10 generated tokens", 3.0)
        line("trunk_10_at_once", found["trunk"] / found["kinder_10"], "10 tokens, all sequences at once", 1.0)
        line("trunk_full", found["trunk"] / found["batched"], "the batched full student, whole logits", 1.25)
        if width == 256:
            plain = Ours(width, folder, chunked="auto", shared=False, lam=0.0)
            trl = _trl(plain, folder)
            if trl is not None:
                peers = _ratios({"plain": plain, "trl": trl}, "trl", rounds)
                line("plain_kd", peers["plain"], "TRL's GKDTrainer(lmbda=0)", 1.0)
        return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, choices=sorted(SHAPES), default=256)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    for each in measure(chosen.width, chosen.rounds):
        print(f"{each.name:<24} {each.value:6.2f} {each.unit}, target {each.target:g}, against {each.baseline}")
