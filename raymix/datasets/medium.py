"""Where the medium of an id is below a root, in the forms people have it: a video, or pictures and a sound file.

any/folders/ID.mp4                                a video (mkv, webm, mov, avi too): whole, or a cut clip
any/folders/ID/anything/000001.jpg + ID/any.wav   pictures of a video and its sound below one folder
ID/frames/000001.jpg + ID/audio/audio_clips/000.wav, 001.wav ...   the same, the sound in pieces (the paper's own code)
any/ID/frame_000/00000.jpg + any/ID.flac          pictures in a folder for each second (DSOL's code)
frames/ID/000001.jpg + audio/ID.wav               the same, in two trees
frames/ID.jpg + audio/ID.wav                      one picture and its sound
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from raymix.datasets.extracted import FILMS, PICTURES, SECOND
from raymix.datasets.source import same_name
from raymix.storage import below, resolve

VIDEOS = FILMS
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg")


@dataclass(frozen=True)
class Medium:
    """A medium below the root: its path, that of its sound where it has one (a file, or a folder of pieces), its size."""

    path: str
    size_bytes: int
    sound: str = ""


class Media:
    """All media below `dataset.root`, by name; ValueError where there is no such folder."""

    def __init__(self, root: str) -> None:
        filesystem, path = resolve(root) if root else (None, "")
        if filesystem is None or filesystem.get_file_info(path).type != fs.FileType.Directory:
            raise ValueError(f"dataset.root='{root}': no such folder; name the folder of your videos")
        found = below(filesystem, path)
        self.files = {name: found[name] for name in found if not any(part.startswith(".") for part in name.split("/"))}
        self._videos: dict[str, list[str]] = defaultdict(list)
        self._sounds: dict[str, list[str]] = defaultdict(list)
        self._stills: dict[str, list[str]] = defaultdict(list)
        self._folders: dict[str, set[str]] = defaultdict(set)  # of pictures, by each folder above them
        self._heard: dict[str, list[str]] = defaultdict(list)  # sounds by each folder above them
        for name in sorted(self.files):
            self._add(PurePosixPath(same_name(name)), name)

    def _add(self, path: PurePosixPath, name: str) -> None:
        suffix, above = path.suffix.lower(), path.parts[:-1]
        if suffix in VIDEOS:
            self._videos[path.stem].append(name)
        elif suffix in SOUNDS:
            self._sounds[path.stem].append(name)
            for part in above:
                self._heard[part].append(name)
        elif suffix in PICTURES:
            self._stills[path.stem].append(name)
            for part in above:
                self._folders[part].add(name.rpartition("/")[0])

    def __len__(self) -> int:
        return len(self._videos) + len(self._sounds)

    def find(self, *names: str) -> Medium | None:
        """The medium that has one of these names, the first that is there: a video before what was taken apart."""
        for name in map(same_name, names):
            if found := self._videos.get(name):
                return Medium(found[0], self.files[found[0]])
        for name in map(same_name, names):
            sounds = self._sounds.get(name) or self._heard.get(name)
            pictures = sorted(self._folders.get(name, ())) or self._stills.get(name)
            if sounds and pictures:
                sound, size = self._sound(sounds)
                return Medium(_above(pictures), size, sound)
        return None

    def still(self, name: str) -> Medium | None:
        """The single picture of this name with its sound, which may be in an MP4; None where either is missing."""
        pictures = self._stills.get(same_name(name))
        sounds = self._sounds.get(same_name(name)) or [
            path for path in self._videos.get(same_name(name), ()) if path.lower().endswith((".mp4", ".mov"))
        ]
        return Medium(pictures[0], self.files[sounds[0]], sounds[0]) if pictures and sounds else None

    def _sound(self, names: list[str]) -> tuple[str, int]:
        """The file that is the sound, or the folder whose files are its pieces, and the size of that."""
        by_folder = defaultdict[str, list[str]](list)
        for name in names:
            by_folder[name.rpartition("/")[0]].append(name)
        folder, pieces = min(by_folder.items(), key=lambda each: (len(each[1]) > 1, each[0]))
        return (pieces[0] if len(pieces) == 1 else folder), sum(self.files[name] for name in pieces)

    def below(self, folder: str) -> list[str]:
        """The videos whose path begins with a folder, in order."""
        start = folder.strip("/") + "/" if folder.strip("/") else ""
        return [n for n in sorted(self.files) if n.startswith(start) and n.lower().endswith(VIDEOS)]


def _above(folders: list[str]) -> str:
    """The one folder of pictures, or that which holds a folder of them for each second."""
    apart = len(folders) > 1 and all(SECOND.fullmatch(folder.rpartition("/")[2]) for folder in folders)
    return folders[0].rpartition("/")[0] if apart else folders[0]
