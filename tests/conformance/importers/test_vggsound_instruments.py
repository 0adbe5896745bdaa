"""VGGSound-Instruments from files as people have them: the 37 classes, the 446 samples, masks to the pixel, leaks, refusals."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.config import DatasetConfig
from raymix.data import pair_lists, records
from raymix.data.importers import vggsound_instruments
from raymix.data.importers.vggsound_instruments import CLASSES, MISSING_SAMPLES, SAMPLES
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.prepared import read_clips
from raymix.runtime import storage
from tests.support import malicious_pickles as pickles
from tests.support.vggsound_files import cut_clip, prepared, still

LEFT = np.zeros((48, 64), bool)
LEFT[8:40, 0:24] = True
TRAIN = {
    f"train-{number:05d}_000020": label for number, label in enumerate(("accordion", "xylophone", "violin", "harp"))
}
TEST, SEEN = "tested-----_000030", "train-00001_000050"


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "vggsound_instruments",
        "root": str(root),
        "prepared": str(root.parent / "out"),
        "clip_seconds": 3.0,
        "stride_seconds": 3.0,
        "frame_size": 64,
        "val": 0.3,
        "test": 0.0,
    }
    return DatasetConfig(**{**known, **changes})


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("instruments") / "in"
    for number in range(13):
        if number != 7:
            still(root / "test", f"sample{number:04d}", number, seconds=3.4 if number == 10 else 10.0)
    (root / "test" / "audio" / "sample0011.wav").write_bytes(b"RIFF")
    folder = root / "anno"
    folder.mkdir()
    square = np.zeros((20, 20), np.uint8)
    square[:, 10:] = 1
    masks: dict[int, Any] = {
        0: LEFT,
        1: LEFT.astype(np.float64),
        2: Evil(root.parent / "was-here"),
        3: np.ones((48, 80)),
        6: np.zeros((48, 64)),
        7: LEFT,
        8: LEFT,
        9: {"mask": LEFT[::2, ::2].astype(np.uint8) * 255},
        10: square,
        11: LEFT,
        12: LEFT[None],
    }
    for number, mask in masks.items():
        (folder / f"sample{number:04d}{'.pkl' if number else ''}").write_bytes(pickle.dumps(mask, 2))
    (folder / "sample0005.pkl").write_bytes(pickle.dumps(LEFT)[:-99])
    for number, name in enumerate(TRAIN):
        cut_clip(root, name, number)
    rows = [f'{name[:11]},{int(name[12:])},"{CLASSES[label]}",train' for name, label in TRAIN.items()]
    rows += [
        f"{TEST[:11]},30,playing piano,test",
        f"{SEEN[:11]},50,playing piano,test",
        "elk--------,5,elk bugling,train",
    ]
    (root / "vggsound.csv").write_text("\n".join(rows) + "\n")
    (root / "vgginstruments_test.csv").write_text("sample0000,accordion\nsample0009,xylophone\n\n")
    return root


@pytest.fixture(scope="module")
def made(raw: Path) -> dict[str, Any]:
    folder, rows, manifest = prepared(settings(raw))
    return {
        "rows": {row["clip_id"]: row for row in rows},
        "manifest": {row["id"]: row for row in manifest},
        "prepared": folder,
    }


def test_the_paper_s_classes_and_the_authors_samples() -> None:
    assert len(CLASSES) == 37 == len(set(CLASSES.values())) and CLASSES["hammond_organ"] == "playing hammond organ"
    assert CLASSES["steel_guitar"] == "playing steel guitar, slide guitar"
    assert (
        len(MISSING_SAMPLES) == 54 and len(SAMPLES) == 446 and (SAMPLES[0], SAMPLES[-1]) == ("sample0000", "sample0499")
    )


def test_every_id_is_a_row_of_the_manifest(made: dict[str, Any], raw: Path) -> None:
    told = {name: (row["status"], row["split"], row["clips"]) for name, row in made["manifest"].items()}
    assert len(told) == 446 + 1 + len(TRAIN) + 2
    assert all(told[name] == ("missing", "test", 0) for name in SAMPLES if name > "sample0012")
    assert [told[f"sample{number:04d}"] for number in range(13)] == [
        ("ok", "test", 1),
        ("ok", "test", 1),
        ("corrupt", "test", 0),
        ("corrupt", "test", 0),
        ("missing", "test", 0),
        ("corrupt", "test", 0),
        ("corrupt", "test", 0),
        ("missing", "test", 0),
        ("unlisted", "", 0),
        ("ok", "test", 1),
        ("ok", "test", 1),
        ("corrupt", "test", 0),
        ("corrupt", "test", 0),
    ]
    why = {number: made["manifest"][f"sample{number:04d}"]["reason"] for number in range(13)}
    assert why[2].endswith("system; only numpy arrays and plain containers are read")
    assert why[3] == "mask: 80x48 pixels, its frame has 64x48"
    assert why[4].startswith("no mask") and why[7] == "listed, but not below dataset.root"
    assert why[5].startswith("pickle not read") and why[6] == "mask: nothing is marked on its 64x48 pixels"
    assert not (raw.parent / "was-here").exists()
    assert told[next(iter(TRAIN))][0] == "ok" and "elk--------_000005" not in told
    assert told[TEST] == ("unlisted", "", 0) == told[SEEN]
    assert told["train-00001_000020"] == ("leaked", "", 0)  # another clip of its video is in VGGSound's test split
    assert sum(row[2] for row in told.values() if row[1] in ("train", "val")) == 9  # three of ten seconds each


@pytest.mark.parametrize("workers", [1, 2])
def test_pickles_that_mean_harm_are_rows(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)
    read, get = list[str](), storage.read_bytes
    monkeypatch.setattr(vggsound_instruments, "read_bytes", lambda place, path: read.append(path) or get(place, path))
    mark, root = tmp_path / "was-here", tmp_path / "in"
    attacks = pickles.attacks(mark)
    names = dict(zip(SAMPLES, attacks, strict=False))
    for number, sample in enumerate((*names, SAMPLES[len(names)])):
        if number:
            for ending in ("frames/{}.jpg", "audio/{}.wav"):
                (root / ending.format(sample)).symlink_to(root / ending.format(SAMPLES[0]))
        else:
            still(root, sample, 0)
    for sample, name in names.items():
        (root / f"{sample}.pkl").write_bytes(attacks[name])
    (root / f"{SAMPLES[len(names)]}.pkl").write_bytes(pickle.dumps(LEFT))
    (root / f"{SAMPLES[len(names) + 1]}.pkl").write_bytes(b"")
    os.truncate(root / f"{SAMPLES[0]}.pkl", 1 << 30)
    (root / "vggsound.csv").write_text(f"{TEST[:11]},30,playing piano,test\n")
    chosen = settings(root, prepared=str(tmp_path / "out"), allow_leaks=True)
    prepare_dataset(chosen, lambda line: None, workers)
    told = {row["id"]: row for row in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()}
    assert {told[sample]["status"] for sample in names} == {"corrupt"} and not mark.exists()
    assert len(read) == (len(names) if workers == 1 else 0) and str(root / f"{SAMPLES[0]}.pkl") not in read
    assert told[SAMPLES[0]]["reason"] == f"pickle not read: {1 << 30} bytes, more than {1 << 27}"
    assert told[SAMPLES[len(names)]]["status"] == "ok"


def test_masks_are_kept_to_the_pixel(made: dict[str, Any]) -> None:
    rows = [made["rows"][f"vggsound_instruments:sample{number:04d}:3500"] for number in (0, 1, 9)]
    sample = records.decode_clips(pa.Table.from_pylist(rows, schema=records.clip_schema()), 64, truth=True)
    golden = np.zeros((64, 64), bool)
    golden[11:53, 0:24] = True  # rows 8 to 40 of 48
    for mask in sample.masks:
        edge = mask ^ golden
        assert not edge[12:52].any() and not edge[:10].any() and not edge[54:].any()
    assert np.array_equal(sample.masks[0], sample.masks[1])
    assert [row["labels"] for row in rows] == [["playing accordion"], [], ["playing marimba, xylophone"]]
    assert all(row["group"] == row["video"] and len(row["regions"]) == 1 for row in rows)
    short = made["rows"]["vggsound_instruments:sample0010:3500"]  # 3.4 s of sound: its middle is the middle of ten
    assert short["start_s"] == 3.5 and short["frames"][0]["t_s"] == 5.0
    (square,) = records.decode_clips(pa.Table.from_pylist([short], schema=records.clip_schema()), 64, truth=True).masks
    assert square[:, 32:].all() and not square[:, :32].any()


def test_a_published_pair_list_finds_its_samples(made: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "vgginstruments_multi_test.csv"
    path.write_text("sample0000,accordion,sample0009,xylophone\nsample0010,bongo,sample0001,banjo\n")
    clips = read_clips(made["prepared"], "test", 32, truth=True)
    found = clips.video[pair_lists.read_pair_list(str(path)).locate_clips(clips)]
    assert found.tolist() == [["sample0000", "sample0009"], ["sample0010", "sample0001"]]


def test_a_contaminated_list_is_recognised(raw: Path) -> None:
    (raw / "vgginstruments_train.txt").write_text(
        f"train-00000_000020,accordion\n{TEST},piano\nunknown----_000001,steel_guitar\n"
    )
    chosen = {"subset": "vgginstruments_train", "val": 0.0}
    found = {
        s.name: s for s in vggsound_instruments.list_sources(settings(raw, **chosen)) if not s.name.startswith("sample")
    }
    assert found[TEST].refused == ("leaked", "listed for training, and its YouTube video is in VGGSound's test split")
    assert found["train-00000_000020"].labels == ("playing accordion",) and found["train-00000_000020"].split == "train"
    assert found["unknown----_000001"].labels == ("playing steel guitar, slide guitar",)
    let = {s.name: s for s in vggsound_instruments.list_sources(settings(raw, allow_leaks=True, **chosen))}
    assert let[TEST].split == "train" and let[TEST].refused[0] == "missing"  # let through, were it there
    (raw / "vggss.json").write_text('[{"file": "train-00000_000020", "class": "playing accordion", "bbox": []}]')
    found = {s.name: s for s in vggsound_instruments.list_sources(settings(raw, **chosen))}
    (raw / "vggss.json").unlink()
    assert found["train-00000_000020"].refused[1].endswith("in VGG-SS")


def test_refusals_are_one_line(raw: Path, tmp_path: Path) -> None:
    for name, content, message in (
        ("vggsound.csv", "a----------,1,elk bugling,train\n", "none of its labels is one of the 37 classes"),
        ("vgginstruments_test.csv", "sample1,harp\n", "line 1: 'sample1,harp' is not as sample0000,accordion"),
        (
            "vgginstruments_test.csv",
            "sample0001,hapr\n",
            r"line 1: 'hapr' is none of the 37 classes \(did you mean harp",
        ),
        ("bad.txt", "sample0001\n", "line 1: 'sample0001' is no id of a clip"),
    ):
        (tmp_path / "vggsound.csv").write_text((raw / "vggsound.csv").read_text())
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            chosen = {"subset": "bad"} if name == "bad.txt" else {}
            vggsound_instruments.list_sources(settings(raw, annotations=str(tmp_path), **chosen))
        assert "\n" not in str(caught.value)
        (tmp_path / name).unlink()
