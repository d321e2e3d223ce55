"""`transformers.Trainer` with the loss L = L_CE + α τ² L_KL + λ L_sense + μ L_hid (DSKD, arXiv 2602.22351).

Shapes: B sequences, T tokens, N = B (T - 1) label positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from sensekd.errors import InputError
from sensekd.losses import (
    IGNORE,
    LossTerm,
    Objective,
    chunked_terms,
    cross_entropy,
    divergence,
    divisor,
    hidden_mse,
    top_divergence,
)
from sensekd.training.failures import probe
from sensekd.training.heads import plan_heads, withhold_inputs
from sensekd.training.kept import KeptTrainer
from sensekd.training.placement import carry
from sensekd.training.projector import ProjectedStudent
from sensekd.training.record import Window
from sensekd.training.sharding import refuse_launcher
from sensekd.training.supervision import Batch, Counts, SenseSupervision, annotate, random_draws
from sensekd.training.terms import confidence, find_targets, lambda_at, sense_terms, weigh
from sensekd.training.trunk import capture_inputs, layers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from sensekd.config import LossConfig
    from sensekd.losses import TopTeacher
    from sensekd.training.cache.feed import TeacherFeed

# Names under which a divergence is logged.
_LOGGED: Final = {"forward": "kl", "reverse": "reverse_kl", "jsd": "jsd"}
# Under which a batch holds a signal of the teacher that was asked for before the loss.
_HELD: Final = "teacher_"


@dataclass(frozen=True)
class Distillation:
    """What a student learns from.

    Attributes:
        teacher: frozen, in evaluation mode, on any device; may be None where only CE is asked for.
        loss: weights of the terms and how senses are used.
        senses: table and word edges; needed where λ > 0 or μ > 0 (for σ²).
        shared_layers: n of the shared trunk; the trained model is fed with the teacher's state after n layers.
        made_from: identities that a checkpoint remembers; one of another making is refused.
        vocabulary: how many tokens CE and KL are over, where a table has padding rows beyond them; None for all rows.
        feed: a cache that stands in the place of the teacher's forward, or None.
    """

    teacher: PreTrainedModel | None
    loss: LossConfig
    senses: SenseSupervision | None
    shared_layers: int = 0
    made_from: Mapping[str, Any] | None = None
    vocabulary: int | None = None
    feed: TeacherFeed | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return self.loss.alpha > 0 or self.needs_states

    @property
    def needs_states(self) -> bool:
        """Whether any term looks at h^T."""
        return self.loss.lam > 0 or self.loss.mu > 0


@dataclass(frozen=True)
class Signal:
    """One forward of the teacher: states [B, T - 1, D], logits [B, T - 1, V], state after the trunk [B, T, D].

    There are no logits where the loss is computed in chunks. A cache gives `top` in their place, and states only
    where it keeps them.
    """

    states: Tensor | None = None
    logits: Tensor | None = None
    trunk: Tensor | None = None
    top: TopTeacher | None = None


class SenseDistillationTrainer(KeptTrainer):
    """A Trainer whose loss is CE + KL + sense + hidden state, each divided once by its own global count.

    Args:
        model: the student, its tail where a trunk is shared, or a `ProjectedStudent`.
        distillation: teacher, loss and senses.
        rest: everything else that `transformers.Trainer` takes.

    Raises:
        InputError: a term is asked for whose teacher or senses are missing.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, model: nn.Module, distillation: Distillation, **rest: Any) -> None:
        super().__init__(model, distillation.made_from, **rest)
        if distillation.needs_teacher and distillation.teacher is None and distillation.feed is None:
            raise InputError("the loss looks at a teacher, but there is none", "a teacher, or alpha = lambda = mu = 0")
        if distillation.needs_states and distillation.senses is None:
            raise InputError(
                "lambda or mu is above 0, but there is no sense table",
                "a sense dictionary (senses, and σ² as the unit of distances)",
                "build it with `sensekd senses build`, or set loss.lambda and loss.mu to 0",
            )
        refuse_launcher(self)
        senses = distillation.senses
        self.distillation = distillation
        self._senses = senses.to(self.args.device) if senses is not None and distillation.needs_states else None
        self._trunk_end = None
        live = distillation.teacher if distillation.feed is None else None
        if distillation.shared_layers and distillation.teacher is not None:
            self._trunk_end = layers_of(distillation.teacher)[distillation.shared_layers]
        # What a trained layer is fed with has the dtype of its weights; autocast does the rest.
        self._dtype = next((value.dtype for value in self.model.parameters() if value.requires_grad), torch.float32)
        loss, inner = distillation.loss, self.model.student if isinstance(self.model, ProjectedStudent) else self.model
        self._heads, self.logits_path = plan_heads(
            inner, live if loss.alpha > 0 else None, loss, distillation.vocabulary
        )
        if self.is_fsdp_enabled and self._heads is not None and self._heads.student.weight.requires_grad:
            # Shards of a trained output embedding are whole inside the root forward alone.
            self._heads, self.logits_path = None, "whole logits: the output embedding is trained and sharded"
        self._objective = Objective(loss.alpha * loss.tau**2, loss.tau, loss.divergence, loss.jsd_beta)
        self._window = Window()
        self._counts = Counts(*(torch.ones((), device=self.args.device),) * 3)

    # ---- what of the accumulated batch is supervised

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Fetch the batches of one optimiser step; count what they supervise, over all of them and all processes."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, torch.zeros((), device=device)
        args, loss = self.args, self.distillation.loss
        draws: list[Tensor | None] = [None] * len(batches)
        if self._senses is not None and loss.positions != "all":
            step = self.state.global_step
            draws = [*random_draws(batches, args.seed, step, args.process_index, args.world_size)]
        rows = []
        for batch, draw in zip(batches, draws, strict=True):
            if self._senses is not None:
                feed = self.distillation.feed
                counts = annotate(batch, self._senses, loss, draw, prefetch=feed is None)
                if feed is not None:
                    feed.prepare(batch, self._senses.table)
                if loss.confidence != "off" and loss.lam > 0:
                    counts = self._weigh(batch, self._senses)
            else:
                labels = (batch["labels"][:, 1:] != IGNORE).sum()
                counts = Counts(labels, torch.zeros_like(labels), torch.zeros_like(labels))
            rows.append(torch.stack(counts))
        tokens = sum(batch["input_ids"].numel() for batch in batches) * args.world_size
        self._window.begin_step(tokens)
        self.state.num_input_tokens_seen += tokens
        asked = torch.tensor([int(self.interruption.asked)])
        total = self._reduce(torch.cat([torch.stack(rows).sum(0).to(device), asked.to(device)]))
        self._counts, self._asked = Counts(*total[:-1].unbind()), total[-1]
        if total.is_floating_point():
            labels, *weights = self._counts
            self._counts = Counts(labels.long(), *(weight.float() for weight in weights))
        self._note_counts()
        return batches, self._counts.labels

    def _weigh(self, batch: Batch, senses: SenseSupervision) -> Counts:
        """Weigh the positions of a batch by the teacher's confidence, before any loss: the sums of all batches divide.

        A running teacher is not asked again for the loss: what it said is held with the batch.
        """
        signal, loss, heads = self._taught(batch), self.distillation.loss, self._heads
        if self.distillation.feed is None:
            held = {_HELD + name: value for name, value in vars(signal).items() if value is not None}
            batch.update(held)
        logits = None if signal.logits is None else signal.logits.flatten(0, 1)
        states = None
        if heads is not None and heads.teacher is not None and signal.states is not None:
            states = (signal.states.flatten(0, 1), heads.teacher)
        labels = batch["labels"][:, 1:].reshape(-1)
        return weigh(batch, senses.table, loss, confidence(loss, labels, logits, states, signal.top))

    def _note_counts(self) -> None:
        # Every process notes its share of a global number, so that the sum over processes is that number.
        share = 1 / self.args.world_size
        self._window.add("count:n_labels", self._counts.labels * share)
        loss = self.distillation.loss
        if loss.lam > 0:
            if loss.anneal is not None:
                lam = lambda_at(loss, self.state.global_step, self.state.max_steps)
                self._window.add("count:lambda", torch.tensor(lam * share))
            for name, count in (("pull", self._counts.pull), ("push", self._counts.push)):
                self._window.add(f"count:n_{name}", count * share)
                self._window.add(f"present:{name}", (count > 0) * share)

    # ---- one forward of each model

    @torch.no_grad()
    def _teach(self, inputs: Batch) -> Signal:
        loss, teacher = self.distillation.loss, self.distillation.teacher
        if teacher is None or not self.distillation.needs_teacher:
            return Signal()
        ids = inputs["input_ids"]
        with contextlib.ExitStack() as hooks:
            below = hooks.enter_context(capture_inputs(self._trunk_end)) if self._trunk_end is not None else None
            whole = self._heads is None and loss.alpha > 0
            enter = capture_inputs if whole else withhold_inputs
            last = hooks.enter_context(enter(teacher.get_output_embeddings()))
            if whole:
                # Only label positions reach the output embedding, so nothing of the size of the logits is sliced later.
                keep = torch.arange(ids.shape[1] - 1, device=ids.device)
                logits = teacher(**_reads(inputs), use_cache=False, logits_to_keep=keep).logits
                states = last[0]
            else:
                # The root forward, not that of the layers alone: a sharded teacher knows no other.
                teacher(**_reads(inputs), use_cache=False)
                logits, states = None, last[0][:, :-1]
        return Signal(states, logits, below[0] if below else None)

    def _taught(self, inputs: Batch) -> Signal:
        """The teacher's signal on the device and, for the trunk, in the dtype that the student needs.

        The Trainer's autocast covers the student's forward alone: the teacher computes in its own dtype, so that its
        states are those of the dictionary.
        """
        teacher, here, feed = self.distillation.teacher, self.args.device, self.distillation.feed
        held: dict[str, Any] = {name: inputs.get(_HELD + name) for name in ("states", "logits", "trunk")}
        if held["states"] is not None:
            return Signal(**held)
        if feed is not None:
            recalled = feed.recall(inputs, self._senses.table if self._senses is not None else None)
            trunk = None if recalled.trunk is None else recalled.trunk.to(self._dtype)
            return Signal(recalled.states, None, trunk, recalled.top)
        if teacher is None:
            return self._teach(inputs)
        signal = self._teach(carry(inputs, teacher.device))
        found: dict[str, Any] = carry({name: value for name, value in vars(signal).items() if value is not None}, here)
        if "logits" in found:
            found["logits"] = self._common(found["logits"])
        if "trunk" in found:
            found["trunk"] = found["trunk"].to(self._dtype)
        return replace(signal, **found)

    def _common(self, logits: Tensor) -> Tensor:
        """The logits of the tokens that both models have; rows of padding are left out."""
        common = self.distillation.vocabulary
        return logits if common is None else logits[..., :common]

    def _projected(self, states: Tensor) -> Tensor:
        """The student's states in the teacher's width."""
        return self.model.project(states) if isinstance(self.model, ProjectedStudent) else states

    def _study(self, model: nn.Module, inputs: Batch, signal: Signal) -> tuple[Tensor, Tensor | None]:
        reads = _reads(inputs)
        keep = torch.arange(inputs["input_ids"].shape[1] - 1, device=inputs["input_ids"].device)
        if signal.trunk is not None:
            del reads["input_ids"]
            reads["inputs_embeds"] = signal.trunk
        if self._heads is not None:
            with withhold_inputs(self.model.get_output_embeddings()) as last:
                model(**reads, use_cache=False)
            return last[0][:, :-1], None
        # The root forward goes through the wrapper (DDP, FSDP2); the hook sits on the module inside.
        with capture_inputs(self.model.get_output_embeddings()) as last:
            logits = model(**reads, use_cache=False, logits_to_keep=keep).logits
        return last[0], logits

    # ---- the loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """This batch's part of the loss of the whole accumulated global batch.

        Processes see their gradients averaged, hence the factor; the parts then add up to the loss of the global batch.
        """
        signal = self._taught(inputs)
        states, logits = self._study(model, inputs, signal)
        logits = None if logits is None else self._common(logits)
        labels = inputs["labels"][:, 1:].reshape(-1)
        weighted = self._logit_terms(signal, states, logits, labels)
        weighted += self._state_terms(inputs, signal, self._projected(states).flatten(0, 1), labels != IGNORE)
        loss = torch.stack(weighted).sum() if len(weighted) > 1 else weighted[0]
        taught = None if signal.states is None else probe(signal.states, inputs["labels"][:, 1:] != IGNORE)
        self._watch.note(self.state.global_step + 1, inputs.get("block"), taught, loss)
        loss = loss * self.args.world_size
        return (loss, {"states": states} if logits is None else {"logits": logits}) if return_outputs else loss

    def _logit_terms(self, signal: Signal, states: Tensor, logits: Tensor | None, labels: Tensor) -> list[Tensor]:
        """CE and divergence, weighted; `states` [B, T - 1, D] are those that enter the student's output embedding."""
        loss, counts = self.distillation.loss, self._counts
        if logits is None:
            return [self._chunked(signal, states.flatten(0, 1), labels)]
        logits = logits.flatten(0, 1)
        found = [self._term("ce", cross_entropy(logits, labels), counts.labels)]
        if loss.alpha > 0 and signal.logits is not None:
            term = divergence(signal.logits.flatten(0, 1), logits, self._objective, labels != IGNORE)
            found.append(self._objective.weight * self._term(_LOGGED[loss.divergence], term, counts.labels))
        elif signal.top is not None:
            term = top_divergence(signal.top, logits, self._objective, labels != IGNORE)
            found.append(self._objective.weight * self._term(_LOGGED[loss.divergence], term, counts.labels))
        return found

    def _state_terms(self, inputs: Batch, signal: Signal, states: Tensor, mask: Tensor) -> list[Tensor]:
        """The terms that compare states with the teacher's and with senses, weighted."""
        loss, senses, counts = self.distillation.loss, self._senses, self._counts
        found: list[Tensor] = []
        if senses is None or (signal.states is None and self.distillation.feed is None):
            return found
        teacher = None if signal.states is None else signal.states.flatten(0, 1)
        if loss.mu > 0:
            assert teacher is not None
            term = hidden_mse(teacher, states, senses.table.sigma2, mask)
            found.append(loss.mu * self._term("hidden", term, counts.labels))
        if loss.lam > 0:
            found += self._sense_terms(inputs, senses, teacher, states)
        return found

    def _chunked(self, signal: Signal, states: Tensor, labels: Tensor) -> Tensor:
        """CE and divergence as one weighted sum over its global count, without logits; both parts are noted."""
        heads, loss = self._heads, self.distillation.loss
        teacher: Any = signal.top
        assert heads is not None
        if heads.teacher is not None and signal.states is not None:
            teacher = (signal.states.flatten(0, 1), heads.teacher)
        with self.accelerator.autocast():
            terms = chunked_terms(states, heads.student, teacher, labels, self._objective, elements=loss.chunk_elements)
        self._term("ce", terms.ce, self._counts.labels)
        if terms.divergence is not None:
            self._term(_LOGGED[loss.divergence], terms.divergence, self._counts.labels)
        return terms.total.sum / self._counts.labels.clamp(min=1)

    def _sense_terms(
        self, inputs: Batch, senses: SenseSupervision, teacher: Tensor | None, states: Tensor
    ) -> list[Tensor]:
        loss, table, counts = self.distillation.loss, senses.table, self._counts
        targets = find_targets(inputs, table, loss, teacher, self.distillation.feed)
        pull, push, active = sense_terms(inputs, states, targets, table.sigma2, loss)
        self._window.add("active:push", active.sum)
        self._window.add("rows:push", active.count)
        lam = lambda_at(loss, self.state.global_step, self.state.max_steps)
        return [
            lam * loss.beta_positive * self._term("pull", pull, counts.pull),
            lam * loss.beta_negative * self._term("push", push, counts.push),
        ]

    def _term(self, name: str, term: LossTerm, count: Tensor) -> Tensor:
        """sum / global count, and a note of it; 0 where nothing was supervised, so that an absent term adds nothing."""
        value = term.sum / divisor(count)
        self._window.add(f"term:{name}", value)
        return value

    # ---- logging, checkpoints

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of every term since the last logging; the only place where the device is waited for.

        Raises:
            NonFiniteError: the loss or a state of the teacher was not finite at some step.
        """
        self.refuse_non_finite()
        if "loss" in logs:
            logs.update(self._window.read(self._reduce))
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: it would walk over all parameters at every step."""
        return 0


def _reads(inputs: Batch) -> Batch:
    return {key: inputs[key] for key in ("input_ids", "attention_mask", "position_ids") if key in inputs}
