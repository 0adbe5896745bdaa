"""Clips as Parquet rows: encoding and decoding, reading with plain pyarrow, and refusal of other files in one line."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from raymix.data import prepared as data_prepared
from raymix.data import records
from raymix.data.preparation import writer
from raymix.data.prepared import ClipShape, read_clip_shape, read_clips
from raymix.data.records import ClipRecord, ClipTable
from raymix.metrics.regions import ObjectRegion
from tests.support.counting_filesystem import Handler


def png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask).save(out, format="PNG")
    return out.getvalue()


def make(number: int = 0, regions: tuple[ObjectRegion, ...] = (), **changes: object) -> ClipRecord:
    rng = np.random.default_rng(number)
    smooth = np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    known = {
        "clip_id": f"folder:a/v{number}.mp4:0",
        "dataset": "folder",
        "split": "train",
        "video": f"a/v{number}.mp4",
        "group": f"a/v{number}.mp4",
        "start_s": 0.0,
        "duration_s": 1.0,
        "labels": ("a", "b"),
        "frames": [smooth],
        "frame_times": [0.5],
        "wave": (rng.standard_normal(16_000) * 0.1).astype(np.float32),
        "regions": regions,
    }
    return ClipRecord(**{**known, **changes})  # type: ignore[arg-type]


def table(*clips: ClipRecord, preprocessing: str = "cafe") -> pa.Table:
    return pa.Table.from_pylist([writer.encode_clip(one) for one in clips], schema=records.clip_schema(preprocessing))


def prepared(folder: Path, rows: pa.Table, split: str = "train") -> Path:
    pq.write_table(rows, folder / f"{split}-00000.parquet", compression="zstd")
    splits = {split: {"files": [f"{split}-00000.parquet"]}}
    (folder / "dataset.json").write_text(json.dumps({"schema_version": records.SCHEMA_VERSION, "splits": splits}))
    return folder


def test_a_clip_is_decoded_as_it_was_encoded(tmp_path: Path) -> None:
    one = make()
    found = data_prepared.read_clips(str(prepared(tmp_path, table(one, make(1)))), "train", 48, truth=False)
    assert len(found) == 2 and list(found.clip_id) == ["folder:a/v0.mp4:0", "folder:a/v1.mp4:0"]
    assert found.label[0] == "a" and found.video[1] == "a/v1.mp4" and found.masks is None
    assert found.frames.shape == (2, 1, 48, 48, 3) and found.stft.shape == (2, 201, 81, 2)
    squeezed = np.asarray(Image.fromarray(one.frames[0]).resize((48, 48), Image.Resampling.BILINEAR), float)
    assert np.abs(found.frames[0, 0] - squeezed).mean() < 4


def test_the_stored_sound_is_the_transform_in_half_precision() -> None:
    torch = pytest.importorskip("torch")
    from raymix.data.audio import stft

    one = make()
    exact_TF2 = torch.view_as_real(stft(torch.from_numpy(one.wave)[None])[0]).numpy()
    stored_TF2 = records.decode_clips(table(one), 32, truth=False).stft[0].astype(np.float32)
    assert np.abs(stored_TF2 - exact_TF2).max() <= 2**-11 * np.abs(exact_TF2).max()
    assert exact_TF2.std() > 0.1  # it is not all zeros


def test_plain_pyarrow_reads_the_row_and_its_provenance(tmp_path: Path) -> None:
    pq.write_table(table(make(), preprocessing="cafe"), tmp_path / "x.parquet")
    found = pq.read_table(tmp_path / "x.parquet")
    assert found.schema.metadata[records.HASH_KEY] == b"cafe"
    assert found.schema.metadata[records.VERSION_KEY] == str(records.SCHEMA_VERSION).encode()
    row = found.to_pylist()[0]
    assert Image.open(io.BytesIO(row["frames"][0]["jpeg"])).size == (row["frames"][0]["width"], 48) == (72, 48)
    assert len(row["stft"]) == row["stft_frames"] * row["stft_bins"] * 4 == 201 * 81 * 4
    assert row["frames"][0]["t_s"] == 0.5 and row["labels"] == ["a", "b"] and row["status"] == "ok"


def test_masks_are_the_union_of_what_sounds_in_the_first_frame() -> None:
    left = np.zeros((20, 40), bool)
    left[:, :10] = True
    regions = (
        ObjectRegion("a", mask=png(left)),
        ObjectRegion("b", box_xyxy=(0.5, 0.5, 1.0, 1.0)),
        ObjectRegion("silent", sounding=False, box_xyxy=(0.0, 0.0, 1.0, 1.0)),
        ObjectRegion("later", frame=1, box_xyxy=(0.0, 0.0, 1.0, 1.0)),
    )
    found = records.decode_clips(table(make(0, regions), make(1)), 16, truth=True)
    expected = np.zeros((16, 16), bool)
    expected[:, :4] = True
    expected[8:, 8:] = True
    assert found.masks is not None and found.has_truth is not None
    np.testing.assert_array_equal(found.masks[0], expected)
    assert list(found.has_truth) == [True, False]


def test_sources_are_the_sounding_labels_one_by_one() -> None:
    regions = (
        ObjectRegion("flute", box_xyxy=(0.0, 0.0, 0.5, 0.5)),
        ObjectRegion("cello", box_xyxy=(0.5, 0.5, 1.0, 1.0)),
        ObjectRegion("flute", box_xyxy=(0.0, 0.5, 0.5, 1.0)),  # the same flute, behind something
        ObjectRegion("drum", sounding=False, box_xyxy=(0.0, 0.0, 1.0, 1.0)),
    )
    nameless = (ObjectRegion("", box_xyxy=(0.0, 0.0, 0.5, 0.5)), ObjectRegion("", box_xyxy=(0.5, 0.5, 1.0, 1.0)))
    rows = [table(make(0, regions), make(1)), table(make(2, nameless)), table(make(3))]
    parts = [records.decode_clips(each, 16, truth=True, sources=True) for each in rows]
    assert [each.sources.shape[1] for each in parts if each.sources is not None] == [2, 2, 1]
    found = ClipTable.concat(parts)
    assert found.sources is not None and found.masks is not None
    assert found.sources.sum(axis=(2, 3)).tolist() == [[64, 128], [0, 0], [64, 64], [0, 0]]
    assert found.sources[0, 0, 8:, 8:].all() and found.sources[0, 1, :, :8].all()  # cello, flute: by name
    np.testing.assert_array_equal(found.sources.any(axis=1), found.masks)
    assert found.source_label is not None
    assert found.source_label.tolist() == [["cello", "flute"], ["", ""], ["", ""], ["", ""]]
    assert list(found.with_sources(2).clip_id) == list(found.clip_id[[0, 2]])
    found.sources[2, 1] = False
    assert list(found.with_sources(2, fewer=True).clip_id) == list(found.clip_id[[0, 2]])  # never without any
    assert list(found.with_sources(1, fewer=True).clip_id) == list(found.clip_id[[2]])  # never with more
    assert records.decode_clips(rows[0], 16, truth=True).sources is None
    assert found.start_s is not None and found.start_s.shape == (4,)


def votes(*agreed: float, alone: float) -> tuple[ObjectRegion, ...]:
    """Regions of several annotators, each from the left edge to a given fraction of the width."""
    mask = np.arange(40)[None].repeat(20, 0) < 40 * alone
    return ObjectRegion("", mask=png(mask), weight=0.5), *(
        ObjectRegion("", box_xyxy=(0.0, 0.0, edge, 1.0)) for edge in agreed
    )


def test_pixels_of_a_single_annotator_are_apart_from_the_mask() -> None:
    silent = (
        ObjectRegion("", sounding=False, box_xyxy=(0.0, 0.0, 1.0, 1.0), weight=0.5),
        ObjectRegion("", frame=1, weight=0.5),
    )
    rows = [make(0, votes(0.25, 0.5, alone=0.75)), make(1, votes(alone=0.5)), make(2), make(3, votes(0.5, alone=0.25))]
    found = records.decode_clips(table(*rows, make(4, silent)), 16, truth=True, sources=True)
    assert found.masks is not None and found.halves is not None and found.has_truth is not None
    assert found.halves.dtype == bool and found.halves.sum(axis=(1, 2)).tolist() == [4 * 16, 8 * 16, 0, 0, 0]
    assert found.halves[0, :, 8:12].all() and found.masks.sum(axis=(1, 2)).tolist() == [8 * 16, 0, 0, 8 * 16, 0]
    assert found.has_truth.tolist() == [True, True, False, True, False]
    assert found.sources is not None  # a single vote is of no source
    assert found.sources.any(axis=(2, 3)).sum(axis=1).tolist() == [2, 0, 0, 1, 0]
    np.testing.assert_array_equal(found.sources.any(axis=1), found.masks)
    none = records.decode_clips(table(make(2), make(3, votes(0.5, alone=0.25))), 16, truth=True)
    assert none.halves is None  # all of it is agreed: no memory for it
    assert records.decode_clips(table(*rows), 16, truth=False).halves is None


def test_clips_with_and_without_single_votes_are_joined() -> None:
    box = (ObjectRegion("a", box_xyxy=(0.0, 0.0, 0.5, 0.5)),)
    without, some = (
        records.decode_clips(table(*rows), 16, truth=True)
        for rows in ([make(0, box), make(1)], [make(2, votes(alone=1.0))])
    )
    for parts, there in (((without, some, without), 2), ((some, without), 0)):
        found = ClipTable.concat(parts)
        assert found.halves is not None and found.halves.shape == (len(found), 16, 16)
        assert found.halves.any(axis=(1, 2)).tolist() == [place == there for place in range(len(found))]
        assert found.take([there]).halves.all()  # type: ignore[union-attr]
    assert ClipTable.concat([without, without]).halves is None


def test_the_weight_of_a_region_is_one_or_a_half() -> None:
    with pytest.raises(ValueError, match=r"a region's weight is 1 or 0.5, not 0.25"):
        ObjectRegion("a", weight=0.25)


def test_training_reads_neither_labels_nor_regions() -> None:
    assert not {"labels", "regions"} & set(records.columns_to_read(truth=False, labels=False))
    assert {"labels", "regions"} <= set(records.columns_to_read(truth=True, labels=True))
    found = records.decode_clips(
        table(make()).select(records.columns_to_read(truth=False, labels=False)), 16, truth=False
    )
    assert list(found.label) == [""]


def test_take_and_concat() -> None:
    box = (ObjectRegion("a", box_xyxy=(0.0, 0.0, 0.5, 0.5)),)
    both = records.decode_clips(table(make(0, box), make(1)), 16, truth=True)
    again = ClipTable.concat([both.take([1]), both.take([0])])
    assert list(again.clip_id) == list(both.clip_id[::-1])
    np.testing.assert_array_equal(again.stft, both.stft[::-1])
    assert again.has_truth is not None and list(again.has_truth) == [False, True]
    with pytest.raises(ValueError, match="different shapes"):
        ClipTable.concat([both, records.decode_clips(table(make(2)), 24, truth=True)])


def test_limit_and_rows_that_are_not_ok(tmp_path: Path) -> None:
    folder = str(prepared(tmp_path, table(*(make(n) for n in range(4)), make(9, status="missing"))))
    assert len(read_clips(folder, "train", 16, truth=False)) == 4
    assert len(data_prepared.read_clips(folder, "train", 16, truth=False, limit=3)) == 3


@pytest.mark.parametrize("rows_of_a_group", [16, 160])
def test_a_few_rows_are_read_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_group: int
) -> None:
    """Bytes read from a shard of 160 clips are in proportion to the rows, for any row groups."""
    noise = np.random.default_rng(0)
    one = writer.encode_clip(make())
    rows = [
        {**one, "clip_id": f"{n}", "stft": noise.random(201 * 81 * 2).astype(np.float16).tobytes()} for n in range(160)
    ]
    path, written = tmp_path / "train-00000.parquet", pa.Table.from_pylist(rows, schema=records.clip_schema())
    prepared(tmp_path, written)
    with pq.ParquetWriter(path, written.schema, compression="zstd", write_batch_size=writer.PAGE_ROWS) as file:
        file.write_table(written, row_group_size=rows_of_a_group)
    handler = Handler()
    monkeypatch.setattr(data_prepared, "resolve_uri", lambda uri: (fs.PyFileSystem(handler), uri))
    monkeypatch.setattr(data_prepared, "BUFFER_BYTES", 1 << 14)
    size = path.stat().st_size

    def bytes_of(read: Callable[[], Any]) -> int:
        handler.bytes_read.clear()
        read()
        return handler.bytes_read[str(path)]

    def clips(limit: int | None) -> ClipTable:
        return read_clips(str(tmp_path), "train", 32, truth=False, limit=limit)

    assert list(clips(5).clip_id) == [str(n) for n in range(5)] and len(clips(None)) == 160
    everything = bytes_of(lambda: clips(None))
    assert everything > 0.9 * size
    assert bytes_of(lambda: clips(1)) < everything / 4
    assert everything / 4 < bytes_of(lambda: clips(64)) < everything * 0.65
    shape: list[ClipShape] = []
    assert bytes_of(lambda: shape.append(read_clip_shape(str(tmp_path), "train"))) < everything / 20
    assert shape == [data_prepared.ClipShape(1, 201, 81)]
    whole = clips(1)
    assert shape[0].decoded_bytes(32) == whole.frames.nbytes + whole.stft.nbytes


def test_a_shard_of_one_large_row_group_and_page_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in datasets of earlier versions: the shape is read without images and sounds."""
    written = table(*(make(number) for number in range(8)))
    pq.write_table(written, prepared(tmp_path, written) / "train-00000.parquet", row_group_size=8)
    handler = Handler()
    monkeypatch.setattr(data_prepared, "resolve_uri", lambda uri: (fs.PyFileSystem(handler), uri))
    assert data_prepared.read_clip_shape(str(tmp_path), "train") == data_prepared.ClipShape(1, 201, 81)
    assert sum(handler.bytes_read.values()) < (tmp_path / "train-00000.parquet").stat().st_size / 4


def test_a_value_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(
        records.NonFiniteValueError, match=r"^clip folder:a/v0\.mp4:0: [0-9]+ of 32562 values of its sound"
    ):
        writer.encode_clip(make(wave=np.full(16_000, np.nan, np.float32)))
    with pytest.raises(
        records.NonFiniteValueError, match="values of its sound"
    ):  # finite, but too large for half precision
        writer.encode_clip(make(wave=(np.random.default_rng(0).standard_normal(16_000) * 1e5).astype(np.float32)))
    with pytest.raises(records.NonFiniteValueError, match="start_s is nan"):
        writer.encode_clip(make(start_s=float("nan")))
    with pytest.raises(records.NonFiniteValueError, match="time of a frame"):
        writer.encode_clip(make(frame_times=[float("inf")]))
    with pytest.raises(records.NonFiniteValueError, match="box or the weight"):
        writer.encode_clip(make(regions=(ObjectRegion(label="a", box_xyxy=(0.0, 0.0, float("nan"), 1.0)),)))


def test_a_stored_value_that_is_not_finite_is_refused_with_file_and_row(tmp_path: Path) -> None:
    rows = [writer.encode_clip(make(number)) for number in range(3)]
    sound = np.frombuffer(rows[1]["stft"], np.float16).copy()
    sound[7:9] = np.inf, np.nan
    rows[1]["stft"] = sound.tobytes()
    prepared(tmp_path, pa.Table.from_pylist(rows, schema=records.clip_schema()))
    for limit in (None, 2):
        with pytest.raises(records.NonFiniteValueError) as refusal:
            data_prepared.read_clips(str(tmp_path), "train", 32, truth=False, limit=limit)
        said = f"{tmp_path}/train-00000.parquet, row 1 (clip folder:a/v1.mp4:0): 2 of 32562 values of its sound"
        assert str(refusal.value).startswith(said) and "\n" not in str(refusal.value)
        assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
    assert len(data_prepared.read_clips(str(tmp_path), "train", 32, truth=False, limit=1)) == 1
    rows[1] = {**writer.encode_clip(make(1)), "duration_s": float("inf")}
    prepared(tmp_path, pa.Table.from_pylist(rows, schema=records.clip_schema()))
    with pytest.raises(records.NonFiniteValueError, match=r"row 1 .*: duration_s is inf"):
        data_prepared.read_clips(str(tmp_path), "train", 32, truth=True)


def test_rows_of_several_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="need one shape"):
        records.decode_clips(table(make(0), make(1, wave=np.zeros(8_000, np.float32))), 16, truth=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "dataset.json").unlink(), "no prepared dataset"),
        (lambda f: (f / "dataset.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "dataset.json").write_text('{"schema_version": 99, "splits": {}}'), "schema version 99"),
        (lambda f: (f / "train-00000.parquet").write_bytes(b"PAR1 not really"), "cannot be read as Parquet"),
        (lambda f: (f / "train-00000.parquet").unlink(), "cannot be read as Parquet"),
        (lambda f: pq.write_table(pa.table({"x": [1]}), f / "train-00000.parquet"), "not clips of raymix"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    prepared(tmp_path, table(make()))
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        data_prepared.read_clips(str(tmp_path), "train", 16, truth=False)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_and_another_schema_version_are_named(tmp_path: Path) -> None:
    folder = prepared(tmp_path, table(make()))
    with pytest.raises(ValueError, match="no split 'test', it has train"):
        data_prepared.read_clips(str(folder), "test", 16, truth=False)
    older = table(make()).replace_schema_metadata({records.VERSION_KEY: b"0"})
    pq.write_table(older, folder / "train-00000.parquet")
    with pytest.raises(ValueError, match="schema version 0"):
        data_prepared.read_clips(str(folder), "train", 16, truth=False)
