"""A report as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sensekd.pipeline.check.shapes import parameters_of

if TYPE_CHECKING:
    from sensekd.pipeline.check.memory import Part
    from sensekd.pipeline.check.report import Report, Sizes
    from sensekd.pipeline.check.volume import Volume

_SIGN = {"exact": "=", "estimate": "~", "bound": "≤"}


def human_bytes(count: float) -> str:
    """Three digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 100 else 1 if count >= 10 else 2
    return f"{count:,.{digits}f} {unit}"


def _part(part: Part) -> str:
    note = f"  {part.note}" if part.note else ""
    return f"  {part.name:<18}{_SIGN[part.certainty]} {human_bytes(part.bytes):>9}{note}"


def _total(parts: Iterable[Part]) -> str:
    return f"  {'together':<18}~ {human_bytes(sum(part.bytes for part in parts)):>9}"


def _text(name: str, text: Volume) -> str:
    if text.sureness == "unknown":
        return f"  {name:<18}unknown: no file here, and no max_tokens in the recipe"
    documents = f" in {text.documents:,} documents" if text.documents else ""
    return f"  {name:<18}{text.sureness} {text.tokens:,}{documents}"


def _models(sizes: Sizes) -> Iterator[str]:
    shapes = sizes.shapes
    teacher, student = parameters_of(shapes.teacher), parameters_of(shapes.student)
    yield f"parameters (shapes from {sizes.shape_source})"
    yield f"  {'teacher':<18}= {teacher:,}"
    yield f"  {'student':<18}= {student:,} ({student / teacher:.0%})"
    yield f"  {'trained':<18}= {shapes.trainable:,}"
    yield f"  {'shared trunk':<18}  {shapes.trunk} layers: {shapes.trunk_reason}"


def _times(sizes: Sizes) -> Iterator[str]:
    schedule = sizes.schedule
    epochs = "" if schedule.epochs is None else f", {schedule.epochs:.2f} epochs"
    yield f"  {'training':<18}{schedule.total:,} in steps of {schedule.step:,}{epochs}"
    hours = sizes.hours
    if hours is None:
        yield "hours: not known; give --rate, --tflops or --measure"
        return
    yield f"hours, by {hours.rate.tokens:,.0f} tokens a second of the teacher's forward ({hours.rate.basis})"
    if hours.sampling is not None:
        yield f"  {'sampling senses':<18}~ {hours.sampling:.2f}"
    yield f"  {'one training':<18}~ {hours.training:.2f}"


def _sized(sizes: Sizes) -> Iterator[str]:
    yield from _models(sizes)
    yield "memory of one process at the peak of a training step"
    yield from map(_part, sizes.memory)
    yield _total(sizes.memory)
    yield "disk"
    yield from map(_part, [*sizes.disk, *sizes.worst])
    yield "tokens"
    yield from (_text(name, text) for name, text in sizes.texts.items())
    yield from _times(sizes)


def _coverage(found: Mapping[str, Any]) -> Iterator[str]:
    """The numbers of each section, in its own words."""
    for section in ("linking", "positions"):
        numbers = {name: value for name, value in (found.get(section) or {}).items() if isinstance(value, int | float)}
        if numbers:
            yield f"  {section:<18}" + ", ".join(f"{name} {value:,}" for name, value in numbers.items())


def render(report: Report, name: str) -> str:
    """The report as lines; `=` is exact, `~` an estimate, `≤` the most that can be."""
    lines = list(_sized(report.sizes)) if report.sizes is not None else [f"not sized: {report.unsized}"]
    if report.coverage is not None:
        lines += ["coverage", *_coverage(report.coverage)]
    if report.plan:
        lines.append("stages of `sensekd run`")
        lines += [f"  {step.stage:<18}{step.action:<8}{step.why}" for step in report.plan]
        lines.append(f"  {'compare':<18}{report.compare[0]} of {report.compare[1]} jobs stand")
    lines += [f"warning: {line}" for line in report.warnings]
    if not report.problems:
        lines.append(f"{name}: no problem found")
    return "\n".join(lines)
