"""VGGSound under both of its localisation sets (section 4.1): its list, its ids, its media and the clock of its clips.

A row of `vggsound.csv` is `YouTube id,start second,label,train or test`, without a header; a clip is the ten seconds
from there and is called `ID_000032`. Its medium is that cut clip (`ID_000032.mp4`), the whole video (`ID.mp4`), or pictures
and sound (`frames/ID_000032.jpg` or `frames/ID_000032/*.jpg`, and `audio/ID_000032.wav`). Times in rows are seconds of the
ten, whatever the medium is, so that its clips are called the same: what is annotated is the middle.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import av
from av.error import FFmpegError
from pyarrow import fs

from raymix.config import DatasetConfig, did_you_mean
from raymix.data.extraction.clips import extract_clips
from raymix.data.extraction.frames_and_audio import AUDIO_FORMATS
from raymix.data.importers import base
from raymix.data.importers.base import hash_fraction
from raymix.data.importers.media_index import AUDIO_SUFFIXES, MediaFile, MediaIndex
from raymix.data.media import IMAGE_SUFFIXES, ManifestRow, MediaSource
from raymix.data.records import ClipRecord
from raymix.runtime.storage import list_files, read_bytes, resolve_uri, split_uri

SECONDS, MIDDLE_S = 10.0, 5.0

BEFORE_S, AFTER_S = 1.0, 1e-3  # the frame on the screen at a time began before it

VGGSOUND_CSV, VGGSS_JSON = "vggsound.csv", "vggss.json"

CLIP_ID = re.compile(r"[\w-]{11}_\d{6}")

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class VGGSoundRow:
    """A clip as VGGSound lists it."""

    youtube: str
    start: int  # s
    label: str
    split: str  # train or test
    repairs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.youtube}_{self.start:06d}"


class VGGSoundFiles:
    """The publisher's files: the one that `dataset.annotations` names, or those of that folder (by default of the root)."""

    def __init__(self, settings: DatasetConfig, media: MediaIndex) -> None:
        self.place, self.alone = settings.annotations or settings.root, ""
        self.files = sorted(media.files)
        if not settings.annotations:
            return
        filesystem, path = resolve_uri(settings.annotations)
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise ValueError(f"dataset.annotations='{settings.annotations}': no such file or folder")
        if kind == fs.FileType.File:
            self.place, self.alone = split_uri(settings.annotations)
            self.files = [self.alone]
        else:
            self.files = sorted(list_files(filesystem, path))

    def uri(self, file: str) -> str:
        return f"{self.place.rstrip('/')}/{file}" if self.place else file

    def find(self, name: str) -> str:
        """Where the list of this name is, in whatever folder and case; '' if it is not there."""
        if self.alone and self.alone.lower().endswith(f".{name.rpartition('.')[2]}"):
            return self.uri(self.alone)  # it was named, so it may be called anything
        found = [file for file in self.files if file.rpartition("/")[2].lower() == name]
        return self.uri(found[0]) if found else ""

    def need(self, name: str, what: str) -> str:
        """The same; ValueError where it is not there."""
        if found := self.find(name):
            return found
        if self.alone:
            raise ValueError(
                f"dataset.annotations={self.uri(self.alone)}: is a file, and not {name} ({what}); name the folder of the lists"
            )
        ending = f".{name.rpartition('.')[2]}"
        near = sorted({file.rpartition("/")[2] for file in self.files if file.lower().endswith(ending)})
        raise ValueError(
            f"{self.place}: no {name} below it ({what}){did_you_mean(name, near)}; see dataset.annotations"
        )


def read_vggsound_csv(uri: str) -> dict[str, VGGSoundRow]:
    """The rows of `vggsound.csv` by id, the first where an id is there twice; ValueError naming the line that is wrong."""
    found: dict[str, VGGSoundRow] = {}
    reader = csv.reader(io.StringIO(base.read_list_text(uri), newline=""), skipinitialspace=True)
    try:
        for cells in reader:
            if cells:
                row = _row(cells, f"{uri}, line {reader.line_num}")
                first = found.setdefault(row.id, row)
                if first.split != row.split:
                    raise ValueError(f"{uri}, line {reader.line_num}: {row.id} is in train and in test")
                if first.label != row.label:
                    again = f"listed again as {row.label}, kept as {first.label}"
                    found[row.id] = replace(first, repairs=(*first.repairs, again))
    except csv.Error as error:
        raise ValueError(f"{uri}, line {reader.line_num}: not CSV ({error})") from error
    if not found:
        raise ValueError(f"{uri}: a list without a row")
    return found


def _row(cells: list[str], where: str) -> VGGSoundRow:
    wrong = ""
    if len(cells) != 4:
        wrong = f"{len(cells)} columns"
    elif not re.fullmatch(r"[\w-]{11}", cells[0]):
        wrong = f"'{cells[0]}' is no YouTube id"
    elif not re.fullmatch(r"\d{1,6}", cells[1]):
        wrong = f"'{cells[1]}' is no start second"
    elif cells[3] not in ("train", "test"):
        wrong = f"'{cells[3]}' is neither train nor test"
    if wrong:
        rule = "YouTube id,start second,label,train or test, without a header"
        raise ValueError(f"{where}: {wrong}; a row of VGGSound is {rule}, found {','.join(cells)[:80]}")
    return VGGSoundRow(cells[0], int(cells[1]), cells[2], cells[3])


def read_id_list(lists: VGGSoundFiles, subset: str) -> dict[str, str]:
    """The ids of the user's own list, `subset`.txt with `id` or `id,class` in a line, and their classes ('')."""
    texts = {file.rpartition("/")[2].removesuffix(".txt"): file for file in lists.files if file.endswith(".txt")}
    if subset not in texts:
        raise ValueError(
            f"dataset.subset={subset}: no {subset}.txt below {lists.place}{did_you_mean(subset, list(texts))}"
        )
    uri, found = lists.uri(texts[subset]), dict[str, str]()
    for number, line in enumerate(base.read_list_text(uri).splitlines(), 1):
        name, _, label = line.partition(",")
        if line.strip() and not CLIP_ID.fullmatch(name.strip()):
            raise ValueError(f"{uri}, line {number}: '{line[:60]}' is no id of a clip, such as zpWuikVorYg_000032")
        if line.strip():
            found[name.strip()] = label.strip()
    return found


def training_sources(
    settings: DatasetConfig,
    media: MediaIndex,
    ids: Iterable[str],
    labels: dict[str, str],
    held: dict[str, str],
    rows: Mapping[str, VGGSoundRow],
) -> Iterator[MediaSource]:
    """Clips to train on and, by the hash of their YouTube video, for validation.

    `held` says of a YouTube video that something is tested on where it is listed: its clips are leaked. `rows` are those of
    VGGSound's list, with the repairs of the list.
    """
    for name in ids:
        source, place = source_without_split(media, name), held.get(name[:11], "")
        split = "val" if hash_fraction(settings.seed, name[:11]) < settings.val else "train"
        refused = source.refused
        if place and not settings.allow_leaks:
            split, refused = "", ("leaked", f"listed for training, and its YouTube video is in {place}")
        at = (MIDDLE_S,) if _still(source) else ()  # a picture alone is of one time
        repairs = (*source.repairs, *(rows[name].repairs if name in rows else ()))
        class_labels = (labels[name],) if labels[name] else ()
        yield replace(source, split=split, labels=class_labels, at=at, repairs=repairs, refused=refused)


def excluded_sources(media: MediaIndex, ids: Iterable[str], why: str) -> Iterator[MediaSource]:
    """Clips of VGGSound's test split that nothing is done with: a row of the manifest each."""
    for name in ids:
        yield replace(source_without_split(media, name), refused=("unlisted", f"in VGGSound's test split, {why}"))


def source_without_split(media: MediaIndex, name: str) -> MediaSource:
    """A clip where it is below the root, of no split yet; two clips of a YouTube video are one group."""
    youtube, start = name[:11], int(name[12:])
    span = None
    found = media.find(name, f"{youtube}_{start}", f"{youtube}_{start}_{start + round(SECONDS)}")
    if not (found and found.size_bytes > 0) and (whole := media.find(youtube)) is not None:
        found, span = whole, (float(start), start + SECONDS)
    return replace(_of(found, name), group=youtube, span=span)


def find_source(media: MediaIndex, name: str) -> MediaSource:
    """The medium of this name as a source of no split yet, known to be missing where there is none."""
    return _of(media.find(name), name)


def _of(found: MediaFile | None, name: str) -> MediaSource:
    if found is None:
        return MediaSource(name, "", id=name, refused=("missing", "listed, but not below dataset.root"))
    return MediaSource(found.path, "", found.size_bytes, sound=found.sound, id=name, repairs=found.doubts)


def middle_frame_source(source: MediaSource) -> MediaSource:
    """The clip around its middle, which is the frame that was annotated."""
    return replace(source, at=((source.span[0] if source.span else 0.0) + MIDDLE_S,))


def check_media_found(settings: DatasetConfig, media: MediaIndex, sources: list[MediaSource]) -> list[MediaSource]:
    """The sources themselves; ValueError where the root holds none of them."""
    if not any(source.size_bytes >= 0 for source in sources):
        name = sources[0].name
        packed = next((file for file in media.files if file.lower().endswith(ARCHIVES)), "")
        other = f"; unpack {packed} first" if packed else f" among {len(media)} media" if len(media) else ""
        raise ValueError(
            f"dataset.root='{settings.root}': none of the {len(sources)} listed clips is below it{other}; needed are "
            f"files such as {name}.mp4, or frames/{name}.jpg with audio/{name}.wav"
        )
    return sources


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one source on the clock of its ten seconds; what is annotated holds for the frame of the middle."""
    middle_s, late_s = source.at[0] if source.at else 0.0, -source.span[0] if source.span else 0.0
    if source.at and _still(source) and not source.span and source.size_bytes > 0:
        middle_s = _length(settings, source) / 2  # of however much there is
        late_s = MIDDLE_S - middle_s
    if source.at:
        times = {"from_s": middle_s - BEFORE_S, "to_s": middle_s + AFTER_S}
        source = replace(source, at=(middle_s,), regions=tuple(region | times for region in source.regions))
    for clip in extract_clips(settings, source, entry):
        start_s = round(clip.start_s + late_s, 6)
        yield replace(
            clip,
            clip_id=f"{settings.name}:{source.video_name}:{round(start_s * 1000)}",
            start_s=start_s,
            frame_times=[round(time_s + late_s, 6) for time_s in clip.frame_times],
        )


def _still(source: MediaSource) -> bool:
    return source.path.lower().endswith(IMAGE_SUFFIXES)


def _length(settings: DatasetConfig, source: MediaSource) -> float:
    """Seconds of a sound file by its own word; the usual ten where it does not say, or is none."""
    if not source.sound.lower().endswith(AUDIO_SUFFIXES):
        return SECONDS  # a folder of pieces
    filesystem, base = resolve_uri(settings.root)
    content = io.BytesIO(read_bytes(filesystem, f"{base}/{source.sound}"))
    try:
        with av.open(content, "r", options={"format_whitelist": AUDIO_FORMATS}) as container:
            return SECONDS if container.duration is None else float(container.duration / av.time_base)
    except (FFmpegError, ValueError):
        return SECONDS  # the extraction reports what is wrong with it
