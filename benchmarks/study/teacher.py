"""The books' teachers: two small LLaMAs that differ in the size of their vocabulary alone."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from sensekd.config import CorpusConfig
from sensekd.corpus import documents, tokenise
from sensekd.demo.teacher import train_tokenizer
from sensekd.training.data import TokenBlocks, collate

VOCABULARIES: Final = {"books4k": 4096, "books1k": 1024}
STEPS: Final = {"books4k": 3000, "books1k": 4000}
"""About one pass over the text for both: a small vocabulary writes it in more tokens."""
BATCH: Final = 8
BLOCK: Final = 128
SHAPE: Final[dict[str, Any]] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def train(name: str, texts: Path, folder: Path, *, steps: int | None = None, seed: int = 0) -> dict[str, float]:
    """Train the teacher `name` on `train.jsonl` of `texts`; what it took and its loss on `development.jsonl`.

    One thread, mixed precision (bfloat16 products, float32 weights), a cosine to zero; the folder is written whole.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    torch.set_num_threads(1)
    steps = STEPS[name] if steps is None else steps
    started = time.process_time()
    config = CorpusConfig(path=str(texts / "train.jsonl"))
    tokenizer = train_tokenizer(documents(config), VOCABULARIES[name])
    set_seed(seed)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ids, **SHAPE))
    with tempfile.TemporaryDirectory() as work:
        blocks = TokenBlocks(tokenise(config, tokenizer, Path(work) / "tokens"), BLOCK)
        held = CorpusConfig(path=str(texts / "development.jsonl"))
        heldout = TokenBlocks(tokenise(held, tokenizer, Path(work) / "held"), BLOCK)
        arguments = TrainingArguments(
            output_dir=work, max_steps=steps, per_device_train_batch_size=BATCH, per_device_eval_batch_size=32,
            learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=steps // 20, weight_decay=0.05,
            adam_beta2=0.98, seed=seed, data_seed=seed, use_cpu=True, bf16=True, report_to="none", disable_tqdm=True,
            logging_steps=200, save_strategy="no", remove_unused_columns=False, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=blocks, eval_dataset=heldout)
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
    written = folder.with_name(f".{folder.name}.part")
    model.float().save_pretrained(written)
    tokenizer.save_pretrained(written)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "training tokens": len(blocks) * BLOCK,
        "steps": steps,
        "development CE": round(loss, 4),
        "development perplexity": round(math.exp(loss), 2),
        "CPU seconds": round(time.process_time() - started),
    }
    (written / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    written.replace(folder)
    return facts
