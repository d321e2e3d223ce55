"""A suite on any Hugging Face folder or name of the hub, without a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import write_json
from sensekd.config import TeacherConfig
from sensekd.errors import InputError, require
from sensekd.pipeline.stages import Reporter
from sensekd.provenance import file_fingerprint, versions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sensekd.evaluation.paper import Choice
    from sensekd.evaluation.parts import Parts

SUITES: Final = ("paper", "paper-chat", "intrinsic")
_FORMAT: Final = 1
"""Of what a suite asks and how it counts; another number, and nothing kept by an interrupted run is taken over."""

_OPTIONAL: Final = ("lm-eval", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Request:
    """What to evaluate, and on what.

    Attributes:
        model: folder or name of the hub.
        suite: one of `SUITES`.
        data: folder of the original files, or None: the hub.
        tasks: which of the suite's; all by default.
        limits: items of a task; `*` for those not named.
        batch_size: sequences of one forward.
        dtype: `auto` is float32 on the CPU, elsewhere that of the checkpoint.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        revision: of a model on the hub.
        trust_remote_code: run code that comes with the checkpoint.
    """

    model: str
    suite: str
    data: Path | None = None
    tasks: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    batch_size: int = 16
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def choice(self) -> Choice:
        """What of the suite is run."""
        from sensekd.evaluation.paper import Choice

        return Choice(self.data, self.tasks, dict(self.limits), self.batch_size)


def parse_limits(texts: tuple[str, ...]) -> dict[str, int]:
    """`20` or `mmlu=20`, any number of them, as task -> items (`*`: every task not named).

    Raises:
        InputError: neither of the two.
    """
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"--limit {text!r}", "a number from 1, or TASK=number", "for example --limit mmlu=20")
        found[name or "*"] = int(number)
    return found


def _config(request: Request, device: torch.device) -> TeacherConfig:
    from sensekd.training.teacher import load_config

    options = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    dtype = request.dtype
    if dtype == "auto":
        saved = load_config(TeacherConfig(model=request.model, **options)).dtype
        dtype = "float32" if device.type == "cpu" or saved is None else str(saved).removeprefix("torch.")
    return TeacherConfig.model_validate({"model": request.model, "dtype": dtype, **options})


def _run(
    request: Request, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reporter: Reporter, parts: Parts
) -> dict[str, Any]:
    from sensekd.evaluation.chatted import paper_chat
    from sensekd.evaluation.lexical import lexical
    from sensekd.evaluation.paper import paper

    suites = {"paper": paper, "paper-chat": paper_chat, "intrinsic": lexical}
    return suites[request.suite](model, tokenizer, request.choice, reporter.progress, parts)


def _look_at_data(request: Request) -> None:
    """Refuse what is wrong with the choice and the files before a model is loaded, which may take minutes."""
    from sensekd.evaluation.lexical import lexical_files
    from sensekd.evaluation.paper import SHOTS, chosen_names, local_rows

    if request.suite == "intrinsic":
        lexical_files(request.choice)
        return
    if request.suite == "paper":
        require("lm_eval", "eval")
    names = chosen_names(request.choice, list(SHOTS))
    if request.data is not None:
        local_rows(request.choice, names)


def _versions() -> dict[str, str]:
    found = versions()
    for name in _OPTIONAL:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _ways(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a checkpoint says beside weights and pieces: how it is asked, and where its answers end."""
    import torch

    generation = model.generation_config
    return {
        "template": tokenizer.chat_template,
        "special": tokenizer.special_tokens_map,
        "generation": None if generation is None else generation.to_dict(),
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else None,
    }


def evaluate_suite(request: Request, reporter: Reporter, parts: Parts | None = None) -> dict[str, Any]:
    """Run a suite on a model.

    Args:
        request: what on what.
        reporter: where progress goes.
        parts: where the results of finished benchmarks are kept for the call after an interruption, as `parts_of` gives
            it; to be cleared when the whole has been saved. None: nothing is kept.

    Returns:
        What the suite gives (`tasks`, `metrics`, `missing`), with `model`, `suite` and `provenance`. Two equal runs
        give the same bytes: no time stands in it.

    Raises:
        InputError: the model, the data or the choice of tasks is wrong.
    """
    import torch

    from sensekd.evaluation.parts import Parts
    from sensekd.training.placement import pick_device
    from sensekd.training.teacher import load_teacher

    device = pick_device(request.device, "--device")
    _look_at_data(request)
    config = _config(request, device)
    model, tokenizer, identity = load_teacher(config, device)
    reporter.note(f"evaluating {request.model}: suite {request.suite}, {config.dtype} on {device}")
    settings = {
        "tasks": list(request.tasks), "limits": dict(request.limits), "batch_size": request.batch_size,
        "dtype": config.dtype, "device": device.type, "threads": torch.get_num_threads(),
    }  # fmt: skip
    # What the other benchmarks are, and how much of them is taken, is nothing to one of them.
    shared = {name: value for name, value in settings.items() if name not in {"tasks", "limits"}}
    made_from = {
        "format": _FORMAT, "suite": request.suite, "model": identity.compared(), "versions": _versions(),
        "settings": shared, "ways": _ways(model, tokenizer),
    }  # fmt: skip
    parts = replace(parts or Parts(), made_from=made_from, note=reporter.note)
    found = _run(request, model, tokenizer, reporter, parts)
    for name in found["missing"]:
        reporter.note(f"no files of {name} under {request.data}: left out")
    files = {name: file_fingerprint(*paths) for name, paths in found.pop("files").items()}
    provenance = {"model": asdict(identity), "versions": _versions(), "settings": settings, "files": files}
    return {"model": request.model, "suite": request.suite, **found, "provenance": provenance}


def results_file(path: Path) -> Path:
    """Where results go: the file, or `results.json` in the folder.

    Raises:
        InputError: nothing can be written there; better said before hours of work than after.
    """
    target = path if path.suffix == ".json" else path / "results.json"
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if target.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(
            f"--output {path}: {target if target.is_dir() else above} is no "
            f"{'file' if target.is_dir() else 'folder that can be written'}",
            "a .json file or a folder of one's own", "change --output",
        )  # fmt: skip
    return target


def parts_of(output: Path | None) -> Parts:
    """Where finished benchmarks are kept until the results stand: beside these, in `<file>.parts`.

    Raises:
        InputError: nothing can be written there.
    """
    from sensekd.evaluation.parts import Parts

    if output is None:
        return Parts()
    target = results_file(output)
    folder = target.with_name(f"{target.name}.parts")
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{folder} is no folder that can be written", "room for what is finished", "move it away")
    return Parts(folder)


def save_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results atomically; a folder gets `results.json`."""
    write_json(results_file(path), results)


def table(results: Mapping[str, Any]) -> str:
    """Results for a terminal."""
    lines = []
    for task, found in results["tasks"].items():
        figures = "  ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items())
        lines.append(f"{task:<16} {figures}  ({found['items']} items{_remarks(found)})")
    return "\n".join(lines)


def _remarks(found: Mapping[str, Any]) -> str:
    remarks = [f"chance {found['chance']:.3f}"] if "chance" in found else []
    shots = found.get("shots")
    if shots and shots["asked"]:
        remarks.append(f"{shots['mean']:.2f} of {shots['asked']} shots on average")
    if found.get("truncated"):
        remarks.append(f"{found['truncated']} cut from the left")
    return "".join(f", {remark}" for remark in remarks)
