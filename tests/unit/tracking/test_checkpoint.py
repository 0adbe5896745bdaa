"""Checkpoints: what is saved comes back bit by bit, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs

from raymix.runtime import storage
from raymix.tracking import checkpoint
from raymix.tracking.checkpoint import (
    CorruptCheckpointError,
    checkpoint_path,
    checkpoints_to_delete,
    delete_checkpoint,
    latest_valid_checkpoint,
    list_epoch_checkpoints,
    load_checkpoint,
    load_checkpoint_weights,
    save_checkpoint,
    unreferenced_checkpoints,
    verify_checkpoint,
)
from raymix.tracking.study import EpochRecord, TrialRecord
from tests.support.counting_filesystem import Handler

CONFIG = {"method": {"name": "cycle", "temperature": 0.07}, "encoder": {"image_size": 64, "weights": None}}


def state(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights with all that a network has, and a training state after one step of Adam."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    tied = torch.randn(4, 4)
    weights = {
        **layer.state_dict(),
        "steps": torch.tensor(7),
        "half": tied.bfloat16(),
        "a": tied,
        "b": tied,
        "t": tied.T,
    }
    training = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "step": 12, "epoch": seed}
    return weights, training


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key])
    else:
        assert found == wanted


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_comes_back_bit_by_bit(tmp_path: Path, scheme: str) -> None:
    weights, training = state(1)
    uri = f"{scheme}{tmp_path}/{checkpoint_path(3, 7)}"
    assert save_checkpoint(uri, weights, training, CONFIG) == uri
    verify_checkpoint(uri)
    found = load_checkpoint(uri)
    assert_same(found.weights, weights)
    assert_same(found.training, training)
    assert found.config == CONFIG and found.uri == uri
    names = {"model.safetensors", "training.pt", "config.json", "manifest.json"}
    assert {path.name for path in (tmp_path / "checkpoints/trial-0003/epoch-0007").iterdir()} == names


def test_scoring_reads_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, handler = f"{tmp_path}/{checkpoint_path(0, 1)}", Handler()
    weights, training = state(1)
    save_checkpoint(uri, weights, {**training, "moments": torch.zeros(100_000)}, CONFIG)
    monkeypatch.setattr(checkpoint, "resolve_uri", lambda uri: (fs.PyFileSystem(handler), uri))
    found = load_checkpoint_weights(uri)
    assert_same(found.weights, weights)
    assert found.config == CONFIG and found.uri == uri and not hasattr(found, "training")
    sizes = {name: Path(uri, name).stat().st_size for name in ("model.safetensors", "config.json", "manifest.json")}
    assert dict(handler.bytes_read) == {f"{uri}/{name}": size for name, size in sizes.items()}
    load_checkpoint(uri)
    assert handler.bytes_read[f"{uri}/training.pt"] > 400_000
    Path(uri, "training.pt").write_bytes(b"torn")
    assert_same(load_checkpoint_weights(uri).weights, weights)
    with pytest.raises(CorruptCheckpointError, match=r"training\.pt"):
        load_checkpoint(uri)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_what_scoring_reads_is_verified(tmp_path: Path, name: str) -> None:
    save_checkpoint(str(tmp_path), *state(1), CONFIG)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(CorruptCheckpointError, match=name):
        load_checkpoint_weights(str(tmp_path))


def test_relative_paths_and_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("here", *state(1), CONFIG)
    assert load_checkpoint(f"{tmp_path}/here").config == CONFIG


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path), *state(1), CONFIG)
    save_checkpoint(str(tmp_path), *state(2), CONFIG)
    assert load_checkpoint(str(tmp_path)).training["epoch"] == 2


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    trial = f"{tmp_path}/{checkpoint_path(0)}"
    for epoch in (1, 2, 10):
        save_checkpoint(f"{tmp_path}/{checkpoint_path(0, epoch)}", *state(epoch), CONFIG)
    path = Path(tmp_path, checkpoint_path(0, 10), name)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": data[:-1], "flipped": flipped}[damage])
    with pytest.raises(CorruptCheckpointError) as refusal:
        verify_checkpoint(f"{tmp_path}/{checkpoint_path(0, 10)}")
    assert "epoch-0010" in str(refusal.value) and "\n" not in str(refusal.value)
    whole = latest_valid_checkpoint(trial)
    assert whole is not None and whole.training["epoch"] == 2
    assert list(list_epoch_checkpoints(trial)) == [1, 2, 10]


def test_killed_at_any_write_leaves_no_false_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a good checkpoint is being replaced: old and new files must not be mixed."""
    write = storage.write_atomic
    save_checkpoint(f"{tmp_path}/{checkpoint_path(0, 1)}", *state(1), CONFIG)
    for survives in range(4):
        uri = f"{tmp_path}/{checkpoint_path(0, 2)}"
        save_checkpoint(uri, *state(2), CONFIG)
        left = [survives]

        def dying(filesystem: Any, path: str, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(filesystem, path, data)

        monkeypatch.setattr(checkpoint, "write_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(uri, *state(3), CONFIG)
        monkeypatch.setattr(checkpoint, "write_atomic", write)
        whole = latest_valid_checkpoint(f"{tmp_path}/{checkpoint_path(0)}")
        assert whole is not None and whole.training["epoch"] == 1


def test_before_and_nothing(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(f"{tmp_path}/{checkpoint_path(0, epoch)}", *state(epoch), CONFIG)
    whole = latest_valid_checkpoint(f"{tmp_path}/{checkpoint_path(0)}", before=3)
    assert whole is not None and whole.training["epoch"] == 2
    assert latest_valid_checkpoint(f"{tmp_path}/{checkpoint_path(0)}", before=1) is None
    assert (
        latest_valid_checkpoint(f"{tmp_path}/{checkpoint_path(9)}") is None
        and list_epoch_checkpoints(f"{tmp_path}/{checkpoint_path(9)}") == {}
    )


class Runs:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_no_code_travels(tmp_path: Path) -> None:
    weights, training = state(1)
    with pytest.raises(ValueError, match="only tensors and plain data"):
        save_checkpoint(str(tmp_path), weights, {**training, "evil": Runs()}, CONFIG)
    with pytest.raises(CorruptCheckpointError):
        verify_checkpoint(str(tmp_path))


def test_deleting(tmp_path: Path) -> None:
    uri = f"{tmp_path}/{checkpoint_path(0, 1)}"
    save_checkpoint(uri, *state(1), CONFIG)
    delete_checkpoint(uri)
    delete_checkpoint(uri)
    assert not os.path.exists(uri)


def row(number: int, state: str, scores: list[float], mode: str = "max") -> TrialRecord:
    found = TrialRecord(number, "score", mode, state=state)
    for epoch, score in enumerate(scores, 1):
        found.epochs[epoch] = EpochRecord({"score": score}, {}, checkpoint_path(number, epoch), 1.0, 0.0)
    return found


def kept(rows: list[TrialRecord], **options: Any) -> set[tuple[int, int]]:
    gone = set(checkpoints_to_delete(rows, **options))
    return {(r.number, e) for r in rows for e in r.epochs if checkpoint_path(r.number, e) not in gone}


def test_the_best_of_a_finished_trial_stays() -> None:
    rows = [row(0, "completed", [0.1, 0.9, 0.9, 0.2]), row(1, "pruned", [0.3]), row(2, "failed", [0.2, 0.1])]
    assert kept(rows) == {(0, 2), (1, 1), (2, 1)}
    assert kept(rows, keep=2) == {(0, 2), (0, 3), (1, 1), (2, 1), (2, 2)}
    assert kept(rows, overall=1) == {(0, 2)}
    assert kept(rows, overall=1, referenced=[checkpoint_path(1, 1), checkpoint_path(0, 4)]) == {(0, 2), (1, 1), (0, 4)}
    assert kept([row(0, "completed", [0.1, 0.9], mode="min")]) == {(0, 1)}


def test_a_live_trial_keeps_its_best_and_what_it_resumes_from() -> None:
    assert kept([row(0, "running", [0.9, 0.1, 0.2, 0.3])]) == {(0, 1), (0, 3), (0, 4)}
    assert kept([row(0, "running", [0.9, 0.1, 0.2, 0.3]), row(1, "completed", [1.0])], overall=1) == {
        (0, 1),
        (0, 3),
        (0, 4),
        (1, 1),
    }


def test_retaining_deletes_nothing_and_is_repeatable() -> None:
    rows = [row(0, "completed", [0.1, 0.9, 0.5])]
    assert checkpoints_to_delete(rows) == checkpoints_to_delete(rows) == [checkpoint_path(0, 1), checkpoint_path(0, 3)]


def test_orphans_are_what_was_written_and_never_scored(tmp_path: Path) -> None:
    study = str(tmp_path)
    for epoch in (1, 2, 3):
        save_checkpoint(f"{study}/{checkpoint_path(0, epoch)}", *state(epoch), CONFIG)
        save_checkpoint(f"{study}/{checkpoint_path(1, epoch)}", *state(epoch), CONFIG)
    rows = [row(0, "pruned", [0.1, 0.2]), row(1, "running", [0.1, 0.2])]
    assert unreferenced_checkpoints(study, rows) == [checkpoint_path(0, 3)]
    shutil.rmtree(f"{study}/{checkpoint_path(0)}")
    assert unreferenced_checkpoints(study, rows) == []


def test_orphans_of_a_trial_that_took_over_weights(tmp_path: Path) -> None:
    """Each exploitation begins another folder; epochs that were trained in vain lie in any of them."""
    study, lineages = str(tmp_path), [checkpoint_path(0), f"{checkpoint_path(0)}.1", f"{checkpoint_path(0)}.2"]
    for lineage, epochs_there in zip(lineages, ([1, 2, 3], [3, 4], [5, 6]), strict=True):
        for epoch in epochs_there:
            save_checkpoint(f"{study}/{lineage}/epoch-{epoch:04d}", *state(epoch), CONFIG)
    save_checkpoint(f"{study}/{checkpoint_path(1)}.1/epoch-0009", *state(9), CONFIG)
    trial = row(0, "completed", [0.1, 0.2, 0.9, 0.4, 0.5])
    for epoch, lineage in {1: 0, 2: 0, 3: 1, 4: 1, 5: 2}.items():
        path = f"{lineages[lineage]}/epoch-{epoch:04d}"
        trial.epochs[epoch] = EpochRecord(trial.epochs[epoch].metrics, {}, path, 1.0, 0.0)
    rows = [trial, row(1, "running", [0.1])]
    assert unreferenced_checkpoints(study, rows) == [
        f"{checkpoint_path(0)}/epoch-0003",
        f"{checkpoint_path(0)}.2/epoch-0006",
    ]
    gone = [*unreferenced_checkpoints(study, rows), *checkpoints_to_delete([trial])]
    for path in gone:
        delete_checkpoint(f"{study}/{path}")
    assert [str(p.parent.relative_to(study)) for p in tmp_path.rglob("trial-0000*/*/manifest.json")] == [
        f"{lineages[1]}/epoch-0003"
    ]
