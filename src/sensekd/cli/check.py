"""`sensekd check`: what is wrong with a recipe, and what it costs, before anything is started."""

from __future__ import annotations

from typing import Annotated

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, command

Memory = Annotated[str | None, typer.Option(help="Memory of one device, such as 80GB: warns where a step needs more.")]
PerSecond = Annotated[float | None, typer.Option(help="Tokens a second of the teacher's forward on one device.")]
Tflops = Annotated[float | None, typer.Option(help="TFLOP/s of a device: hours counted from arithmetic alone.")]
Measure = Annotated[bool, typer.Option(help="Time the teacher's forward here over a few batches (loads its weights).")]
Processes = Annotated[int, typer.Option(min=1, help="Processes that train side by side (DDP).")]
Coverage = Annotated[bool, typer.Option(help="Build and link the lexicon in memory, to see what it reaches.")]
SizesOnly = Annotated[bool, typer.Option(help="Sizes alone: no look at files that a run needs, nor at what stands.")]


@command
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    memory: Memory = None,
    rate: PerSecond = None,
    tflops: Tflops = None,
    measure: Measure = False,
    processes: Processes = 1,
    coverage: Coverage = False,
    sizes_only: SizesOnly = False,
    as_json: AsJson = False,
) -> Summary:
    """Find the errors of a recipe, size it and say what each stage will do, without loading weights."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.check.problems import listed
    from sensekd.pipeline.check.report import Options, as_data, examine, parse_bytes
    from sensekd.pipeline.check.text import render

    loaded = load_recipe(recipe, overrides or ())
    room = None if memory is None else parse_bytes(memory)
    report = examine(loaded, Options(room, rate, tflops, measure, processes, coverage, files=not sizes_only))
    data = {"recipe": str(recipe), **as_data(report)}
    error = listed(report.problems, str(recipe)) if report.problems else None
    return Summary(render(report, str(recipe)), data, error)
