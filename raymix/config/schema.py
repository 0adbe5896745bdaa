"""Every setting with its range, as dataclasses: one for each command, and the parts that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def describe_field(help: str, path: bool = False, datasets: tuple[str, ...] = ()) -> dict[str, Any]:
    """The metadata of a field: its meaning, whether it is a place (or a list of places), and the datasets that read it."""
    return {"help": help, "path": path, "datasets": datasets}


def setting_field(default: Any, help: str, path: bool = False, datasets: tuple[str, ...] = ()) -> Any:
    """A field with its meaning; see `describe_field`."""
    return field(default=default, metadata=describe_field(help, path, datasets))


def number_field(
    default: float | None,
    help: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    datasets: tuple[str, ...] = (),
) -> Any:
    """A number with its meaning and range: `low <= x <= high`, or `x > above`."""
    metadata = {"help": help, "low": low, "high": high, "above": above, "datasets": datasets}
    return field(default=default, metadata=metadata)


def choice_field(default: str | None, help: str, *choices: str, datasets: tuple[str, ...] = ()) -> Any:
    """One of several words, with its meaning."""
    return field(default=default, metadata={"help": help, "choices": choices, "datasets": datasets})


DATASETS = ("folder", "demo", "music", "vggsound_instruments", "vggss", "voxceleb2", "flickr_soundnet")

_VIDEO_FILES = ("folder", "demo")

_PUBLISHED = ("music", "vggsound_instruments", "vggss", "voxceleb2", "flickr_soundnet")


@dataclass
class DatasetConfig:
    """Videos and the clips cut from them; `prepared` is the folder (any pyarrow.fs URI) that `raymix.prepare` writes."""

    name: str = choice_field(
        "folder", "importer that reads the videos; dataset=NAME sets it with its other defaults", *DATASETS
    )
    root: str = setting_field("", "folder of the video files; the demo writes its own videos there", path=True)
    prepared: str = setting_field(
        "", "folder of the prepared clips: new, empty, or written by prepare before", path=True
    )
    frame_size: int = number_field(256, "shorter side of the stored JPEG frames, in pixels", low=16, high=4096)
    clip_seconds: float = number_field(3.0, "length of a clip, in seconds", above=0.0)
    stride_seconds: float = number_field(3.0, "seconds from the start of one clip to the start of the next", above=0.0)
    frames: int = number_field(1, "frames stored for each clip", low=1, high=64)
    val: float = number_field(0.1, "fraction of the videos in the validation split", low=0.0, high=0.9)
    test: float = number_field(0.1, "fraction of the videos in the test split", low=0.0, high=0.9)
    seed: int = number_field(0, "seed of the random split (and of the demo's videos)", low=0)
    classes: str = choice_field(
        "none", "class of a video: none, or the name of its folder (parent)", "none", "parent", datasets=_VIDEO_FILES
    )
    splits: str | None = setting_field(
        None,
        "CSV file with the columns file,split; music: folder of train.csv, val.csv, test.csv",
        path=True,
        datasets=("folder", "demo", "music"),
    )
    regions: str | None = setting_field(
        None, "JSON file with boxes or masks of the sounding objects", path=True, datasets=_VIDEO_FILES
    )
    silence_db: float = number_field(
        -60.0, "RMS level below which a clip counts as silent, in dB of full scale", high=0.0
    )
    jpeg_quality: int = number_field(90, "JPEG quality of the stored frames", low=1, high=100)
    rows_per_file: int = number_field(1024, "clips in a Parquet file", low=1)
    overwrite: bool = setting_field(False, "prepare the clips again, replacing those that are there")
    allow_leaks: bool = setting_field(
        False, "continue where a video, a speaker or a file is in two splits; folder: use all copies of a file"
    )
    annotations: str = setting_field(
        "", "folder or file of the publisher's lists; empty: dataset.root", path=True, datasets=_PUBLISHED
    )
    subset: str = setting_field(
        "",
        "music: solo or duet; others: name of a list to train on; empty: the usual one",
        datasets=("music", "vggsound_instruments", "vggss", "flickr_soundnet"),
    )
    frames_per_second: float = number_field(
        4.0, "frame rate of images that were extracted already, in Hz", above=0.0, datasets=_PUBLISHED
    )
    faces: str = setting_field(
        "opencv",
        "face detector: opencv, or the path of YuNet's weights (ONNX)",
        path=True,
        datasets=("voxceleb2",),
    )
    face_shape: str = choice_field(
        "box", "region of a face: its box, or the ellipse in it", "box", "oval", datasets=("voxceleb2",)
    )
    videos: int = number_field(360, "number of demo videos", low=8, datasets=("demo",))
    video_seconds: float = number_field(10.0, "length of a demo video, in seconds", low=1.0, datasets=("demo",))
    duets: float = number_field(
        0.1, "fraction of demo videos with two sounding objects", low=0.0, high=1.0, datasets=("demo",)
    )
    size: int = number_field(96, "width and height of the demo videos, in pixels", low=32, datasets=("demo",))


@dataclass
class MixtureConfig:
    """How k clips become one sound (paper section 3; `raymix.data.mixing`)."""

    k: int = number_field(2, "clips whose sounds are mixed in training", low=1, high=8)
    seconds: float = number_field(0.96, "length of the sound window, in seconds (the paper: 0.96)", above=0.0)
    second_view: str = choice_field(
        "clip",
        "second view of a sound: another window of the clip, a shifted one, another clip of the video or of its group",
        "clip",
        "jitter",
        "video",
        "group",
    )
    reduction: str = choice_field("sum", "how waveforms are mixed (the paper: sum; its code: mean)", "sum", "mean")
    loudness: str = choice_field(
        "rms", "loudness of each waveform before mixing: scaled to equal RMS, or unchanged", "rms", "none"
    )
    crop: float = number_field(0.8, "smallest fraction of a frame's area that a random crop keeps", low=0.1, high=1.0)
    flip: bool = setting_field(True, "flip frames horizontally at random")


@dataclass
class EncoderConfig:
    width: int = number_field(64, "channels of the first stage (ResNet-18: 64)", low=4, high=512)
    blocks: int = number_field(2, "residual blocks in each stage (ResNet-18: 2)", low=1, high=8)
    stages: int = number_field(4, "residual stages; 3 has a smaller receptive field, for small frames", low=3, high=4)
    image_size: int = number_field(
        224, "side of the square input image, in pixels; a multiple of 16", low=32, high=1024
    )
    weights: str | None = setting_field(
        None, "file with ImageNet weights of torchvision's ResNet-18 (state dict)", path=True
    )


@dataclass
class OptimizerConfig:
    learning_rate: float = number_field(1e-4, "learning rate of Adam", above=0.0, high=1.0)
    weight_decay: float = number_field(5e-4, "weight decay of Adam", low=0.0, high=1.0)
    max_grad_norm: float = number_field(0.0, "largest norm of the gradient; 0: not clipped", low=0.0)


@dataclass
class TrainingConfig:
    batch_size: int = number_field(128, "clips in a batch, over all workers together", low=2)
    epochs: int = number_field(30, "epochs of a trial; the scheduler may stop it earlier", low=1)
    min_updates: int = number_field(
        0, "an epoch passes over the clips again until it has so many updates; 0: once", low=0
    )
    seed: int = number_field(0, "seed of the weights and of the batches", low=0)
    gradient_accumulation_steps: int = number_field(
        1, "pieces in which a batch is computed before one update, to use less memory", low=1
    )
    precision: str = choice_field("fp32", "arithmetic of the networks", "fp32", "bf16")
    channels_last: bool = setting_field(False, "store images channels last, which is faster on most devices")
    compile: bool = setting_field(
        False, "use torch.compile: costs a minute at the start of a trial, pays in long GPU runs"
    )
    frozen_batch_norm: bool = setting_field(False, "keep the BatchNorm statistics that were loaded with the weights")
    sync_batch_norm: bool = setting_field(False, "compute BatchNorm over the clips of all workers")
    num_checkpoints_to_keep: int = number_field(1, "checkpoints that are kept of a finished trial, best first", low=1)


@dataclass
class EvaluationConfig:
    protocol: str = setting_field("raymix-1", "protocol of the scores: raymix-1, mixloc-multi, lvs, ... (see README)")
    scenes: int = number_field(128, "validation scenes that each epoch is scored on", low=8)
    final_scenes: int = number_field(256, "test scenes of the final evaluation", low=8)
    seed: int = number_field(0, "seed of the scenes", low=0)
    pictures: int = number_field(6, "example images that the final evaluation writes (PNG)", low=0, high=64)


@dataclass
class DataConfig:
    cache: str = choice_field(
        "auto",
        "keep decoded clips in Ray's object store, shared by all trials; auto: if they fit",
        "auto",
        "on",
        "off",
    )


@dataclass
class StudyConfig:
    name: str = setting_field("", "name of the study; the same name resumes it")
    dry_run: bool = setting_field(False, "print what would be done and start nothing")
    n_trials: int = number_field(32, "number of trials", low=1)
    extend: int = number_field(0, "trials to add to those that the study has planned so far", low=0)
    seed: int = number_field(0, "seed of the sampler, and of training.seed unless that is given", low=0)
    metric: str = setting_field("val/sounding_accuracy", "metric that trials are ranked by")
    mode: str = choice_field("max", "whether a larger or a smaller metric is better", "max", "min")
    final: int = number_field(1, "best trials that are scored on the test split at the end; 0: none", low=0)


@dataclass
class SearchConfig:
    sampler: str = choice_field("tpe", "Optuna sampler that proposes trials", "tpe", "random", "gp", "cmaes", "grid")
    n_startup_trials: int = number_field(10, "random trials before the sampler fits a model", low=1)
    scheduler: str = choice_field("asha", "scheduler that stops trials early", "asha", "fifo", "median", "pbt")
    grace_period: int = number_field(3, "epochs before which no trial is stopped", low=1)
    reduction_factor: int = number_field(3, "ASHA continues the best 1/reduction of the trials at each rung", low=2)
    repeats: bool = setting_field(
        False,
        "train a point again that is drawn twice, with training.seed + n; false: draw another, end when none is left",
    )


@dataclass
class ClusterConfig:
    """What one slot, the evaluator and the data take of a cluster; how many slots fit is computed from it."""

    workers: Any = field(
        default=1,
        metadata={"workers": True, "help": "DDP workers of a trial: a whole number from 1; train also takes [min,max]"},
    )
    cpus_per_worker: float = number_field(1.0, "CPUs of each worker", above=0.0)
    gpus_per_worker: float = number_field(0.0, "GPUs of each worker; fractions share one GPU", low=0.0)
    placement: str = choice_field(
        "PACK", "placement of a trial's workers over nodes", "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"
    )
    evaluator_cpus: float = number_field(1.0, "CPUs of the process that scores epochs", low=0.0)
    evaluator_gpus: float = number_field(0.0, "GPUs of the process that scores epochs", low=0.0)
    data_cpus: float = number_field(1.0, "CPUs that read data for each trial, when clips are streamed", low=0.0)
    object_store_share: float = number_field(
        0.5, "largest fraction of a node's object store that cached clips may fill", above=0.0, high=0.9
    )
    slots: int = number_field(0, "trials that run at once; 0: as many as fit", low=0)
    trials_on: str = setting_field("head", "nodes of the trial processes: head, or a custom resource of the nodes")
    cpus: int = number_field(0, "CPUs of a cluster that raymix starts itself; 0: all of the machine", low=0)
    object_store_gib: float = number_field(
        0.0, "object store of a cluster that raymix starts itself, in GiB; 0: Ray's default", low=0.0
    )
    dashboard: bool = setting_field(True, "start Ray's dashboard, which Ray Train uses to clean up after lost workers")

    @property
    def fewest(self) -> int:
        """Workers that a slot needs to run."""
        return min(self.workers) if isinstance(self.workers, list) else int(self.workers)

    @property
    def most(self) -> int:
        """The largest number of workers of a slot."""
        return max(self.workers) if isinstance(self.workers, list) else int(self.workers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows what the cluster has."""
        return self.fewest < self.most


HOME_HELP = "folder or URI (s3://, gs://) of clips, studies and checkpoints; default: $RAYMIX_HOME, else ~/raymix"


@dataclass
class TrainConfig:
    """One training run: what a checkpoint carries, whole."""

    home: str = setting_field("", HOME_HELP, path=True)
    recipe: str = setting_field("", "recipe that these settings began with")
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    method: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    study: StudyConfig = field(default_factory=StudyConfig)


@dataclass
class TuneConfig(TrainConfig):
    search: SearchConfig = field(default_factory=SearchConfig)
    search_spaces: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, Any] = field(
        default_factory=dict, metadata=describe_field("ranges of the recipe, for spaces that say recipe_ranges: true")
    )


@dataclass
class CompareConfig(TuneConfig):
    systems: list[str] = field(
        default_factory=list, metadata=describe_field("methods to compare, for instance [cycle,ots]")
    )
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata=describe_field("seeds; each system gets one study for each of them")
    )
    space: dict[str, Any] = field(default_factory=dict)  # searched by all systems alike


@dataclass
class PrepareConfig:
    home: str = setting_field("", HOME_HELP, path=True)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    layouts: list[str] = field(
        default_factory=list,
        metadata=describe_field(
            "layouts of fixed evaluation scenes to write: single, hconcat, hconcat3, grid2x2, natural, ..."
        ),
    )
    pair_lists: list[str] = field(
        default_factory=list,
        metadata=describe_field("published lists of scenes (CSV, Parquet) to write likewise", path=True),
    )
    split: str = choice_field("test", "split that the scenes are made of", "test", "val")
    scenes: int = number_field(256, "scenes of each layout, at most", low=1)
    seed: int = number_field(0, "seed of the scenes, and of the clips that inspect= shows", low=0)
    inspect: str = setting_field("", "prepared dataset to draw contact sheets of; nothing is prepared then", path=True)
    output: str | None = setting_field(
        None, "folder for the contact sheets; default: inspect/ in the dataset", path=True
    )
    pictures: int = number_field(12, "clips on each contact sheet", low=1, high=48)


@dataclass
class EvaluateConfig:
    home: str = setting_field("", HOME_HELP, path=True)
    study: str = setting_field("", "name, folder or URI of the study", path=True)
    top: int = number_field(1, "number of best trials to score", low=1)
    checkpoint: str | None = setting_field(None, "score this one checkpoint instead (folder or URI)", path=True)
    store: bool = setting_field(False, "also write the raw heatmaps of the scored checkpoints")
    split: str = choice_field("test", "split to score on; val repeats what the search measured", "test", "val")
    output: str | None = setting_field(None, "folder or URI of the results; default: a folder of the study", path=True)
    scenes: int | None = setting_field(None, "number of scenes; default: the study's, else 256, of a list all")
    pictures: int | None = setting_field(None, "example images to write; default: the study's evaluation.pictures")
    predictions: str = setting_field("", "score this file of predictions (Parquet, NPZ) instead", path=True)
    export: str = setting_field("", "write the scenes to this folder instead: frames, sound, ground truth", path=True)
    compare: list[str] = field(
        default_factory=list,
        metadata=describe_field(
            "two results to compare: FILE or FOLDER, FILE#SYSTEM for one of several systems", path=True
        ),
    )
    tables: list[int] = field(
        default_factory=list, metadata=describe_field("tables of the paper to fill, 1 to 3, from a study or comparison")
    )
    figures: list[int] = field(
        default_factory=list, metadata=describe_field("figures of the paper to draw, 3 to 9, likewise")
    )
    comparison: str = setting_field(
        "", "name or folder of a comparison (raymix compare); NAME,NAME for several datasets"
    )
    prepared: str = setting_field("", "folder of the prepared clips; default: the study's", path=True)
    layout: str | None = setting_field(None, "single, hconcat, vconcat, grid2x2, solo2x2 or natural; default: hconcat")
    sources: int | None = number_field(None, "sounding panels of hconcat, vconcat, natural; default: 2", low=1, high=4)
    pair_list: str = setting_field("", "CSV or Parquet file that names the clips of each scene", path=True)
    seed: int | None = number_field(None, "seed of the drawn scenes; default: the study's, else 0", low=0)
    image_size: int | None = number_field(
        None, "side of a panel, in pixels; default: the study's, else 224", low=16, high=1024
    )
    seconds: float | None = number_field(
        None, "length of the sound, in seconds; default: the study's, else 0.96", above=0.0
    )
    rule: str | None = choice_field(None, "how waveforms are mixed; default: the study's, else sum", "sum", "mean")
    level: str | None = choice_field(None, "loudness before mixing; default: the study's, else rms", "rms", "none")
    protocol: str | None = setting_field(None, "protocol of the scores; default: the study's, else raymix-1")
    protocols: list[str] = field(
        default_factory=list, metadata=describe_field("score the same heatmaps under several protocols: names, or all")
    )
