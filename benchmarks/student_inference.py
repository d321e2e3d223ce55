"""The student at inference is an ordinary model: its speed and its peak memory against an untouched one of its shape.

The student is cut from a randomly initialised LLaMA, exported as the distillation exports it, and loaded from its
folder; the baseline is a model made by transformers alone from the same configuration, saved and loaded likewise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Line, paired_ratio

NAME = "student_inference"
COMMAND = f"make bench ONLY={NAME}"
ROUNDS = 15


def _peak(folder: Path) -> float:
    """Peak resident megabytes of a process that loads a checkpoint and generates."""
    code = (
        "import resource, sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()\n"
        "ids = torch.arange(256).reshape(2, 128)\n"
        "model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, pad_token_id=0)\n"
        "assert 'sensekd' not in sys.modules\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def measure() -> list[Line]:
    """Time and memory, student / untouched."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from sensekd.config import StudentConfig
    from sensekd.training.export import export_student
    from sensekd.training.students import make_student

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8}
    teacher = LlamaForCausalLM(LlamaConfig(num_hidden_layers=16, **shape)).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})), unk_token="a")
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder) / "ours", Path(folder) / "plain"
        export_student(make_student(teacher, StudentConfig(layers=8)), tokenizer, ours)
        LlamaForCausalLM(LlamaConfig(num_hidden_layers=8, **shape)).save_pretrained(plain)
        student, untouched = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (ours, plain)
        )
        ids = torch.arange(1024).reshape(8, 128)

        def forward(model: torch.nn.Module) -> None:
            with torch.no_grad():
                model(ids)

        time_ratio = paired_ratio(lambda: forward(student), lambda: forward(untouched), ROUNDS)
        peaks = [(_peak(ours), _peak(plain)) for _ in range(3)]
        memory_ratio = sorted(a / b for a, b in peaks)[1]
    baseline = "an untouched LlamaForCausalLM of the student's shape"
    return [
        Line("student_inference_time", time_ratio, "ratio", baseline, 1.03, "most", ROUNDS, COMMAND),
        Line("student_inference_memory", memory_ratio, "ratio", baseline, 1.03, "most", 3, COMMAND),
    ]
