"""Every setting with its range, as dataclasses: one for each door, and the parts that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def ranged(
    default: float | None, low: float | None = None, high: float | None = None, above: float | None = None
) -> Any:
    """A number with its range: `low <= x <= high`, or `x > above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def chosen(default: str | None, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


@dataclass
class Dataset:
    """Videos and the clips cut from them; `prepared` is the folder (any pyarrow.fs URI) that `raymix.prepare` writes."""

    name: str = chosen(
        "folder", "folder", "demo", "music", "vggsound_instruments", "vggss", "voxceleb2", "flickr_soundnet"
    )
    root: str = ""  # the tree of video files; the demo writes its own there
    prepared: str = ""
    frame_size: int = ranged(256, low=16, high=4096)  # px, shorter side of the stored JPEG
    clip_seconds: float = ranged(3.0, above=0.0)
    stride_seconds: float = ranged(3.0, above=0.0)  # from the start of one clip to the start of the next
    frames: int = ranged(1, low=1, high=64)  # per clip
    val: float = ranged(0.1, low=0.0, high=0.9)  # share of videos
    test: float = ranged(0.1, low=0.0, high=0.9)
    seed: int = ranged(0, low=0)  # of the split (and of the demo's videos)
    classes: str = chosen("none", "none", "parent")  # "parent": the folder a video lies in names its class
    splits: str | None = None  # CSV with the columns file,split; music: folder of train.csv, val.csv, test.csv
    regions: str | None = None  # JSON sidecar with boxes or masks
    silence_db: float = ranged(-60.0, high=0.0)  # below this RMS a clip counts as silent
    jpeg_quality: int = ranged(90, low=1, high=100)
    rows_per_file: int = ranged(1024, low=1)
    overwrite: bool = False
    allow_leaks: bool = (
        False  # go on where a video, a speaker or a file is in two splits; `folder` uses all copies of a file
    )
    annotations: str = (
        ""  # folder or file of the publisher's lists; "": the root. From here on the paper's datasets alone
    )
    subset: str = (
        ""  # music: solo, duet; vggss, vggsound_instruments, flickr_soundnet: a list to train on; "": the usual
    )
    frames_per_second: float = ranged(4.0, above=0.0)  # of pictures that were extracted already (paper's code: 4)
    faces: str = "opencv"  # voxceleb2: who finds them; or the path of YuNet's weights (ONNX)
    face_shape: str = chosen("box", "box", "oval")
    videos: int = ranged(360, low=8)  # from here on the demo alone
    video_seconds: float = ranged(10.0, low=1.0)
    duets: float = ranged(0.1, low=0.0, high=1.0)  # share of videos with two sounding objects
    size: int = ranged(96, low=32)  # px


@dataclass
class Mixture:
    """How k clips become one sound (paper section 3; `raymix.mixture`)."""

    k: int = ranged(2, low=1, high=8)
    seconds: float = ranged(0.96, above=0.0)  # heard at once; .96 s is the paper's 193 frames
    shift: str = chosen("clip", "clip", "jitter", "video", "group")  # where the second view of the sound comes from
    rule: str = chosen("sum", "sum", "mean")  # the paper sums, its code averages
    level: str = chosen("rms", "rms", "none")
    crop: float = ranged(0.8, low=0.1, high=1.0)  # smallest share of a frame that a crop keeps
    flip: bool = True


@dataclass
class Encoder:
    width: int = ranged(64, low=4, high=512)  # channels of the first stage; 64 is ResNet-18
    blocks: int = ranged(2, low=1, high=8)  # residual blocks a stage; 2 is ResNet-18
    stages: int = ranged(4, low=3, high=4)  # 3: a smaller field of view, for small frames
    image_size: int = ranged(224, low=32, high=1024)  # px
    weights: str | None = None  # ImageNet state dict of torchvision's ResNet-18


@dataclass
class Optimizer:
    learning_rate: float = ranged(1e-4, above=0.0, high=1.0)  # Adam's own: nothing rescales it
    weight_decay: float = ranged(5e-4, low=0.0, high=1.0)
    clip_gradient: float = ranged(0.0, low=0.0)  # largest norm; 0 leaves gradients alone


@dataclass
class Fit:
    batch: int = ranged(128, low=2)  # clips (not groups) over all workers
    epochs: int = ranged(30, low=1)
    seed: int = ranged(0, low=0)
    accumulate: int = ranged(1, low=1)  # a batch in so many pieces, one after the other: less memory, one update
    precision: str = chosen("fp32", "fp32", "bf16")
    channels_last: bool = False
    compile: bool = False  # torch.compile: a minute or more at a trial's start, pays on GPUs in long runs
    frozen_batch_norm: bool = False  # BatchNorm keeps the statistics it was loaded with
    sync_batch_norm: bool = False  # BatchNorm over the clips of all workers
    keep: int = ranged(1, low=1)  # checkpoints kept of a finished trial, the best first


@dataclass
class Evaluation:
    protocol: str = "raymix-1"
    scenes: int = ranged(128, low=8)  # validation scenes that every epoch is scored on
    final_scenes: int = ranged(256, low=8)  # test scenes of the last word
    seed: int = ranged(0, low=0)
    pictures: int = ranged(6, low=0, high=64)  # PNGs that `evaluate` draws


@dataclass
class Data:
    cache: str = chosen("auto", "auto", "on", "off")  # decoded clips in Ray's object store, once for all slots


@dataclass
class Study:
    name: str = ""
    plan: bool = False  # print what would be done, and on what, and start nothing
    trials: int = ranged(32, low=1)
    extend: int = ranged(0, low=0)  # this many more trials on top of what the study planned so far
    seed: int = ranged(0, low=0)
    metric: str = "val/sounding_accuracy"
    mode: str = chosen("max", "max", "min")
    final: int = ranged(1, low=0)  # the best n are scored on the test split at the end; 0: leave that to evaluate


@dataclass
class Search:
    sampler: str = chosen("tpe", "tpe", "random", "gp", "cmaes", "grid")
    startup: int = ranged(10, low=1)  # random trials before the sampler models anything
    scheduler: str = chosen("asha", "asha", "fifo", "median", "pbt")
    grace: int = ranged(3, low=1)  # epochs that no trial is stopped before
    reduction: int = ranged(3, low=2)  # ASHA keeps the best 1/reduction at each rung
    # false: a point that a trial has had is drawn anew, and the study ends when the space has no other (not under pbt).
    # true: it is trained again, as the nth repeat with fit.seed + n, which stands among the trial's parameters.
    repeats: bool = False


@dataclass
class Cluster:
    """What one slot, the evaluator and the data take of a cluster; how many slots fit is computed from it."""

    workers: Any = field(default=1, metadata={"workers": True})  # DDP workers of a slot; [min, max]: raymix.train alone
    cpus_per_worker: float = ranged(1.0, above=0.0)
    gpus_per_worker: float = ranged(0.0, low=0.0)
    placement: str = chosen("PACK", "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")  # of a slot's workers over nodes
    evaluator_cpus: float = ranged(1.0, low=0.0)
    evaluator_gpus: float = ranged(0.0, low=0.0)
    data_cpus: float = ranged(1.0, low=0.0)  # of each slot, when its clips are streamed
    object_store_share: float = ranged(0.5, above=0.0, high=0.9)  # of a node's object store, for data.cache=auto
    slots: int = ranged(0, low=0)  # trials in flight at once; 0: as many as fit
    trials_on: str = "head"  # nodes of the processes that wait for slots: head, or a custom resource that they have
    cpus: int = ranged(0, low=0)  # of a cluster that raymix starts itself; 0: what the machine has
    object_store_gib: float = ranged(0.0, low=0.0)  # likewise; 0: Ray's own choice
    dashboard: bool = True  # Ray Train cleans up after lost slots through it

    @property
    def fewest(self) -> int:
        """Workers that a slot needs to run."""
        return min(self.workers) if isinstance(self.workers, list) else int(self.workers)

    @property
    def most(self) -> int:
        """Workers that a slot uses where there is room."""
        return max(self.workers) if isinstance(self.workers, list) else int(self.workers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows what the cluster has."""
        return self.fewest < self.most


@dataclass
class Run:
    """One training run: what a checkpoint carries, whole."""

    home: str = ""
    dataset: Dataset = field(default_factory=Dataset)
    mixture: Mixture = field(default_factory=Mixture)
    encoder: Encoder = field(default_factory=Encoder)
    method: dict[str, Any] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=Optimizer)
    fit: Fit = field(default_factory=Fit)
    evaluation: Evaluation = field(default_factory=Evaluation)
    data: Data = field(default_factory=Data)
    cluster: Cluster = field(default_factory=Cluster)
    study: Study = field(default_factory=Study)


@dataclass
class Tune(Run):
    search: Search = field(default_factory=Search)
    search_spaces: dict[str, Any] = field(default_factory=dict)


@dataclass
class Compare(Tune):
    systems: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    space: dict[str, Any] = field(default_factory=dict)  # searched by all systems alike


@dataclass
class Prepare:
    home: str = ""
    dataset: Dataset = field(default_factory=Dataset)
    cluster: Cluster = field(default_factory=Cluster)
    layouts: list[str] = field(default_factory=list)  # fixed scenes beside the clips: hconcat, hconcat3, grid2x2 ...
    pair_lists: list[str] = field(default_factory=list)  # files of given ones, likewise kept beside the clips
    split: str = chosen("test", "test", "val")  # that they are made of
    scenes: int = ranged(256, low=1)  # of a drawn list, at most
    seed: int = ranged(0, low=0)  # of the drawn lists, and of what inspect shows
    inspect: str = ""  # a prepared dataset to look at instead: contact sheets and its numbers
    output: str | None = None  # where to; default: the folder inspect in the dataset itself
    pictures: int = ranged(12, low=1, high=48)  # clips on a sheet of inspect


@dataclass
class Evaluate:
    home: str = ""
    study: str = ""
    top: int = ranged(1, low=1)
    checkpoint: str | None = None  # score this one checkpoint instead of a study's best
    store: bool = False  # also write the raw maps of the scored checkpoints
    split: str = chosen("test", "test", "val")
    output: str | None = None  # default: the study's own folder
    scenes: int | None = None  # default: the study's evaluation.final_scenes
    pictures: int | None = None
    predictions: str = ""  # score this file of anybody's predictions instead
    # from so many scenes on, and on any cluster that RAY_ADDRESS names, predictions are scored over Ray
    spread: int = ranged(4096, low=1)
    export: str = ""  # write the scenes into this folder instead
    compare: list[str] = field(default_factory=list)  # two results instead: FILE or FOLDER, or with #SYSTEM behind it
    tables: list[int] = field(default_factory=list)  # the paper's, 1 to 3, of a study or comparison instead
    figures: list[int] = field(default_factory=list)  # the paper's, 3 to 9, likewise
    comparison: str = ""  # whose studies' best checkpoints these show; NAME,NAME: of several datasets
    prepared: str = ""  # from here on: which scenes these three are about; what is left open is the study's, if named
    layout: str | None = None
    sources: int | None = ranged(None, low=1, high=4)
    pair_list: str = ""
    seed: int | None = ranged(None, low=0)
    image_size: int | None = ranged(None, low=16, high=1024)  # px, side of a panel
    seconds: float | None = ranged(None, above=0.0)
    rule: str | None = chosen(None, "sum", "mean")
    level: str | None = chosen(None, "rms", "none")
    protocol: str | None = None
    protocols: list[str] = field(default_factory=list)  # the same predictions under all of these, or under [all]
