"""The comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sensekd.evaluation.compare import direction
from sensekd.report.labels import baseline_of, number, ordered_arms, ordered_metrics, unit
from sensekd.report.verdict import MARKS, Outcome, findings, sentence
from sensekd.report.views import View, views

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

ONE_SEED: Final = "One seed: differences have no interval, and decide nothing."
_STYLES: Final[Mapping[Outcome, str]] = {"better": "blue", "worse": "yellow", "open": "dim"}


def _cell(results: Mapping[str, Any], arm: str, metric: str, mark: Outcome | None) -> Text:
    from rich.text import Text

    value = results["summary"][arm].get(metric)
    if value is None:
        return Text("", justify="right")
    text = Text(number(value["mean"], metric, results), justify="right")
    if value.get("n", 1) > 1:
        text.append(f" ±{number((value['high'] - value['low']) / 2, metric, results)}", style="dim")
    text.append(f" {MARKS[mark]}" if mark else "  ", style=_STYLES[mark] if mark else "")
    return text


def render_table(results: Mapping[str, Any]) -> Group:
    """Arms x metrics (mean ± half of the 95 % interval), and below it what differs from the baseline.

    A cell ends with ▲ or ▼ where the arm is better or worse than the baseline and zero lies outside the interval of the
    paired differences, with ≈ where it lies inside. Names are shown as they are, never read as markup.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    baseline, metrics = baseline_of(results), ordered_metrics(results)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for metric in metrics:
        arrow = "↑" if direction(metric) == "higher" else "↓"
        # Spaces, so that a narrow terminal can break the name.
        table.add_column(
            Text(f"{metric.replace('_', ' ')}\n{unit(metric, results)} {arrow}"), justify="right", overflow="fold"
        )
    lines = []
    for arm in ordered_arms(results["summary"]):
        found = findings(results, arm, baseline) if baseline else ()
        marks = {each.metric: each.outcome for each in found}
        table.add_row(Text(arm), *(_cell(results, arm, metric, marks.get(metric)) for metric in metrics))
        if found and arm not in {"teacher", "pruned"}:
            lines.append(sentence(found) if max(each.runs for each in found) > 1 else ONE_SEED)
    chance = results.get("chance") or {}
    if chance:
        cells = [number(chance[metric], metric, results) + "  " if metric in chance else "" for metric in metrics]
        table.add_row(*(Text(text, style="dim") for text in ("(chance)", *cells)))
    if baseline is not None:
        legend = f"▲ better, ▼ worse than {baseline} (95 % interval of the paired differences without zero), ≈ open"
        lines.insert(0, legend)
    return Group(table, Text(""), *(Text(line) for line in dict.fromkeys(lines)))


def _render_view(view: View) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, head in enumerate(view.heads):
        table.add_column(Text(head), justify="left" if at == 0 else "right", overflow="fold")
    for row in view.rows:
        table.add_row(*map(Text, row))
    title, note = Text(view.title, style="bold"), Text(view.note)
    return Group(Text(""), title, table, note) if view.rows else Group(Text(""), title, note)


def plain_views(shown: Sequence[View], width: int = 120) -> str:
    """Views as text without colours."""
    return _plain([_render_view(view) for view in shown], width)


def plain_table(results: Mapping[str, Any], width: int = 120) -> str:
    """`render_table`, and below it what else the comparison has, as text without colours."""
    return _plain([render_table(results), *(_render_view(view) for view in views(results))], width)


def _plain(groups: Sequence[Group], width: int) -> str:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=width, color_system=None)
    for group in groups:
        console.print(group)
    return str(console.file.getvalue())  # type: ignore[attr-defined]
