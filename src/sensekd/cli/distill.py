"""`sensekd distill`: train one student of a recipe, without evaluating it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sensekd.cli.console import AsJson, Overrides, RecipePath, Summary, shared_command, with_reporter


@shared_command
def distill(
    recipe: RecipePath,
    overrides: Overrides = None,
    arm: Annotated[str, typer.Option(help="Which arm of the comparison to train.")] = "dskd",
    as_json: AsJson = False,
) -> Summary:
    """Train one student. Stages before it (tokens, lexicon, linking, senses) are run where they are missing."""
    from sensekd.config import load_recipe
    from sensekd.pipeline.single import distill_arm

    loaded = load_recipe(recipe, overrides or ())
    facts: dict[str, Any] = with_reporter(lambda reporter: distill_arm(loaded, arm, reporter))
    text = (
        f"student: {facts['student']} ({facts['parameters']:,} parameters, {facts['trainable']:,} of them trained)\n"
        f"trained: {facts['steps']} steps, {facts['tokens']:,} tokens in {facts['seconds']:.1f} s\n"
        f"shared trunk: {facts['shared_layers']} layers ({facts['trunk_reason']})"
    )
    if facts["importance"] is not None:
        scores = ", ".join(f"{layer}: {facts['importance'][layer]:.3f}" for layer in facts["layers"])
        text += f"\nlayers by importance (angle in units of π): {scores}"
    return Summary(text, facts)
