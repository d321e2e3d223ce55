"""The demo's teacher: a small LLaMA and its tokenizer, trained on the miniature world with the plain `Trainer`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import atomic_directory
from sensekd.config import CorpusConfig
from sensekd.corpus import documents, tokenise
from sensekd.training.data import TokenBlocks, collate
from sensekd.training.teacher import quiet_transformers
from sensekd.training.threads import threads

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY: Final = 2048
"""Large enough that most content words are one token."""

BLOCK: Final = 128
BATCH: Final = 4
LEARNING_RATE: Final = 4e-3
"""Many small steps: at equal tokens, batches of 16 learn facts and relations far worse than batches of 4."""

SHAPE: Final[dict[str, Any]] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts a beginning-of-text token before every text; the same texts give the same.

    Args:
        texts: what its merges are learned from.
        vocab_size: at most so many tokens, the 256 bytes and three special tokens included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, inner.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=SHAPE["max_position_embeddings"],
    )


def new_teacher(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The teacher before training, its weights drawn with `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **SHAPE,
        )
    )


def train_teacher(
    corpus: Path, folder: Path, *, seed: int, steps: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Trains tokenizer and teacher on a world's text and leaves them as an ordinary Hugging Face folder.

    Args:
        corpus: the world's `train.jsonl`.
        folder: replaced whole.
        seed: of the first weights and of the order of the text.
        steps: optimiser steps of `BATCH` blocks of `BLOCK` tokens.
        progress: called after every step with (step, steps).

    Raises:
        InputError: no such corpus, or one without a whole block.
    """
    config = CorpusConfig(path=str(corpus))
    tokenizer = train_tokenizer(documents(config))
    teacher = new_teacher(tokenizer, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.work.") as work:
        blocks = TokenBlocks(tokenise(config, tokenizer, Path(work) / "tokens"), BLOCK)
        # At this size a second thread costs more than it gives, and the weights would depend on how many there are.
        with threads(1):
            _fit(teacher, blocks, _arguments(Path(work), seed, steps), progress)
    with quiet_transformers(), atomic_directory(folder) as temporary:
        teacher.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file in temporary.rglob("*"):
            file.chmod(0o644)


def _arguments(work: Path, seed: int, steps: int) -> TrainingArguments:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * steps),
        weight_decay=0.01,
        adam_beta2=0.98,
        seed=seed,
        data_seed=seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _fit(
    teacher: LlamaForCausalLM,
    blocks: TokenBlocks,
    arguments: TrainingArguments,
    progress: Callable[[int, int], None] | None,
) -> None:
    from transformers import PrinterCallback, Trainer, TrainerCallback

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps)

    trainer = Trainer(teacher, arguments, data_collator=collate, train_dataset=blocks, callbacks=[Report()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    teacher.eval()
