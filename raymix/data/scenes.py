"""Evaluation scenes from clips: canvas, mixed sound and ground truth of one of `raymix.data.layouts.LAYOUTS`.

Which panels sound is known by construction, so scenes of held-out videos rank models without a single box (sections
4.1 to 4.3 of the paper). The clips of a scene are drawn from a seed, or named by a pair list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from raymix.data.audio import mix_sounds, window_frames
from raymix.data.batches import SceneBatch
from raymix.data.layouts import draw_scenes, draw_shuffled_audio_permutation, panel_boxes, panel_grid
from raymix.data.pair_lists import PairList
from raymix.data.records import ClipColumns, ClipMetadata, ClipTable
from raymix.metrics.ground_truth import SceneGroundTruth, SceneOutline, masks_on_canvas

DEFAULT_MIXING = ("sum", "rms")  # mixing rule and level

SCENES_PER_MIX = 64  # scenes whose sounds are float32 at once

C = TypeVar("C", bound=ClipColumns)


def compose_scenes(
    clips: ClipTable,
    *,
    layout: str,
    count: int,
    seed: int,
    seconds: float = 0.96,
    rule: str = "sum",
    level: str = "rms",
    sources: int | None = None,
    fewer: bool = False,
) -> SceneBatch:
    """Draw at most `count` scenes of whole frames and centred windows.

    They are the same for the same seed and clip ids in any order. The panels of a scene come from different videos and,
    where at least as many labels as panels are known, from different labels; labels are used for nothing else.

    Args:
        clips: decoded clips; for layout `natural` with the masks of each source.
        layout: one of `raymix.data.layouts.LAYOUTS`.
        count: number of scenes, at most; a scene of one panel is one clip, never one twice.
        seed: seed of the draw.
        seconds: length of the sound window, s.
        rule: how waveforms are mixed, `sum` or `mean`.
        level: loudness before mixing, `rms` or `none`.
        sources: number of sounding sources, where the layout has a choice; None: its usual number.
        fewer: layout `natural`: also clips with fewer sources, whose missing ones have empty masks (many frames of the
            duets of MUSIC have one box).

    Raises:
        ValueError: an unknown layout, or too few videos.
    """
    composition, clips = _draw(clips, clips.stft.shape[1], layout, count, seed, seconds, (rule, level), sources, fewer)
    return composition.scene_batch(clips)


def compose_ground_truth(
    clips: ClipMetadata,
    *,
    layout: str,
    count: int,
    seed: int,
    seconds: float = 0.96,
    rule: str = "sum",
    level: str = "rms",
    sources: int | None = None,
    fewer: bool = False,
) -> SceneGroundTruth:
    """Return the ground truth of the scenes of `compose_scenes` without reading frames or sounds.

    Its masks are drawn when they are needed. Arguments and errors are those of `compose_scenes`.
    """
    composition, clips = _draw(clips, clips.stft_frames, layout, count, seed, seconds, (rule, level), sources, fewer)
    return composition.ground_truth(clips)


def compose_listed_scenes(
    clips: ClipTable, pairs: PairList, *, seconds: float = 0.96, rule: str = "sum", level: str = "rms"
) -> SceneBatch:
    """Compose the scenes of a pair list, in the order of their ids.

    Scenes of layout `natural` have as many sources as any of the list's clips; the missing ones of other clips have
    empty masks, and so has a frame that is shown with the sound of another clip. The content of the list, its id, the
    rule and the level are part of the scenes' hash.

    Args:
        clips: decoded clips; for layout `natural` with the masks of each source.
        pairs: which clips make which scene.
        seconds: length of the sound window, s.
        rule: how waveforms are mixed, `sum` or `mean`.
        level: loudness before mixing, `rms` or `none`.

    Raises:
        ValueError: a clip of the list is missing; the message names the row.
    """
    return _from_list(clips, clips.stft.shape[1], pairs, seconds, rule, level).scene_batch(clips)


def compose_listed_ground_truth(
    clips: ClipMetadata, pairs: PairList, *, seconds: float = 0.96, rule: str = "sum", level: str = "rms"
) -> SceneGroundTruth:
    """Return the ground truth of the scenes of `compose_listed_scenes` without reading frames or sounds."""
    return _from_list(clips, clips.stft_frames, pairs, seconds, rule, level).ground_truth(clips)


def _draw(
    clips: C,
    stft_frames: int,
    layout: str,
    count: int,
    seed: int,
    seconds: float,
    mixing: tuple[str, str],
    sources: int | None,
    fewer: bool,
) -> tuple[_Composition, C]:
    """Drawn scenes, and the clips that their indices refer to."""
    num_sources = panel_grid(layout, sources)[2]
    window = _centred_window(seconds, stft_frames)
    if layout == "natural":
        clips = clips.with_sources(num_sources, fewer)
    drawn = draw_scenes(clips.clip_id, clips.video, clips.label, layout=layout, count=count, seed=seed, sources=sources)
    hashed = [layout, seed, drawn.ids, clips.clip_id[drawn.clips_NP].tolist(), drawn.panels_NP.tolist(), *window]
    if mixing != DEFAULT_MIXING:  # the hash of scenes with the default mixing must not change
        hashed += mixing
    composition = _Composition(
        layout, drawn.ids, drawn.clips_NP, drawn.panels_NP, drawn.num_sounding, window, mixing, hashed
    )
    return composition, clips


def _from_list(
    clips: ClipColumns, stft_frames: int, pairs: PairList, seconds: float, rule: str, level: str
) -> _Composition:
    window = _centred_window(seconds, stft_frames)
    shown_NP = pairs.locate_clips(clips)
    sounding_NP = np.array([[panel.sounding for panel in panels] for panels in pairs.scenes])
    gain_NP = np.array([[panel.gain for panel in panels] for panels in pairs.scenes])
    panels_NP = np.argsort(~sounding_NP, axis=1, kind="stable")  # the sounding ones first
    clips_NP = np.take_along_axis(shown_NP, panels_NP, axis=1)
    gain_NP = np.take_along_axis(gain_NP, panels_NP, axis=1)
    hashed = [pairs.id, pairs.hash, rule, level, clips.clip_id[clips_NP].tolist(), *window]
    audio_N1 = pairs.locate_audio(clips, shown_NP)
    if audio_N1 is not None:
        hashed.append(clips.clip_id[audio_N1].tolist())
    num_sounding = int(sounding_NP[0].sum())
    return _Composition(
        pairs.layout, pairs.ids, clips_NP, panels_NP, num_sounding, window, (rule, level), hashed, gain_NP, audio_N1
    )


def _centred_window(seconds: float, stft_frames: int) -> tuple[int, int]:
    """First STFT frame and number of frames of the window in the middle of a clip."""
    frames = window_frames(seconds, stft_frames)
    return (stft_frames - frames) // 2, frames


@dataclass(frozen=True)
class _Composition:
    """N scenes of P panels as indices of clips; the first `num_sounding` of a scene sound."""

    layout: str
    ids: list[str]
    clips_NP: np.ndarray
    panels_NP: np.ndarray  # the panel of each of these clips
    num_sounding: int
    window: tuple[int, int]  # first STFT frame, number of frames
    mixing: tuple[str, str]  # rule, level
    hashed: list[Any]  # what the hash of the scenes is of
    gain_NP: np.ndarray | None = None
    audio_NS: np.ndarray | None = None  # clips whose sound is used, where some scenes have another clip's

    @property
    def sounding_NS(self) -> np.ndarray:
        """The clips that sound."""
        return self.clips_NP[:, : self.num_sounding]

    @property
    def foreign_audio_N(self) -> np.ndarray | None:
        """Scenes with the sound of another clip than the one that is shown; None where there are none."""
        return None if self.audio_NS is None else (self.audio_NS != self.sounding_NS).any(axis=1)

    @property
    def hash(self) -> str:
        return blake2b(json.dumps(self.hashed).encode(), digest_size=8).hexdigest()

    def grid(self) -> tuple[int, int]:
        """Rows and columns of panels."""
        rows, columns, _ = panel_grid(
            self.layout, self.clips_NP.shape[1] if self.layout in ("hconcat", "vconcat") else None
        )
        return rows, columns

    def videos(self, clips: ClipColumns) -> list[tuple[str, ...]]:
        return [tuple(map(str, names)) for names in clips.video[self.clips_NP]]

    def labels_and_panels(self, clips: ClipColumns) -> tuple[np.ndarray, np.ndarray]:
        """Label and panel of each source, (N, S). S is the most sources that a clip of layout `natural` has."""
        if self.layout != "natural":
            audio_NS = self.sounding_NS if self.audio_NS is None else self.audio_NS
            return clips.label[audio_NS], self.panels_NP[:, : self.num_sounding].copy()
        shown_N = self.clips_NP[:, 0]
        most = max(int(clips.count_sources()[shown_N].max()), 1)
        unknown_NS = np.full((len(shown_N), most), "")
        label_NS = unknown_NS if clips.source_label is None else clips.source_label[shown_N, :most]
        return label_NS, np.zeros(label_NS.shape, np.int64)

    def has_truth(self, clips: ClipColumns) -> np.ndarray | None:
        """Scenes (N,) whose sources are all annotated, and single frames that are annotated as showing none of them."""
        if clips.has_truth is None:
            return None
        known_N = clips.has_truth[self.sounding_NS].all(axis=1)
        if self.layout == "single" and clips.has_no_sounding_object is not None:
            known_N |= clips.has_no_sounding_object[self.sounding_NS[:, 0]]
        foreign_N = self.foreign_audio_N
        return np.asarray(known_N if foreign_N is None else known_N | foreign_N)

    def ground_truth(self, clips: ClipMetadata) -> SceneGroundTruth:
        """The ground truth, whose masks are drawn from the regions of the clips when they are needed."""
        boxes_P4 = np.array(panel_boxes(*self.grid(), clips.image_size, clips.image_size))
        label_NS, panels_NS = self.labels_and_panels(clips)
        outline = None
        if clips.regions is not None:
            natural = self.layout == "natural"
            regions = clips.regions
            outline = SceneOutline(regions, self.sounding_NS, panels_NS, boxes_P4, natural, self.foreign_audio_N)
            outline = outline.take(np.arange(len(panels_NS)))  # without the clips of no scene
        known_N, annotated_N = np.full(len(self.ids), outline is not None), self.has_truth(clips)
        return SceneGroundTruth(
            ids=tuple(self.ids),
            videos=tuple(self.videos(clips)),
            layout=self.layout,
            canvas=(int(boxes_P4[:, 3].max()), int(boxes_P4[:, 2].max())),
            panels_NS=panels_NS,
            rects_P4=boxes_P4,
            masks_NSYX=None,
            has_truth_N=known_N if annotated_N is None else known_N & annotated_N,
            scenes_hash=self.hash,
            labels=tuple(tuple(map(str, names)) for names in label_NS.tolist()),
            preprocessing=clips.preprocessing,
            outline=outline,
        )

    def scene_batch(self, clips: ClipTable) -> SceneBatch:
        """The scenes with canvas, sound and masks."""
        rows, columns = self.grid()
        boxes = panel_boxes(rows, columns, *clips.frames.shape[2:4])
        label_NS, panels_NS = self.labels_and_panels(clips)
        if self.layout == "natural":
            masks_NSYX, halves_NSYX = self._source_masks(clips, label_NS.shape[1]), None
        else:
            masks_NSYX, halves_NSYX = (
                None
                if each is None
                else masks_on_canvas(each, self.sounding_NS, panels_NS, boxes, self.foreign_audio_N)
                for each in (clips.masks, clips.halves)
            )
        shown_NP = np.take_along_axis(self.clips_NP, np.argsort(self.panels_NP, axis=1), axis=1)  # clip in each panel
        has_truth_N = self.has_truth(clips)
        return SceneBatch(
            layout=self.layout,
            ids=self.ids,
            videos=self.videos(clips),
            frames_N3YX=_arrange_panels(clips.frames[:, 0], shown_NP, rows, columns),
            mixture_NTF=self._mix(clips.stft),
            panels_NS=torch.from_numpy(panels_NS),
            rects_P4=torch.tensor(boxes),
            masks_NSYX=None if masks_NSYX is None else torch.from_numpy(masks_NSYX),
            halves_NSYX=None if halves_NSYX is None else torch.from_numpy(halves_NSYX),
            has_truth_N=None if has_truth_N is None else torch.from_numpy(has_truth_N),
            hash=self.hash,
            labels=[tuple(names) for names in label_NS.tolist()],
            preprocessing=clips.preprocessing,
        )

    def _source_masks(self, clips: ClipTable, count: int) -> np.ndarray | None:
        """The masks of the first `count` sources of each shown clip."""
        if clips.masks is None or clips.sources is None:
            return None
        return np.ascontiguousarray(clips.sources[self.clips_NP[:, 0]][:, :count])

    def _mix(self, stft_NTF2: np.ndarray) -> Tensor:
        audio_NS = self.sounding_NS if self.audio_NS is None else self.audio_NS
        gain_NS = None if self.gain_NP is None else self.gain_NP[:, : self.num_sounding]
        (start, frames), (rule, level), parts = self.window, self.mixing, []
        for scenes in np.array_split(np.arange(len(audio_NS)), max(1, len(audio_NS) // SCENES_PER_MIX)):
            starts, gain = np.full(audio_NS[scenes].shape, start), None if gain_NS is None else gain_NS[scenes]
            parts.append(
                mix_sounds(stft_NTF2, audio_NS[scenes], starts, frames, rule=rule, level=level, gain_BK=gain)[0]
            )
        return torch.cat(parts)


def _arrange_panels(frames_NYX3: np.ndarray, shown_NP: np.ndarray, rows: int, columns: int) -> Tensor:
    """Canvases (N, 3, Y, X) of the clips in each panel."""
    size_Y, size_X = frames_NYX3.shape[1:3]
    panels = frames_NYX3[shown_NP].reshape(len(shown_NP), rows, columns, size_Y, size_X, 3)
    canvas = panels.transpose(0, 5, 1, 3, 2, 4).reshape(len(shown_NP), 3, rows * size_Y, columns * size_X)
    return torch.from_numpy(canvas)


def shuffled_audio_permutation(scenes: SceneBatch, seed: int) -> np.ndarray:
    """Return for each scene the index of another one whose audio replaces its own in the shuffled-audio control."""
    return draw_shuffled_audio_permutation(
        scenes.ids, [names[: scenes.panels_NS.shape[1]] for names in scenes.videos], seed
    )


FEW_VIDEOS = 12  # videos: scores on scenes made of fewer say little about other videos


def few_videos_warning(videos: int, scenes: int, split: str) -> str:
    """The sentence about scenes that are made of few independent videos; empty where they are enough."""
    if videos >= FEW_VIDEOS:
        return ""
    return (
        f"note: {scenes} {split} scenes are made of {videos} videos: scores and intervals hold for these, and say little "
        "about others"
    )
