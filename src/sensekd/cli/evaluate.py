"""`sensekd evaluate`: suites on any Hugging Face folder or hub name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sensekd.cli.console import AsJson, Overrides, Summary, command, with_reporter
from sensekd.errors import InputError


def _with_recipe(model: str, recipe: Path, overrides: list[str]) -> dict[str, Any]:
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import evaluate_folder

    loaded = load_recipe(recipe, overrides)
    found: dict[str, Any] = with_reporter(lambda reporter: evaluate_folder(loaded, Path(model), reporter))
    return found


@command
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face folder or hub name: student, baseline or teacher.")
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe that names teacher, held-out text, lexicon and question sets, for `intrinsic`."),
    ] = None,
    suite: Annotated[Literal["intrinsic", "paper", "paper-chat"], typer.Option(help="Which suite.")] = "intrinsic",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the benchmarks' original files; without it those of the hub."),
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="Run this task of the suite alone; repeatable.")
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="N|TASK=N", help="Items of a task (of an MMLU subject); repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the results there: a .json file, or a folder. The call after an interruption goes on there.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences of one forward.")] = 16,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="auto: float32 on the CPU, elsewhere as saved."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Summary:
    """Evaluate a model: the paper's benchmarks, or held-out CE, KL to the teacher, agreement, lexical tests."""
    from sensekd.pipeline.evaluating import Request, evaluate_suite, parse_limits, parts_of, save_results, table

    if recipe is not None and suite != "intrinsic":
        raise InputError(
            f"--recipe with --suite {suite}", "--suite intrinsic, which compares with the recipe's teacher",
            "leave out --recipe",
        )  # fmt: skip
    parts = parts_of(output)
    results: dict[str, Any] = {"model": model, "suite": suite}
    lines = []
    if recipe is not None:
        results |= _with_recipe(model, recipe, overrides or [])
        lines = [f"{name:<24} {value:.4f}" for name, value in results["metrics"].items()]
    if recipe is None or data is not None:
        request = Request(
            model, suite, data, tuple(tasks or ()), parse_limits(tuple(limits or ())), batch_size, dtype, device
        )
        found = with_reporter(lambda reporter: evaluate_suite(request, reporter, parts))
        found["metrics"] = {**results.get("metrics", {}), **found["metrics"]}
        results |= found
        lines.append(table(found))
    if output is not None:
        save_results(output, results)
        parts.clear()
    return Summary("\n".join(lines), results)
