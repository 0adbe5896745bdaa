"""The systems of a comparison, or of a study, on the paper's sets of scenes: each set composed once, each system run once.

Serves Tables 1 to 3 and Figures 3 to 9: predictions and control runs of each system, and which of its maps are scored
against the sources of a column.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from pyarrow import fs

from raymix import clip_files
from raymix.baselines import Control, mean_training_heatmap, predict_control, shuffled_audio
from raymix.config import Evaluate, Run
from raymix.contenders import CandidateCheckpoint
from raymix.methods import Maps
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.scene import Scenes
from raymix.staging import Stage, staged
from raymix.storage import parted, resolve
from raymix.truth import Truth


@dataclass(frozen=True)
class Shown:
    """One system: its best checkpoint, and the study that it comes from."""

    system: str
    study: str
    contender: CandidateCheckpoint


@dataclass(frozen=True)
class Act:
    """One set of scenes with all that is known of it; `other_N` says whose audio each one gets in the control."""

    stage: Stage
    scenes: Scenes
    truth: Truth
    other_N: torch.Tensor | None
    notes: list[str]


@dataclass(frozen=True)
class Hall:
    """All systems on the scenes of one dataset's split."""

    shown: list[Shown]
    split: str
    device: str
    acts: dict[tuple[str, str, bool], Act | str] = field(default_factory=dict)
    said: dict[tuple[str, str, Control], Maps] = field(default_factory=dict)
    means: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        return self.shown[0].contender.run.dataset.name

    @property
    def seed(self) -> int:
        return self.shown[0].contender.run.evaluation.seed

    def of(self, layout: str, subset: str = "", fewer: bool = False) -> Act | str:
        """The scenes of a layout, of a subset of the dataset; where there are none, the sentence that says why.

        With `fewer` natural scenes are also clips in which fewer things sound. ValueError where the run's own clips
        cannot be read.
        """
        run = self.shown[0].contender.run
        prepared = _prepared(run, subset)
        if not prepared:
            how = f"python -m raymix.prepare dataset={run.dataset.name} dataset.subset={subset}"
            return f"no clips of dataset.subset={subset} are prepared beside {run.dataset.prepared}: {how}"
        key = (layout, prepared, fewer)
        if key not in self.acts:
            few = run.evaluation.final_scenes
            stage = staged(Evaluate(split=self.split, layout=layout, scenes=few, prepared=prepared), run)
            self.acts[key] = _act(stage, fewer)
        return self.acts[key]

    def maps(self, shown: Shown, act: Act, control: Control = Control.NONE) -> Maps:
        """The predictions of a system on scenes, or those of one of its control runs; each is made once."""
        key = (shown.contender.uri, act.scenes.hash, control)
        if key not in self.said:
            self.said[key] = predict_control(shown.contender, control, act.scenes, self.device, act.other_N)
        return self.said[key]

    def mean(self, shown: Shown, act: Act) -> np.ndarray | None:
        """The mean map of a system on training scenes of this kind, (H, W); None where there are none, and a note says so."""
        key = (shown.contender.uri, act.scenes.hash)
        if key not in self.means:
            self.means[key] = mean_training_heatmap(shown.contender, act.stage, self.device, act.notes)
        return self.means[key]


def _act(stage: Stage, fewer: bool) -> Act | str:
    """The scenes of a stage, or why there are none; its clips have to be there."""
    clips = stage.clips()
    try:
        scenes = stage.compose(clips, fewer)
    except ValueError as error:  # too few videos, or no clip in which so many things sound
        return " ".join(str(error).split())
    if stage.layout == "natural" and scenes.panels_NS.shape[1] < stage.heard:
        return f"none of {len(scenes)} scenes has {stage.heard} sources"
    notes: list[str] = []
    return Act(stage, scenes, Truth.of(scenes), shuffled_audio(scenes, stage.seed, notes), notes)


def _prepared(run: Run, subset: str) -> str:
    """The folder of a subset's clips: that of the run, or one beside it or in the run's home that was prepared as such.

    The folders' own records say what is in them. Of several the one whose other settings are most like the run's; ''
    where there is none.
    """
    dataset = run.dataset
    if not dataset.subset or not subset or dataset.subset == subset:
        return dataset.prepared
    own, found = asdict(dataset), list[tuple[int, str]]()
    for above in dict.fromkeys((parted(dataset.prepared.rstrip("/"))[0], f"{run.home.rstrip('/')}/clips")):
        filesystem, path = resolve(above)
        for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            place = f"{above.rstrip('/')}/{info.base_name}"
            settings = _settings(place) if info.type == fs.FileType.Directory else {}
            if (settings.get("name"), settings.get("subset")) == (dataset.name, subset):
                found.append((sum(own.get(name) != value for name, value in settings.items()), place))
    return min(found, default=(0, ""))[1]


def _settings(directory: str) -> dict[str, Any]:
    """The settings that a dataset was prepared with; none where the folder is no dataset of this raymix."""
    try:
        return dict(clip_files.describe(directory).get("settings", {}))
    except ValueError:
        return {}


@dataclass(frozen=True)
class Held:
    """What of a system's maps is held against the sources of scenes, and under which protocol."""

    maps_NMHW: np.ndarray
    protocol: Protocol
    classes: list[str] | None  # of the maps, where they are held against the sources of these names
    alone: bool  # one map serves every source
    starred: bool  # the best pairing of maps with sources is taken


def held(said: Maps, truth: Truth, protocol: str) -> Held:
    """One map serves every source; maps with names go by them; of anonymous ones the best pairing is taken (4.4)."""
    sources, alone = truth.panels_NS.shape[1], said.maps_NMHW.shape[1] == 1
    by_name = sources > 1 and not alone and said.classes is not None and any(map(any, truth.labels or ()))
    if by_name:
        return Held(said.maps_NMHW.numpy(), named(f"{protocol}-named"), said.classes, alone=False, starred=False)
    maps_NMHW = said.heard(sources).numpy()
    if alone:
        maps_NMHW = np.repeat(maps_NMHW, sources, axis=1)
    return Held(maps_NMHW, named(protocol), None, alone, starred=not alone and said.loudness_NM is None)
