"""The terminal table."""

from __future__ import annotations

import pytest
import sample_results as sample

from sensekd.report.table import ONE_SEED, plain_table

pytest.importorskip("scipy", reason="needs the extra `eval`")


def test_arms_metrics_and_what_excludes_zero() -> None:
    results = sample.results()
    lines = plain_table(results, 140).splitlines()
    arms = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in results["summary"]]
    assert arms[:7] == ["teacher", "pruned", "ce", "kd", "kd+hidden", "dskd-own", "dskd"]
    (row,) = [line for line in lines if line.startswith("dskd  ")]
    facts = results["summary"]["dskd"]["facts"]
    half = (facts["high"] - facts["low"]) / 2
    assert row.split()[1:4] == [f"{100 * facts['mean']:.1f}", f"±{100 * half:.1f}", "≈"]
    assert row.count("▲") == 3
    assert "dskd beats kd on senses, relations and antonym discrimination." in "\n".join(lines)
    # Nothing is marked against itself.
    (own,) = [line for line in lines if line.startswith("kd  ")]
    assert not set(own) & set("▲▼≈")


def test_one_seed_is_said_once() -> None:
    text = plain_table(sample.results(1), 140)
    assert text.count(ONE_SEED) == 1
    assert "±" not in text


def test_names_are_no_markup_and_narrow_terminals_lose_nothing() -> None:
    results = sample.results()
    results["summary"]["[red]mine[/red]"] = results["summary"].pop("dskd-own")
    results["differences"] = [row for row in results["differences"] if "dskd-own" not in (row["arm"], row["against"])]
    assert "[red]mine[/red]" in plain_table(results, 140)
    narrow = plain_table(results, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert f"{results['summary']['dskd']['kl']['mean']:.3f}" in narrow
