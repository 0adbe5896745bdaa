"""What a job's working directory weighs, by Ray's own ignore rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from raymix import upload
from raymix.config import BadInput
from raymix.upload import Upload


def test_ignore_files_count_as_they_do_for_ray(tmp_path: Path) -> None:
    for name in ("kept.py", "data/clip.parquet", "sub/left.pt", "sub/kept.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".rayignore").write_text("*.pt\n")
    found = upload.of(tmp_path)
    assert set(found.files) == {"kept.py", "sub/kept.txt", ".gitignore", ".rayignore"}
    assert found.files["kept.py"] == 100


def test_small_is_said_large_is_warned_of_too_large_is_refused() -> None:
    assert upload.said(Upload({"a.py": 2_000_000})) == "ray job submit --working-dir . sends 2.0 MB in 1 file"
    many = {f"part-{n}.bin": 3_000_000 + n for n in range(7)}
    warned = upload.said(Upload(many))
    assert "sends 21.0 MB in 7 files, much for a job; .rayignore can leave out" in warned
    assert "part-6.bin (3.0 MB)" in warned and "part-0.bin" not in warned
    with pytest.raises(BadInput, match=r"the working directory has 209\.7 MB.*the largest: video\.mp4 \(209\.7 MB\)"):
        upload.said(Upload({"video.mp4": 200 << 20, "a.py": 10}))
