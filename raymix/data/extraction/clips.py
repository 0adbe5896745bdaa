"""The clips of a source that an importer lists: from a video, or from image files and an audio file."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.extraction import frames_and_audio, video
from raymix.data.extraction.clip_plan import CutSettings, RawClip
from raymix.data.media import BROKEN_LINK, ManifestRow, MediaSource, UnusableMediaError, media_fingerprint
from raymix.data.records import ClipRecord
from raymix.metrics.regions import ObjectRegion
from raymix.runtime.storage import RetryingReader, read_bytes, resolve_uri


def extract_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one source, in time; fills `entry`, raises Unusable where it ends being a video with sound."""
    if source.refused:
        raise UnusableMediaError(*source.refused)
    filesystem, root = resolve_uri(settings.root)
    path = f"{root}/{source.path}"
    if source.size_bytes < 0:
        is_link = isinstance(filesystem, fs.LocalFileSystem) and os.path.islink(path)
        raise UnusableMediaError(*BROKEN_LINK if is_link else ("missing", "listed, but not below dataset.root"))
    if source.size_bytes == 0:
        raise UnusableMediaError("corrupt", "empty file")
    sound = f"{root}/{source.sound}" if source.sound else path
    entry.media = media_fingerprint(filesystem, frames_and_audio.list_audio_files(filesystem, sound))
    cuts = _film(settings, source, filesystem, path, entry) if sound == path else _extracted(settings, source, entry)
    for cut in cuts:
        yield _clip(settings, source, cut)


def cut_settings_of(settings: DatasetConfig, source: MediaSource) -> CutSettings:
    """How the settings, and what is known of this source, want it cut."""
    return CutSettings(
        settings.clip_seconds, settings.stride_seconds, settings.frames, settings.frame_size, source.at, source.span
    )


def _film(
    settings: DatasetConfig, source: MediaSource, filesystem: fs.FileSystem, path: str, entry: ManifestRow
) -> Iterator[RawClip]:
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from video.cut_video(path, cut_settings_of(settings, source), entry)
    else:
        with RetryingReader(filesystem, path) as file:
            yield from video.cut_video(file, cut_settings_of(settings, source), entry)


def _extracted(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[RawClip]:
    yield from frames_and_audio.cut_frames_and_audio(
        settings.root, source, settings.frames_per_second, cut_settings_of(settings, source), entry
    )


def _clip(settings: DatasetConfig, source: MediaSource, cut: RawClip) -> ClipRecord:
    loudness_db = 10 * np.log10(np.mean(np.square(cut.wave, dtype=np.float64)) + 1e-20)
    return ClipRecord(
        clip_id=f"{settings.name}:{source.name}:{round(cut.start_s * 1000)}",
        dataset=settings.name,
        split=source.split,
        video=source.video_name,
        group=source.group_name,
        start_s=cut.start_s,
        duration_s=settings.clip_seconds,
        labels=source.labels,
        frames=cut.frames,
        frame_times=cut.frame_times,
        wave=cut.wave,
        regions=tuple(_regions(settings, source, cut)),
        status="silent" if loudness_db < settings.silence_db else "ok",
    )


def _regions(settings: DatasetConfig, source: MediaSource, cut: RawClip) -> Iterator[ObjectRegion]:
    """The regions that hold at the time of each frame; of the first at the given time, if it was picked for one."""
    # the nearest of few pictures may lie outside the moment that is annotated: it stands for it all the same
    times = cut.frame_times if cut.at is None else [cut.at, *cut.frame_times[1:]]
    for position, time_s in enumerate(times):
        for known in source.regions:
            end_s = known.get("to_s")
            if (known.get("from_s") or 0.0) <= time_s and (end_s is None or time_s < end_s):
                box = known.get("box")
                yield ObjectRegion(
                    label=known.get("label", ""),
                    sounding=bool(known.get("sounding", True)),
                    frame=position,
                    box_xyxy=None if box is None else (box[0], box[1], box[2], box[3]),
                    mask=_mask(settings, known),
                    weight=known.get("weight", 1.0),
                )


def _mask(settings: DatasetConfig, known: dict[str, Any]) -> bytes | None:
    if known.get("mask") is not None:
        return base64.b64decode(known["mask"])
    if known.get("mask_file") is None:
        return None
    filesystem, sidecar = resolve_uri(settings.regions or "")
    return read_bytes(filesystem, f"{sidecar.rpartition('/')[0]}/{known['mask_file']}")
