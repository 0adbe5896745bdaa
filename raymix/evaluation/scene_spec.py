"""The specification of evaluation scenes from command-line settings; the scenes are composed when they are needed.

With `study=` they are those that the study's own checkpoints are scored on; what is named beside it goes before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from pyarrow import fs

from raymix.config import ConfigError, EvaluateConfig, TrainConfig
from raymix.data import pair_lists, prepared
from raymix.data.batches import SceneBatch
from raymix.data.layouts import panel_grid
from raymix.data.pair_lists import PairList
from raymix.data.records import ClipTable
from raymix.data.scenes import compose_ground_truth, compose_listed_ground_truth, compose_listed_scenes, compose_scenes
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.runtime.storage import resolve_uri

MAX_SCENES = 100_000  # scenes

DEFAULT_LAYOUT = "hconcat"  # with panels of 224 pixels the paper's canvas, 448x224


@dataclass(frozen=True)
class SceneSpec:
    """All that scenes depend on; the names are those of the settings."""

    prepared: str
    split: str
    layout: str
    sources: int | None
    scenes: int | None  # at most so many; None: all of a list
    seed: int
    image_size: int  # px, side of a panel
    seconds: float
    rule: str
    level: str
    pairs: PairList | None  # the list that names them; None: they are drawn

    @property
    def num_sources(self) -> int:
        """Sounding sources of each scene."""
        if self.pairs and self.layout != "natural":
            return sum(panel.sounding for panel in self.pairs.scenes[0])
        return panel_grid(self.layout, self.sources)[2]

    def clips(self, limit: int | None = None) -> ClipTable:
        """The clips that the scenes are made of, with their truth; at most `limit`."""
        natural = self.layout == "natural"
        return prepared.read_clips(self.prepared, self.split, self.image_size, truth=True, sources=natural, limit=limit)

    def compose(self, clips: ClipTable, fewer: bool = False) -> SceneBatch:
        """The scenes, with `fewer` also natural ones of fewer sources; ValueError where the clips or the list lack them."""
        if self.pairs:
            return compose_listed_scenes(clips, self.pairs, **self._sound_settings())
        return compose_scenes(clips, fewer=fewer, **self._draw_settings(), **self._sound_settings())

    def _sound_settings(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "rule": self.rule, "level": self.level}

    def _draw_settings(self) -> dict[str, Any]:
        return {"layout": self.layout, "count": self.scenes or 0, "seed": self.seed, "sources": self.sources}

    def truth(self) -> SceneGroundTruth:
        """What is known of the scenes, of which neither pictures nor sounds are read, and no mask is drawn yet."""
        natural = self.layout == "natural"
        clips = prepared.read_clip_metadata(self.prepared, self.split, self.image_size, truth=True, sources=natural)
        if self.pairs:
            return compose_listed_ground_truth(clips, self.pairs, **self._sound_settings())
        return compose_ground_truth(clips, **self._draw_settings(), **self._sound_settings())

    def listed(self, clips: ClipTable) -> PairList:
        """The scenes as a pair list: the one that was named, or that of the drawn scenes."""
        return self.pairs or pair_lists.make_pair_list(clips, **self._draw_settings())

    def record(self) -> dict[str, Any]:
        """What makes the same scenes again, for JSON."""
        names = [each.name for each in fields(self) if each.name != "pairs"]
        of: dict[str, Any] | None = None
        if self.pairs:
            of = {"id": self.pairs.id, "hash": self.pairs.hash, "scenes": len(self.pairs)}
            of |= {"of": asdict(self.pairs.origin)} if self.pairs.origin else {}
        return {name: getattr(self, name) for name in names} | {"pair_list": of}


def scene_spec_from_settings(settings: EvaluateConfig, run: TrainConfig | None = None) -> SceneSpec:
    """The scenes that these settings name; `run` is that of the study, which fills what they leave open."""
    of = run or TrainConfig()
    if settings.scenes is not None and not 1 <= settings.scenes <= MAX_SCENES:
        raise ConfigError(f"scenes={settings.scenes}: must be 1 to {MAX_SCENES}")
    pairs = pair_lists.read_pair_list(settings.pair_list, settings.layout) if settings.pair_list else None
    if pairs and settings.layout and pairs.layout != settings.layout:
        raise ConfigError(f"layout={settings.layout}: pair_list={settings.pair_list} is of layout {pairs.layout}")
    for name in ("sources", "seed"):
        if pairs and getattr(settings, name) is not None:
            raise ConfigError(
                f"{name}={getattr(settings, name)}: pair_list={settings.pair_list} says what is in each scene"
            )
    layout = pairs.layout if pairs else settings.layout or DEFAULT_LAYOUT
    panel_grid(layout, settings.sources)
    planned = of.evaluation.scenes if run and settings.split == "val" else of.evaluation.final_scenes

    def given(name: str, otherwise: Any) -> Any:
        value = getattr(settings, name)
        return otherwise if value is None else value

    return SceneSpec(
        prepared=settings.prepared or (run.dataset.prepared if run else _only(settings.home)),
        split=settings.split,
        layout=layout,
        sources=settings.sources,
        scenes=given("scenes", None if pairs else planned),
        seed=given("seed", of.evaluation.seed),
        image_size=given("image_size", of.encoder.image_size),
        seconds=given("seconds", of.mixture.seconds),
        rule=given("rule", of.mixture.reduction),
        level=given("level", of.mixture.loudness),
        pairs=pairs.take(settings.scenes) if pairs else None,
    )


def _only(home: str) -> str:
    """The one prepared dataset of a home; ConfigError where there are several, or none."""
    filesystem, path = resolve_uri(f"{home}/clips")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = [each.base_name for each in listing if each.type == fs.FileType.Directory]
    found = [name for name in names if filesystem.get_file_info(f"{path}/{name}/dataset.json").type == fs.FileType.File]
    if len(found) != 1:
        there = f"there are {', '.join(sorted(found))}" if found else "there is none"
        raise ConfigError(f"prepared= names no dataset: name the folder of the clips (under {home}/clips {there})")
    return f"{home.rstrip('/')}/clips/{found[0]}"
