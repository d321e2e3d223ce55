"""Self-contained pages over comparisons and dictionaries: no request leaves them, and they open from the disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sensekd.artefacts import atomic_file
from sensekd.errors import InputError, require
from sensekd.report.figures import Line, Picture, curve_pictures, difference_pictures
from sensekd.report.fitting import LIMIT, explorer_part, fit
from sensekd.report.sections import run_context
from sensekd.report.sides import side_tables
from sensekd.report.text import data_json, shown, visible
from sensekd.report.verdict import verdict

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES: Final = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class RunData:
    """One run on a page.

    Attributes:
        name: what the run is called; by default the recipe's name.
        results: the tree of `results.json`: `arms`, `summary`, `differences`, and, each where known, `senses`,
            `examples` ([{"word", "senses": [{"support", "contexts"}]}]), `coverage`, `chance`, `provenance`, `times`.
        histories: log records of every student by "arm-seed"; the terms of a record are those of the loss.
        explorer: what `sensekd.report.explorer.explore` found, or None.
    """

    results: Mapping[str, Any]
    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    explorer: Mapping[str, Any] | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """The name, or the recipe's."""
        recipe = (self.results.get("provenance") or {}).get("recipe") or {}
        return self.name or str(recipe.get("name") or "comparison")


def _environment() -> Environment:
    jinja2 = require("jinja2", "report")
    from markupsafe import Markup

    def finish(value: object) -> object:
        # Every string of the data passes here; what the templates themselves say is Markup or text between tags.
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=finish,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment


def _script(text: str) -> Markup:
    """Text of a script element; nothing in it can end the element."""
    from markupsafe import Markup

    return Markup(re.sub(r"</(?=script)", r"<\\/", text, flags=re.IGNORECASE))


def _library() -> Markup:
    from bokeh.resources import Resources

    scripts = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    # page.js sets the log level, silently.
    return _script("\n".join(script for script in scripts if not script.startswith("Bokeh.set_log_level")))


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _shared(title: str, meta: str) -> dict[str, Any]:
    """What every page is filled with."""
    from markupsafe import Markup

    return {
        "title": title,
        "meta": meta,
        "style": Markup(_read("page.css") + _read("explorer.css")),
        "explorer_behaviour": _script(_read("explorer.js")),
        "explorers": [],
        "library": "",
    }


def _meta(run: RunData) -> str:
    teacher = ((run.results.get("provenance") or {}).get("teacher") or {}).get("model")
    seeds = sorted({each["seed"] for each in run.results.get("arms", [])})
    parts = [f"teacher {teacher}"] if teacher else []
    parts.append(f"{len(run.results['summary'])} arms")
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")
    return " · ".join(parts)


def _titles(runs: Sequence[RunData]) -> list[str]:
    """A name for every run, numbered where two have the same."""
    names = [run.title for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, 1)]


_Pictures = tuple[Sequence[Picture], Sequence[Picture], Sequence[Line]]


def _pictures(runs: Sequence[RunData]) -> list[_Pictures]:
    """Of every run the pictures of its differences and of its curves, and the key to the lines of these."""
    prefixes = [_prefix(runs, at) for at in range(len(runs))]
    return [
        (difference_pictures(run.results, prefix), *curve_pictures(run.histories, prefix))
        for run, prefix in zip(runs, prefixes, strict=True)
    ]


def _prefix(runs: Sequence[RunData], at: int) -> str:
    """What the ids of a run begin with; they stand alone where the run does."""
    return f"r{at}-" if len(runs) > 1 else ""


def _page(
    runs: Sequence[RunData],
    drawn: Sequence[_Pictures],
    trees: Sequence[Mapping[str, Any] | None],
    left_out: Sequence[int],
) -> str:
    """The page with these explorers, which may have fewer words than those of the runs."""
    from markupsafe import Markup

    environment = _environment()
    titles = _titles(runs)
    items: dict[str, Any] = {}
    parts, explorers = [], []
    for at, (run, title, tree) in enumerate(zip(runs, titles, trees, strict=True)):
        prefix = _prefix(runs, at)
        items |= {picture.id: picture.item for pictures in drawn[at][:2] for picture in pictures}
        context = run_context(run.results, run.histories, drawn[at], prefix)
        context["part"] = None
        if tree is not None and tree["words"]:
            context["part"] = explorer_part(tree, f"{prefix}explorer", left_out[at])
            explorers.append({"id": f"{prefix}explorer", "json": data_json(shown(tree))})
        body = Markup(environment.get_template("run.html.j2").render(context))
        parts.append({"name": title, "prefix": prefix, "body": body, "headline": verdict(run.results).headline})
    several = len(runs) > 1
    tree_of_page = {
        **_shared(" · ".join(titles), f"{len(runs)} runs" if several else _meta(runs[0])),
        "runs": parts,
        "sides": side_tables([run.results for run in runs]) if several else [],
        "pictures": data_json(shown(items)),
        "library": _library() if items else "",
        "behaviour": _script(_read("page.js")),
        "explorers": explorers,
    }
    return environment.get_template("page.html.j2").render(tree_of_page)


def render_runs(runs: Sequence[RunData]) -> str:
    """One run, or several side by side, as HTML of less than 6 MB; equal runs give equal text.

    Explorers give up their last words where the page would be larger.

    Raises:
        InputError: no run, or the extra `report` (bokeh, jinja2) is not installed.
    """
    if not runs:
        raise InputError("no run", "at least one", "sensekd report RUN")
    for module in ("jinja2", "bokeh"):
        require(module, "report")
    drawn = _pictures(runs)
    bare = _page(runs, drawn, [None] * len(runs), [0] * len(runs))
    trees = [run.explorer for run in runs]
    if not any(trees):
        return bare
    kept = [fit(tree, (LIMIT - len(bare.encode())) // sum(map(bool, trees))) if tree else None for tree in trees]
    lost = [
        0 if tree is None or whole is None else len(whole["words"]) - len(tree["words"])
        for tree, whole in zip(kept, trees, strict=True)
    ]
    return _page(runs, drawn, kept, lost)


def render_page(
    results: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    explorer: Mapping[str, Any] | None = None,
) -> str:
    """The page of one run; see `RunData` and `render_runs`."""
    return render_runs([RunData(results, histories, explorer)])


def _write(text: str, out: Path) -> None:
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_runs(runs: Sequence[RunData], out: Path) -> None:
    """Write the page of one run, or of several side by side, atomically.

    Raises:
        InputError: as `render_runs`.
    """
    _write(render_runs(runs), out)


def write_page(
    results: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    out: Path,
    explorer: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of one run, atomically; see `RunData`.

    Raises:
        InputError: the extra `report` (bokeh, jinja2) is not installed.
    """
    _write(render_page(results, histories, explorer), out)


def render_explorer(explorer: Mapping[str, Any], name: str) -> tuple[str, int]:
    """The sense explorer alone as HTML of less than 6 MB, and how many words stand on it.

    Raises:
        InputError: the extra `report` is not installed.
    """
    environment = _environment()
    shared = _shared(name, f"{explorer['available']:,} words")
    tree = fit(explorer, LIMIT - len(_read("page.css") + _read("explorer.css") + _read("explorer.js")))
    part = explorer_part(tree, "explorer", len(explorer["words"]) - len(tree["words"]))
    page = {**shared, "part": part, "explorers": [{"id": "explorer", "json": data_json(shown(tree))}]}
    return environment.get_template("senses.html.j2").render(page), len(tree["words"])


def write_explorer(explorer: Mapping[str, Any], name: str, out: Path) -> int:
    """Write the sense explorer alone, atomically; returns how many words stand on it.

    Raises:
        InputError: the extra `report` is not installed.
    """
    text, words = render_explorer(explorer, name)
    _write(text, out)
    return words
