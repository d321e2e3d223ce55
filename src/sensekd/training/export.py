"""Leaving the student as an ordinary Hugging Face checkpoint: nothing of the training stays inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sensekd.artefacts import atomic_directory
from sensekd.training.teacher import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export_student(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save weights (safetensors), configuration, generation settings and tokenizer, atomically.

    The folder loads with `AutoModelForCausalLM` wherever transformers is installed; sensekd is not needed.

    Args:
        student: the full student, not a tail.
        tokenizer: the teacher's.
        folder: replaced whole where it exists.
    """
    with quiet_transformers(), atomic_directory(folder) as temporary:
        student.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
