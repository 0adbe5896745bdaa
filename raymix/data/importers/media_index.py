"""Finding the media file of an id below a root: a video, or image files and an audio file.

any/folders/ID.mp4                                a video (mkv, webm, mov, avi too): whole, or a cut clip
any/folders/ID/anything/000001.jpg + ID/any.wav   pictures of a video and its sound below one folder
ID/frames/000001.jpg + ID/audio/audio_clips/000.wav, 001.wav ...   the same, the sound in pieces (the paper's own code)
any/ID/frame_000/00000.jpg + any/ID.flac          pictures in a folder for each second (DSOL's code)
frames/ID/000001.jpg + audio/ID.wav               the same, in two trees
frames/ID.jpg + audio/ID.wav                      one picture and its sound

Of several files of a name the empty ones come last, and pictures in a folder called frames first; what lies in folders of
annotations or masks is no frame. Where two different ones are left the first path is taken, and `doubts` names both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from raymix.data.media import IMAGE_SUFFIXES, SECOND_FOLDER, VIDEO_SUFFIXES, normalize_path
from raymix.runtime.storage import list_broken_links, list_files, resolve_uri

MEDIA_SUFFIXES = VIDEO_SUFFIXES

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")

FRAMES_FOLDER = "frames"

ANNOTATION_FOLDERS = frozenset(("annotation", "annotations", "anno", "mask", "masks"))  # folders, in any case


@dataclass(frozen=True)
class MediaFile:
    """A medium below the root: its path, that of its sound where it has one (a file, or a folder of pieces), its size."""

    path: str
    size_bytes: int  # -1: a link to nothing
    sound: str = ""
    doubts: tuple[str, ...] = ()  # other files that have its name


class MediaIndex:
    """All media below `dataset.root`, by name; ValueError where there is no such folder."""

    def __init__(self, root: str) -> None:
        filesystem, path = resolve_uri(root) if root else (None, "")
        if filesystem is None or filesystem.get_file_info(path).type != fs.FileType.Directory:
            raise ValueError(f"dataset.root='{root}': no such folder; name the folder of your videos")
        found = list_files(filesystem, path)
        self.files = {name: found[name] for name in found if not _is_hidden(name)}
        self._videos: dict[str, list[str]] = defaultdict(list)
        self._sounds: dict[str, list[str]] = defaultdict(list)
        self._stills: dict[str, list[str]] = defaultdict(list)
        self._folders: dict[str, set[str]] = defaultdict(set)  # of pictures, by each folder above them
        self._heard: dict[str, list[str]] = defaultdict(list)  # sounds by each folder above them
        self._bytes: dict[str, int] = defaultdict(int)  # of pictures, by their folder
        for name in sorted(self.files):
            self._add(PurePosixPath(normalize_path(name)), name)
        links = [PurePosixPath(name) for name in sorted(list_broken_links(filesystem, path)) if not _is_hidden(name)]
        self._links = {normalize_path(link.stem): str(link) for link in links if link.suffix.lower() in MEDIA_SUFFIXES}

    def _add(self, path: PurePosixPath, name: str) -> None:
        suffix, above = path.suffix.lower(), path.parts[:-1]
        if suffix in MEDIA_SUFFIXES:
            self._videos[path.stem].append(name)
        elif suffix in AUDIO_SUFFIXES:
            self._sounds[path.stem].append(name)
            for part in above:
                self._heard[part].append(name)
        elif suffix in IMAGE_SUFFIXES and not is_mask_path(name):
            folder = name.rpartition("/")[0]
            self._stills[path.stem].append(name)
            self._bytes[folder] += self.files[name]
            for part in above:
                self._folders[part].add(folder)

    def __len__(self) -> int:
        return len(self._videos) + len(self._sounds)

    def find(self, *names: str) -> MediaFile | None:
        """The medium that has one of these names, the first that is there: a video before what was taken apart.

        An empty one only where there is no other, and a link to nothing where there is none at all.
        """
        found = [each for name in map(normalize_path, names) if (each := self._video(name))]
        found += [each for name in map(normalize_path, names) if (each := self._apart(name))]
        found += [MediaFile(self._links[name], -1) for name in map(normalize_path, names) if name in self._links]
        return next((each for each in found if each.size_bytes > 0), found[0] if found else None)

    def _video(self, name: str) -> MediaFile | None:
        path, doubts = choose_path(self._of(self._videos.get(name, ())))
        return MediaFile(path, self.files[path], doubts=doubts) if path else None

    def _apart(self, name: str) -> MediaFile | None:
        folders = _above({folder: self._bytes[folder] for folder in self._folders.get(name, ())})
        picture, doubts = choose_path(folders or self._of(self._stills.get(name, ())))
        sound, size, more = self._sound(name)
        return MediaFile(picture, size, sound, (*doubts, *more)) if picture and sound else None

    def still(self, name: str) -> MediaFile | None:
        """The single picture of this name with its sound, which may be in an MP4; None where either is missing."""
        picture, doubts = choose_path(self._of(self._stills.get(normalize_path(name), ())))
        videos = [
            path for path in self._videos.get(normalize_path(name), ()) if path.lower().endswith((".mp4", ".mov"))
        ]
        sound, more = choose_path(self._of(self._sounds.get(normalize_path(name)) or videos))
        return MediaFile(picture, self.files[sound], sound, (*doubts, *more)) if picture and sound else None

    def _of(self, paths: Iterable[str]) -> dict[str, int]:
        return {path: self.files[path] for path in paths}

    def _sound(self, name: str) -> tuple[str, int, tuple[str, ...]]:
        """The file that is the sound, or the folder whose files are its pieces, the size of that, and doubts."""
        by_folder = defaultdict[str, list[str]](list)
        for path in self._heard.get(name, ()):
            by_folder[path.rpartition("/")[0]].append(path)
        single = [path for paths in by_folder.values() if len({_stem(path) for path in paths}) == 1 for path in paths]
        sizes = self._of(self._sounds.get(name) or single)
        sizes = sizes or {folder: sum(self._of(paths).values()) for folder, paths in by_folder.items()}
        path, doubts = choose_path(sizes)
        return path, sizes.get(path, 0), doubts

    def below(self, folder: str) -> list[str]:
        """The videos whose path begins with a folder, in order."""
        start = folder.strip("/") + "/" if folder.strip("/") else ""
        return [n for n in sorted(self.files) if n.startswith(start) and n.lower().endswith(MEDIA_SUFFIXES)]


def choose_path(sizes: Mapping[str, int]) -> tuple[str, tuple[str, ...]]:
    """The first path of files or folders of one name, by the rules above, and a note about the others, '' if there are none."""
    ranks = {path: (not size, FRAMES_FOLDER not in path.lower().split("/"), path) for path, size in sizes.items()}
    if not ranks:
        return "", ()
    best = min(ranks, key=ranks.__getitem__)
    equal = [path for path in sorted(ranks) if ranks[path][:2] == ranks[best][:2]]
    other = next((path for path in equal if sizes[path] != sizes[best]), "")  # one of the same size is a copy
    return best, (f"{best} was taken, there is {other} too",) if other else ()


def is_mask_path(path: str) -> bool:
    """Whether a picture lies where annotations do: it is none of a video, whatever its name."""
    return any(part in ANNOTATION_FOLDERS for part in path.lower().split("/")[:-1])


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _above(folders: Mapping[str, int]) -> dict[str, int]:
    """Folders of pictures, or those that hold a folder of them for each second."""
    found = defaultdict[str, int](int)
    for folder, size in folders.items():
        if SECOND_FOLDER.fullmatch(folder.rpartition("/")[2]):
            found[folder.rpartition("/")[0]] += size
    return found or dict(folders)
