"""`prepare` beside the straightforward way: an ffmpeg command per file, then Python that reads what it wrote.

    python tests/benchmarks/prepare_speed.py                      200 films of 10 s in 720p, about 8 minutes on two slow cores
    python tests/benchmarks/prepare_speed.py --many 1000          and memory at 1,000 films, about as long again
    python tests/benchmarks/prepare_speed.py --films 8 --kinds 2  does it run at all?

The films are H.264 as sites hand it out (B-frames, a key frame every 250 frames or at a cut, AAC); a few kinds are encoded
and then copied. Both ways fill the same number of cores with single-threaded work and end with the same frames (one per 3 s,
256 px JPEG) and STFTs in Parquet. Only ratios within one run count: wall clock, start of Ray included, and seconds of CPU.
Exit code 1 where `prepare` handles less than 1.5 times as many films per second, or memory grows with their number.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HOUSE = Path(__file__).resolve().parents[2]
SECONDS, WIDE, HIGH = 10, 1280, 720
KINDS = [(25, 44_100), (30, 48_000), (25, 48_000), (30, 44_100)]  # frames and samples a second
FASTER, GROWTH = 1.5, 1.1
CLIP_S, SHORT = 3.0, 256


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--many", type=int, default=0, help="also the memory of preparing so many")
    parser.add_argument("--kinds", type=int, default=8, help="encodings; the other films are copies")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "raymix-prepare-speed")
    return parser.parse_args()


def ffmpeg() -> str:
    """The ffmpeg to race against: that of the PATH, or of the wheel imageio-ffmpeg."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        sys.exit("prepare_speed: no ffmpeg on the PATH; pip install imageio-ffmpeg brings one")
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def cloud(rng: np.random.Generator, high: int, wide: int, strength: float) -> np.ndarray:
    """A texture of five scales around 120."""
    field = np.full((high, wide), 120.0, np.float32)
    for cells in (4, 9, 20, 60, 200):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        rows, columns = (np.linspace(0, cells - 1.001, n) for n in (high, wide))
        y, x = rows.astype(int), columns.astype(int)
        v, u = (rows - y)[:, None].astype(np.float32), (columns - x).astype(np.float32)
        top = grid[y][:, x] * (1 - u) + grid[y][:, x + 1] * u
        field += strength / cells**0.3 * (top * (1 - v) + (grid[y + 1][:, x] * (1 - u) + grid[y + 1][:, x + 1] * u) * v)
    return field.clip(16, 235).astype(np.uint8)


def scene(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Frames (yuv420p planes stacked) of a hand-held view: a slow pan, two things that move over it, grain."""
    back, grain = cloud(rng, HIGH + 200, WIDE + 400, 60), rng.normal(0, 2, (HIGH + 64, WIDE)).astype(np.int16)
    colour = [cloud(rng, HIGH // 2 + 100, WIDE // 2 + 200, 25) for _ in range(2)]
    things = [(cloud(rng, side, side, 80), rng.uniform(0.5, 3, 2), rng.uniform(0, 6, 2)) for side in (240, 160)]
    frames = []
    for number in range(count):
        top, left = (int(100 + 95 * np.sin(number / 60 + 1)), int(200 + 190 * np.sin(number / 90)))
        luma = back[top : top + HIGH, left : left + WIDE].astype(np.int16)
        for picture, pace, phase in things:
            side = len(picture)
            y, x = (
                int((span - side) * (0.5 + 0.5 * np.sin(number / 25 * p + f)))
                for span, p, f in zip((HIGH, WIDE), pace, phase, strict=True)
            )
            luma[y : y + side, x : x + side] = picture
        luma += grain[int(rng.integers(64)) :][:HIGH]
        half = [plane[top // 2 :, left // 2 :][: HIGH // 2, : WIDE // 2].reshape(-1, WIDE) for plane in colour]
        frames.append(np.concatenate([luma.clip(16, 235).astype(np.uint8), *half]))
    return frames


def encode(path: Path, kind: int) -> None:
    """One film: two scenes with a cut between them, and a tone in noise."""
    rng, (fps, rate) = np.random.default_rng(kind), KINDS[kind % len(KINDS)]
    cut = int(rng.integers(2, SECONDS - 1)) * fps if kind % 2 else SECONDS * fps
    frames = scene(rng, cut) + (scene(rng, SECONDS * fps - cut) if cut < SECONDS * fps else [])
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "medium", "crf": "23", "g": "250"})
        video.width, video.height, video.pix_fmt = WIDE, HIGH, "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="stereo")
        audio.bit_rate = 128_000
        packets = []
        for number, planes in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            packets += video.encode(frame)
        times = np.arange(SECONDS * rate) / rate
        wave = 0.2 * np.sin(2 * np.pi * 300 * times * (1 + 0.01 * np.sin(times))) + rng.normal(0, 0.05, (2, len(times)))
        for at in range(0, len(times), 1024):
            sound = av.AudioFrame.from_ndarray(
                wave[:, at : at + 1024].astype(np.float32), format="fltp", layout="stereo"
            )
            sound.sample_rate, sound.pts = rate, at
            packets += audio.encode(sound)
        for packet in packets + video.encode(None) + audio.encode(None):
            container.mux(packet)


def films(folder: Path, kinds: int, count: int) -> Path:
    """A folder of so many films, made once; no two are the same file (a box that players pass over tells them apart)."""
    masters, made = folder / "kinds", folder / f"films-{kinds}-{count}"
    masters.mkdir(parents=True, exist_ok=True)
    lacking = [kind for kind in range(kinds) if not (masters / f"{kind}.mp4").exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_master, [masters / f"{kind}.mp4" for kind in lacking], lacking))
    for number in range(count):
        path = made / f"class-{number % 10}" / f"film-{number:05d}.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            extra = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
            path.write_bytes((masters / f"{number % kinds}.mp4").read_bytes() + extra)
    return made


def _master(path: Path, kind: int) -> None:
    encode(path.with_suffix(".part"), kind)
    path.with_suffix(".part").rename(path)


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds by the clock, seconds of CPU and the peak memory (MiB) of all its processes."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    rows: int


def measured(command: list[str], rows: Callable[[], int]) -> Cost:
    """Runs a command to its end and to that of all processes that it leaves behind."""
    before, started, peak, over = os.times(), time.monotonic(), [0.0], threading.Event()
    process = subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watcher = threading.Thread(target=_watch, args=(peak, over))
    watcher.start()
    said = process.stdout.read() if process.stdout else ""
    process.wait()
    wall = time.monotonic() - started
    while True:
        try:
            os.waitpid(-1, 0)  # orphans come to us, see `adopt`
        except ChildProcessError:
            break
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"prepare_speed: {' '.join(command)} ended with {process.returncode}:\n{said}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, cpu, peak[0], rows())


def adopt() -> None:
    """Processes that lose their parent become children of this one, so that their seconds of CPU are counted (Linux)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _watch(peak: list[float], over: threading.Event) -> None:
    while not over.wait(0.5):
        peak[0] = max(peak[0], _tree_mib())


def _tree_mib() -> float:
    """Memory of all processes below this one that is no file's; what they share counts once."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    below, front = set[int](), {os.getpid()}
    while front := {pid for pid, parent in parents.items() if parent in front}:
        below |= front
    total = 0
    for pid in below:
        try:
            told = Path(
                f"/proc/{pid}/smaps_rollup"
            ).read_text()  # files' pages: libraries, shared with others' processes
        except OSError:
            continue
        total += sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", told, re.M)))
    return total / 1024


def straightforward(root: Path, out: Path, cores: int, program: str) -> None:
    """The other way: per file a command that writes pictures and a WAV, then Python from these to Parquet."""
    from raymix.data.records import clip_schema

    out.mkdir(parents=True)
    batch, number = list[dict[str, Any]](), 0
    with ProcessPoolExecutor(cores) as pool:
        for rows in pool.map(functools.partial(_by_command, program), sorted(root.rglob("*.mp4")), chunksize=4):
            batch += rows
            if len(batch) >= 128:
                _write(out / f"{number:05d}.parquet", batch, clip_schema())
                batch, number = [], number + 1
    _write(out / f"{number:05d}.parquet", batch, clip_schema())


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _by_command(program: str, path: Path) -> list[dict[str, Any]]:
    import torch

    from raymix.data.audio import stft

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as aside:
        pictures = ["-vf", f"fps=1/{CLIP_S:g},scale=-2:{SHORT}", "-q:v", "2", f"{aside}/%d.jpg"]
        sound = ["-ac", "1", "-ar", "16000", f"{aside}/sound.wav"]
        subprocess.run([program, "-v", "error", "-threads", "1", "-i", str(path), *pictures, *sound], check=True)
        with wave.open(f"{aside}/sound.wav") as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        rows, length = [], round(CLIP_S * 16_000)
        for number in range(len(samples) // length):
            spectrum = stft(torch.from_numpy(samples[number * length : (number + 1) * length])[None])[0]
            pairs = torch.view_as_real(spectrum).numpy().astype(np.float16)
            jpeg = Path(f"{aside}/{number + 1}.jpg").read_bytes()
            rows.append(
                {
                    "clip_id": f"{path.stem}:{number}",
                    "dataset": "folder",
                    "split": "train",
                    "video": path.name,
                    "group": path.name,
                    "start_s": number * CLIP_S,
                    "duration_s": CLIP_S,
                    "labels": [],
                    "regions": [],
                    "frames": [{"t_s": (number + 0.5) * CLIP_S, "jpeg": jpeg, "width": 455, "height": SHORT}],
                    "stft": pairs.tobytes(),
                    "stft_frames": pairs.shape[0],
                    "stft_bins": pairs.shape[1],
                    "status": "ok",
                }
            )
    return rows


def prepared(root: Path, out: Path, cores: int) -> Cost:
    chosen = {"dataset": "folder", "dataset.root": root, "dataset.prepared": out, "cluster.cpus": cores}
    words = [f"{name}={value}" for name, value in {**chosen, "dataset.allow_leaks": "true"}.items()]
    return measured([sys.executable, "-m", "raymix.prepare", *words], lambda: _rows(out))


def _rows(folder: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*-?????*.parquet")) or sum(
        pq.read_metadata(path).num_rows for path in folder.glob("?????.parquet")
    )


def tell(name: str, count: int, cost: Cost) -> None:
    print(
        f"{name:28} {count:5d} films {cost.wall_s:7.1f} s {count / cost.wall_s:6.2f} films/s"
        f" {cost.cpu_s:7.1f} s of CPU {cost.peak_mib:6.0f} MiB {cost.rows:5d} rows",
        flush=True,
    )


def main() -> int:
    if sys.argv[1:2] == ["straightforward"]:
        straightforward(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
        return 0
    chosen, program = settings(), ffmpeg()
    adopt()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(HOUSE))
    root, wrong = films(chosen.folder, chosen.kinds, chosen.films), list[str]()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as aside:
        words = ["straightforward", str(root), f"{aside}/theirs", str(chosen.cores), program]
        theirs = measured([sys.executable, __file__, *words], lambda: _rows(Path(aside) / "theirs"))
        tell("ffmpeg per file, then Python", chosen.films, theirs)
        ours = prepared(root, Path(aside) / "ours", chosen.cores)
        tell("raymix.prepare", chosen.films, ours)
        faster = theirs.wall_s / ours.wall_s
        print(
            f"prepare: {faster:.2f} times as many films a second, {theirs.cpu_s / ours.cpu_s:.2f} times as many a CPU-second"
        )
        if ours.rows != theirs.rows or faster < FASTER:
            wrong.append(f"{faster:.2f} times as many films a second, {FASTER} wanted; {ours.rows}, {theirs.rows} rows")
        if chosen.many:
            many = prepared(films(chosen.folder, chosen.kinds, chosen.many), Path(aside) / "many", chosen.cores)
            tell("raymix.prepare", chosen.many, many)
            print(f"prepare: peak memory {many.peak_mib / ours.peak_mib:.2f} times that of {chosen.films} films")
            if many.peak_mib > GROWTH * ours.peak_mib:
                wrong.append("memory grows with the number of films")
    for line in wrong:
        print(f"prepare_speed: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
