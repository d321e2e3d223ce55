"""The dictionary on disk: number formats, lookups, mapping, checksums, and whose states it holds."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from senses_fakes import identity
from torch import Tensor

from sensekd.artefacts import BLOCK, Manifest, read_manifest, write_manifest
from sensekd.errors import InputError
from sensekd.senses.dictionary import SenseDictionary
from sensekd.senses.store import DTYPES, StoredRows, map_tensors

COUNTS = [2, 0, 3, 1]


def dictionary(rows: Tensor | None = None, counts: list[int] | None = None) -> SenseDictionary:
    counts = COUNTS if counts is None else counts
    total = sum(counts)
    if rows is None:
        rows = torch.randn(total, 4, generator=torch.Generator().manual_seed(0))
    return SenseDictionary(
        indptr=torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()]),
        centroids=rows,
        support=torch.arange(total, dtype=torch.int32),
        spread=torch.ones(total),
        context=torch.full((total, 3, 24), -1, dtype=torch.int32),
        sigma2=2.0,
        identity=identity(rows.shape[1], len(counts)),
        corpus="c",
        settings={"k": 3},
    )


# ---- number formats


@pytest.mark.parametrize(("store", "error"), [("float32", 0.0), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_floats_are_rounded_to_the_nearest(store: str, error: float) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    kept = StoredRows(rows).stored(store)
    assert kept.name == store
    assert kept.values.dtype == DTYPES[store]
    off = (kept.take(torch.arange(50)) - rows).abs()
    assert bool((off <= error * rows.abs()).all())
    assert bool(off.any()) == (store != "float32")


def test_int8_by_hand() -> None:
    rows = torch.tensor([[127.0, -63.4, 0.6, 0.4], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -2.54, 0.01]])
    kept = StoredRows(rows).stored("int8")
    assert kept.values.tolist() == [[127, -63, 1, 0], [0, 0, 0, 0], [0, 0, -127, 0]]
    assert kept.scale is not None
    torch.testing.assert_close(kept.scale, torch.tensor([1.0, 0.0, 0.02]))
    torch.testing.assert_close(kept.take(torch.tensor([2, 0])), torch.tensor([[0, 0, -2.54, 0], [127.0, -63, 1, 0]]))


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-20, 1e20), seed=st.integers(0, 99), width=st.integers(1, 9))
def test_int8_is_within_half_a_step(scale: float, seed: int, width: int) -> None:
    rows = scale * torch.randn(5, width, generator=torch.Generator().manual_seed(seed))
    kept = StoredRows(rows).stored("int8")
    step = rows.abs().amax(1, keepdim=True) / 127
    assert bool(((kept.between(0, 5) - rows).abs() <= 0.5001 * step).all())


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"a centroid holds 7e\+04"):
        StoredRows(torch.tensor([[70000.0]])).stored("float16")
    with pytest.raises(InputError, match="int4"):
        StoredRows(torch.zeros(1, 1)).stored("int4")


@pytest.mark.parametrize("store", list(DTYPES))
def test_lookups_agree_whatever_the_form(store: str, tmp_path: Path) -> None:
    dictionary().stored_as(store).save(tmp_path / "senses")
    ours = SenseDictionary.load(tmp_path / "senses", identity(4, 4), verify=True)
    assert ours.centroids.dtype == DTYPES[store]
    whole = torch.cat([rows for _, rows in ours.stored.blocks(elements=8)])
    assert whole.shape == (6, 4)
    assert whole.dtype == torch.float32
    assert torch.equal(ours.take(torch.tensor([5, 0, 5])), whole[[5, 0, 5]])
    assert torch.equal(ours.rows(2), whole[2:5])
    assert ours.rows(1).shape == (0, 4)
    first, rows = ours.lookup(torch.tensor([3, 1, 2, 3]))
    assert first.tolist() == [0, 1, 1, 4, 5]
    assert torch.equal(rows, whole[[5, 2, 3, 4, 5]])
    first, rows = ours.lookup(torch.tensor([1]))
    assert (first.tolist(), rows.shape) == ([0, 0], (0, 4))


@pytest.mark.parametrize("token", [-100, 4])
def test_a_label_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(InputError, match=f"token id {token}"):
        dictionary().lookup(torch.tensor([0, token]))


def test_a_form_of_a_form_comes_from_what_stands() -> None:
    narrow = dictionary().stored_as("int8")
    wide = narrow.stored_as("float32")
    assert wide.scale is None
    assert torch.equal(wide.centroids, narrow.take(torch.arange(6)))
    assert torch.equal(wide.stored_as("int8").centroids, narrow.centroids)


@pytest.mark.gpu
@pytest.mark.parametrize("store", list(DTYPES))
def test_lookup_on_a_gpu_equals_the_one_on_the_cpu(store: str) -> None:
    ours = dictionary().stored_as(store)
    first, rows = ours.lookup(torch.tensor([3, 2, 0]), "cuda")
    expected = ours.lookup(torch.tensor([3, 2, 0]))
    assert rows.is_cuda
    assert torch.equal(first.cpu(), expected[0])
    assert torch.equal(rows.cpu(), expected[1])


# ---- mapping


def test_a_mapped_tensor_may_be_changed_and_the_file_does_not_notice(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    ours = SenseDictionary.load(tmp_path / "senses")
    ours.centroids[0] = 7
    assert ours.rows(0)[0].tolist() == [7, 7, 7, 7]
    assert torch.equal(SenseDictionary.load(tmp_path / "senses", verify=True).centroids, dictionary().centroids)


def test_a_dictionary_without_rows_can_be_opened(tmp_path: Path) -> None:
    dictionary(torch.zeros(0, 4), [0, 0]).save(tmp_path / "senses")
    ours = SenseDictionary.load(tmp_path / "senses", verify=True)
    assert len(ours) == 0
    assert ours.support.dtype == torch.int32


def test_others_may_read_a_dictionary(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in (tmp_path / "senses").iterdir())


def test_a_file_larger_than_the_memory_can_be_opened(tmp_path: Path) -> None:
    policy = Path("/proc/sys/vm/overcommit_memory")
    if policy.is_file() and policy.read_text().strip() == "2":
        pytest.skip("this system reserves memory for every mapping")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = 2 * memory // (4096 * 4)
    path = tmp_path / "large.safetensors"
    header = json.dumps({"rows": {"dtype": "F32", "shape": [rows, 4096], "data_offsets": [0, rows * 4096 * 4]}})
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header.encode())
        try:
            handle.truncate(8 + len(header) + rows * 4096 * 4)
        except OSError:
            pytest.skip("this file system holds no sparse file of that size")
    opened = map_tensors(path)["rows"]
    assert opened.shape == (rows, 4096)
    assert float(opened[rows - 1].sum()) == 0


def edit(file: Path, at: int, new: bytes) -> None:
    with file.open("r+b") as handle:
        handle.seek(at)
        handle.write(new)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"{nonsense", "no header"),
        (b"[1, 2, 3]", "no header"),
        (b'{"rows": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}', "is described as"),
        (b'{"rows": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "does not fill bytes"),
        (b'{"rows": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "does not fill bytes"),
        (b'{"rows": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "its tensors end at byte"),
    ],
)
def test_a_file_that_does_not_fit_its_header_is_refused(header: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(InputError, match=why):
        map_tensors(path)
    path.write_bytes(bytes(4))
    with pytest.raises(InputError, match="its header would have"):
        map_tensors(path)


# ---- checksums


def test_a_flipped_bit_is_refused_on_verifying_and_its_place_is_named(tmp_path: Path) -> None:
    rows = torch.randn(3 * BLOCK // 4 // 64, 64)
    dictionary(rows, [len(rows)]).save(tmp_path / "senses")
    file = tmp_path / "senses" / "senses.safetensors"
    SenseDictionary.load(tmp_path / "senses", verify=True)
    at = BLOCK + 12345
    old = file.read_bytes()[at]
    edit(file, at, bytes([old ^ 1]))
    SenseDictionary.load(tmp_path / "senses")
    with pytest.raises(InputError, match=rf"checksum between bytes {BLOCK} and {2 * BLOCK}\n"):
        SenseDictionary.load(tmp_path / "senses", verify=True)
    edit(file, at, bytes([old]))
    SenseDictionary.load(tmp_path / "senses", verify=True)


def test_every_byte_counts(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    file = tmp_path / "senses" / "senses.safetensors"
    whole = file.read_bytes()
    for at in range(0, len(whole), 61):
        edit(file, at, bytes([whole[at] ^ 4]))
        with pytest.raises(InputError, match="does not match its checksum"):
            SenseDictionary.load(tmp_path / "senses", verify=True)
        edit(file, at, bytes([whole[at]]))


def test_a_file_cut_short_or_longer_is_refused_without_verifying(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    file = tmp_path / "senses" / "senses.safetensors"
    whole = file.read_bytes()
    for wrong in (whole[:-1], whole + b"\0", b""):
        file.write_bytes(wrong)
        with pytest.raises(InputError, match=f"has {len(wrong)} bytes"):
            SenseDictionary.load(tmp_path / "senses")


def test_tensors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    fields = {
        "indptr": (torch.tensor([0, 2, 2, 5, 7]), "lists 7 rows"),
        "support": (torch.zeros(5, dtype=torch.int32), r"'support': \(5,\)"),
        "context": (torch.zeros(5, 3, 24, dtype=torch.int32), r"'context': \(5, 3, 24\)"),
    }
    for name, (wrong, why) in fields.items():
        replace(dictionary(), **{name: wrong}).save(tmp_path / name)
        with pytest.raises(InputError, match=why):
            SenseDictionary.load(tmp_path / name)
    int8 = dictionary().stored_as("int8")
    replace(int8, scale=None).save(tmp_path / "scale")
    with pytest.raises(InputError, match="scale"):
        SenseDictionary.load(tmp_path / "scale")


def test_blocks_leave_the_identity_of_an_artefact_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    plain = write_manifest(tmp_path, Manifest("senses", 1, {}, {}))
    blocks = write_manifest(tmp_path, Manifest("senses", 1, {}, {}), blocks=True)
    assert plain.id == blocks.id
    assert re.fullmatch("[0-9a-f]{16}", blocks.files["file"]["xxh3"])
    assert read_manifest(tmp_path, "senses", 1, verify=True).id == plain.id


# ---- whose states

OTHERS = {
    "weights": "fake@another-revision",
    "tokenizer": "tokenizer-b",
    "width": 5,
    "vocabulary": 13,
    "state": "layer 7",
}


@pytest.mark.parametrize("field", sorted(OTHERS))
def test_a_dictionary_of_another_teacher_is_refused_and_both_sides_are_named(field: str, tmp_path: Path) -> None:
    ours = identity(4, 4)
    dictionary().save(tmp_path / "senses")
    with pytest.raises(InputError) as caught:
        SenseDictionary.load(tmp_path / "senses", replace(ours, **{field: OTHERS[field]}))
    assert f"made from {field} {getattr(ours, field)}" in caught.value.found
    assert caught.value.expected == f"{field} {OTHERS[field]}"
    assert caught.value.exit_code == 2


def test_the_name_of_the_teacher_alone_refuses_nothing(tmp_path: Path) -> None:
    dictionary().save(tmp_path / "senses")
    SenseDictionary.load(tmp_path / "senses", replace(identity(4, 4), model="the same, moved"))
