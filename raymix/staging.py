"""Which scenes a stranger's predictions are of, in the words of the command line; made again whenever they are needed.

With `study=` they are those that the study's own checkpoints are scored on; what is named beside it goes before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from pyarrow import fs

from raymix import clip_files, pair_list
from raymix.clip import Clips
from raymix.config import BadInput, Evaluate, Run
from raymix.layout import arrange
from raymix.pair_list import PairList
from raymix.scene import Scenes, compose, compose_list
from raymix.storage import resolve
from raymix.truth import Truth

MOST = 100_000  # scenes
LAYOUT = "hconcat"  # with panels of 224 pixels the paper's canvas, 448x224


@dataclass(frozen=True)
class Stage:
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
    def heard(self) -> int:
        """Sounding sources of each scene."""
        if self.pairs and self.layout != "natural":
            return sum(panel.sounding for panel in self.pairs.scenes[0])
        return arrange(self.layout, self.sources)[2]

    def clips(self, limit: int | None = None) -> Clips:
        """The clips that the scenes are made of, with their truth; at most `limit`."""
        natural = self.layout == "natural"
        return clip_files.read(self.prepared, self.split, self.image_size, truth=True, sources=natural, limit=limit)

    def compose(self, clips: Clips, fewer: bool = False) -> Scenes:
        """The scenes, with `fewer` also natural ones of fewer sources; ValueError where the clips or the list lack them."""
        how: dict[str, Any] = {"seconds": self.seconds, "rule": self.rule, "level": self.level}
        if self.pairs:
            return compose_list(clips, self.pairs, **how)
        how |= {"seed": self.seed, "sources": self.sources, "fewer": fewer}
        return compose(clips, layout=self.layout, count=self.scenes or 0, **how)

    def truth(self) -> Truth:
        """What is known of the scenes, of which neither pictures nor sounds are read, and no mask is drawn yet."""
        natural = self.layout == "natural"
        clips = clip_files.outlines(self.prepared, self.split, self.image_size, truth=True, sources=natural)
        return Truth.of(self.compose(clips))

    def listed(self, clips: Clips) -> PairList:
        """The scenes as a pair list: the one that was named, or that of the drawn scenes."""
        return self.pairs or pair_list.make(
            clips, layout=self.layout, count=self.scenes or 0, seed=self.seed, sources=self.sources
        )

    def record(self) -> dict[str, Any]:
        """What makes the same scenes again, for JSON."""
        names = [each.name for each in fields(self) if each.name != "pairs"]
        of: dict[str, Any] | None = None
        if self.pairs:
            of = {"id": self.pairs.id, "hash": self.pairs.hash, "scenes": len(self.pairs)}
            of |= {"of": asdict(self.pairs.origin)} if self.pairs.origin else {}
        return {name: getattr(self, name) for name in names} | {"pair_list": of}


def staged(settings: Evaluate, run: Run | None = None) -> Stage:
    """The scenes that these settings name; `run` is that of the study, which fills what they leave open."""
    of = run or Run()
    if settings.scenes is not None and not 1 <= settings.scenes <= MOST:
        raise BadInput(f"scenes={settings.scenes}: must be 1 to {MOST}")
    pairs = pair_list.read(settings.pair_list, settings.layout) if settings.pair_list else None
    if pairs and settings.layout and pairs.layout != settings.layout:
        raise BadInput(f"layout={settings.layout}: pair_list={settings.pair_list} is of layout {pairs.layout}")
    for name in ("sources", "seed"):
        if pairs and getattr(settings, name) is not None:
            raise BadInput(
                f"{name}={getattr(settings, name)}: pair_list={settings.pair_list} says what is in each scene"
            )
    layout = pairs.layout if pairs else settings.layout or LAYOUT
    arrange(layout, settings.sources)
    planned = of.evaluation.scenes if run and settings.split == "val" else of.evaluation.final_scenes

    def given(name: str, otherwise: Any) -> Any:
        value = getattr(settings, name)
        return otherwise if value is None else value

    return Stage(
        prepared=settings.prepared or (run.dataset.prepared if run else _only(settings.home)),
        split=settings.split,
        layout=layout,
        sources=settings.sources,
        scenes=given("scenes", None if pairs else planned),
        seed=given("seed", of.evaluation.seed),
        image_size=given("image_size", of.encoder.image_size),
        seconds=given("seconds", of.mixture.seconds),
        rule=given("rule", of.mixture.rule),
        level=given("level", of.mixture.level),
        pairs=pairs.take(settings.scenes) if pairs else None,
    )


def _only(home: str) -> str:
    """The one prepared dataset of a home; BadInput where there are several, or none."""
    filesystem, path = resolve(f"{home}/clips")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = [each.base_name for each in listing if each.type == fs.FileType.Directory]
    found = [name for name in names if filesystem.get_file_info(f"{path}/{name}/dataset.json").type == fs.FileType.File]
    if len(found) != 1:
        there = f"there are {', '.join(sorted(found))}" if found else "there is none"
        raise BadInput(f"prepared= names no dataset: name the folder of the clips (under {home}/clips {there})")
    return f"{home.rstrip('/')}/clips/{found[0]}"
