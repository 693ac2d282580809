"""The files that source= names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.data import s3
from emotion_lab.video.batch.base import FileItem
from emotion_lab.video.batch.listing import chunks, is_many, list_files, save_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    for name in ("c.JPG", "a.mp4", "b/d.png", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def names(items: list[FileItem]) -> list[str]:
    return [item.name for item in items]


def test_folder(folder: Path) -> None:
    items, notes = list_files(str(folder))
    assert names(items) == ["a.mp4", "b/d.png", "c.JPG"]
    assert items[1].path == str(folder / "b" / "d.png")
    assert any("hidden" in note for note in notes)
    assert "left out 1, neither photo nor clip: notes.txt" in notes


def test_glob(folder: Path) -> None:
    items, _ = list_files(str(folder / "**" / "*.*g"))
    assert names(items) == [str(folder / "b" / "d.png")]
    assert names(list_files(str(folder / "*.mp4"))[0]) == [str(folder / "a.mp4")]


def test_list_is_relative_to_its_folder(folder: Path) -> None:
    file = folder / "list.txt"
    file.write_text(f"# clips\na.mp4\n\nb/d.png\na.mp4\n{folder / 'c.JPG'}\ns3://bucket/x.jpg\n")
    items, _ = list_files(str(file))
    assert names(items) == ["a.mp4", "b/d.png", str(folder / "c.JPG"), "s3://bucket/x.jpg"]
    assert items[0].path == str(folder / "a.mp4")


def test_missing_file_of_a_list(folder: Path) -> None:
    file = folder / "list.txt"
    file.write_text("a.mp4\nnone.mp4\n")
    with pytest.raises(UserError, match=r"1 file does not exist \(line 2: none.mp4\)"):
        list_files(str(file))


@pytest.mark.parametrize("source", ["nowhere/*.jpg", "none.txt", "FOLDER/b/*.mp4"])
def test_nothing_found(folder: Path, source: str) -> None:
    with pytest.raises(UserError, match="source="):
        list_files(source.replace("FOLDER", str(folder)))


def test_is_many(folder: Path) -> None:
    odd = folder / "clip [1].mp4"
    odd.touch()
    assert not is_many(str(odd))
    assert not is_many(str(folder / "a.mp4"))
    for source in (folder, folder / "*.jpg", "list.txt", "s3://bucket/prefix"):
        assert is_many(str(source))


class FakeClient:
    """Answers with one page of keys, or an error."""

    def __init__(self, keys: list[str] | Exception) -> None:
        self.keys = keys

    def get_paginator(self, name: str) -> FakeClient:
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        if isinstance(self.keys, Exception):
            raise self.keys
        assert arguments == {"Bucket": "bucket", "Prefix": "clips"}
        return [{"Contents": [{"Key": key} for key in self.keys]}, {}]


def test_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["clips/a.mp4", "clips/b.jpg", "clips/c.csv", "clips/.x.jpg"]
    monkeypatch.setattr(s3, "s3_client", lambda: FakeClient(keys))
    items, notes = list_files("s3://bucket/clips")
    assert names(items) == ["s3://bucket/clips/a.mp4", "s3://bucket/clips/b.jpg"]
    assert notes == ["left out 1, neither photo nor clip: s3://bucket/clips/c.csv"]


def test_bucket_without_access(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("An error occurred (AccessDenied): Access\nDenied")
    monkeypatch.setattr(s3, "s3_client", lambda: FakeClient(error))
    with pytest.raises(UserError, match=r"Cannot read s3://bucket/clips: .*AccessDenied") as caught:
        list_files("s3://bucket/clips")
    assert "\n" not in str(caught.value)


def test_chunks() -> None:
    items = [FileItem(name, name) for name in ("a.jpg", "b.mp4", "c.png", "d.jpg")]
    assert [names(list(chunk)) for chunk in chunks(items, photos=2)] == [
        ["b.mp4"],
        ["a.jpg", "c.png"],
        ["d.jpg"],
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("/a/b.jpg", "a/b.jpg"),
        ("../b.jpg", "b.jpg"),
        ("s3://bucket/b.jpg", "bucket/b.jpg"),
    ],
)
def test_save_name(name: str, expected: str) -> None:
    assert save_name(name) == Path(expected)
