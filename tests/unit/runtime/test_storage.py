"""Files below a folder: links are followed, none is followed in a circle, and what an object store lists is the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from raymix.data.importers import base
from raymix.runtime.storage import list_broken_links, list_files, resolve_uri, write_atomic


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three files in the tree, one that a link brings in, and links that lead nowhere new."""
    for number, name in enumerate(("x.mp4", "a/y.mp4", "a/b/.z.mp4"), 1):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"z" * number)
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "deep" / "w.mp4").write_bytes(b"other")
    return tmp_path / "in"


FILES = {"x.mp4": 1, "a/y.mp4": 2, "a/b/.z.mp4": 3}


def test_every_file_with_its_size(tree: Path, s3: str) -> None:
    (tree / "empty").mkdir()
    assert list_files(*resolve_uri(str(tree))) == FILES == list_files(*resolve_uri(f"file://{tree}/"))
    filesystem, path = resolve_uri(s3)
    for name, size in FILES.items():
        write_atomic(filesystem, f"{path}/{name}", b"z" * size)
    assert list_files(filesystem, path) == FILES
    text = json.dumps(sorted([f"/{name}", size] for name, size in FILES.items()))  # as datasets of other days have it
    known = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    assert base.listing_hash(s3) == base.listing_hash(str(tree)) == known
    with pytest.raises(FileNotFoundError):
        list_files(*resolve_uri(str(tree / "gone")))


def test_links_are_followed_and_never_in_a_circle(tree: Path) -> None:
    (tree / "linked").symlink_to("../other")
    (tree / "one.mp4").symlink_to("../other/deep/w.mp4")
    found = FILES | {"linked/deep/w.mp4": 5, "one.mp4": 5}
    assert list_files(*resolve_uri(str(tree))) == found
    (tree / "root").symlink_to(tree)
    (tree / "a" / "b" / "up").symlink_to("..")
    (tree.parent / "other" / "back").symlink_to(tree)
    (tree / "itself").symlink_to("itself")
    (tree / "nowhere").symlink_to("gone.mp4")
    assert list_files(*resolve_uri(str(tree))) == found
    assert sorted(list_broken_links(*resolve_uri(str(tree)))) == ["itself", "nowhere"]
    (tree.parent / "name").symlink_to(tree)
    assert list_files(*resolve_uri(str(tree.parent / "name"))) == found


def test_a_folder_that_may_not_be_read_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        list_files(*resolve_uri(str(tree)))
