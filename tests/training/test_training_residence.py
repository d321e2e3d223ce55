"""A training whose sense rows stay on the host is, to the byte, the one with rows on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_world import WIDTH, blocks, edges, recipe, table, tiny, tokenizer

from sensekd.senses.residence import Gathered, HostRows, RowGatherer
from sensekd.senses.store import StoredRows
from sensekd.targets import SenseTable
from sensekd.training.distill import distill


def on_host() -> SenseTable:
    resident = table()
    rows = HostRows((StoredRows(resident.rows[:50]), StoredRows(resident.rows[50:])))
    return replace(resident, rows=torch.zeros(0, WIDTH), host=RowGatherer(rows, torch.device("cpu")))


def student(folder: Path, senses: SenseTable, **overrides: Any) -> tuple[bytes, list[dict[str, float]]]:
    folders = (folder / "student", folder / "work")
    result = distill(
        tiny(tied=True), tokenizer(), recipe(**overrides), 4, blocks(), senses=(senses, edges()), folders=folders
    )
    history = [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in result.history]
    return (folders[0] / "model.safetensors").read_bytes(), history


@pytest.mark.parametrize("push", ["absolute", "relative"])
def test_the_student_is_the_same_and_its_rows_were_asked_for_early(
    push: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    collect = RowGatherer.collect

    def noted(self: RowGatherer, *arguments: Any) -> Gathered:
        found = collect(self, *arguments)
        seen.append((self.early, self.late))
        return found

    monkeypatch.setattr(RowGatherer, "collect", noted)
    overrides = {"loss__push": push, "training__accumulation": 2}
    device = student(tmp_path / "device", table(), **overrides)
    assert not seen
    assert student(tmp_path / "host", on_host(), **overrides) == device
    assert seen == [(number, 0) for number in range(1, 9)]
    assert student(tmp_path / "other", replace(table(), sigma2=0.5), **overrides) != device


def test_the_rows_are_part_of_a_checkpoint_s_identity_wherever_they_are() -> None:
    from itertools import chain

    from sensekd.training.distill import digest

    resident, host = table(), on_host()
    assert digest(resident.row_blocks()) == digest(host.row_blocks())
    resident.rows[3, 4] += 1
    assert digest(resident.row_blocks()) != digest(chain(host.row_blocks()))
