"""Image sources: orientation, colour modes, folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources.open import open_source
from tests.helpers_sources import read_single_image

pytestmark = pytest.mark.usefixtures("no_capture_threads")


def quadrants() -> np.ndarray:
    """Return uint8 (40, 60, 3): white and red in the top row, green and blue in the bottom row."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20] = 255, 0, 0
    image[:20, :30] = 255
    image[20:, :30] = 0, 255, 0
    image[20:, 30:] = 0, 0, 255
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The stored image is the inverse transform of each orientation (EXIF 2.3, table 6)."""
    upright = quadrants()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_single_image({"source": path}), upright)


def test_16_bit_grey_transparent_and_cmyk_images(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image = read_single_image({"source": tmp_path / "deep.png"})
    assert np.abs(image[..., 1].astype(float) - ramp / 257).max() <= 0.51
    cv2.imwrite(str(tmp_path / "deep_rgb.png"), (quadrants()[..., ::-1].astype(np.uint16) * 257))
    assert np.array_equal(read_single_image({"source": tmp_path / "deep_rgb.png"}), quadrants())

    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(
        read_single_image({"source": tmp_path / "grey.png"}), np.dstack([grey] * 3)
    )

    rgba = np.dstack([quadrants(), np.full((40, 60), 255, np.uint8)])
    rgba[:, 30:, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    image = read_single_image({"source": tmp_path / "rgba.png"})
    assert np.array_equal(image[:, :30], quadrants()[:, :30])
    assert (image[:, 30:] == 128).all()  # transparent pixels are mid-grey

    cmyk = Image.new("CMYK", (20, 10), (0, 255, 255, 0))
    cmyk.save(tmp_path / "print.jpg", quality=95)
    red, green, blue = read_single_image({"source": tmp_path / "print.jpg"}).reshape(-1, 3).mean(0)
    assert red > 240 and green < 15 and blue < 15


def test_8k_image_without_suffix(tmp_path: Path) -> None:
    big = np.full((4320, 7680, 3), 77, np.uint8)
    Image.fromarray(big).save(tmp_path / "no_suffix", format="BMP")
    image = read_single_image({"source": tmp_path / "no_suffix"})
    assert image.shape == big.shape and (image[::500, ::500] == 77).all()


def test_folder_images_are_sorted_and_other_files_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.sub").mkdir()
    for i, name in enumerate(("b/2.png", "b/10.PNG", "a.sub/x.jpg", "z.bmp", "a.png")):
        Image.new("RGB", (10 + i, 8), (i, i, i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "b" / "empty.jpg").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with open_source({"source": tmp_path}) as source:
        assert source.kind == "folder" and source.stills and source.count == 7
        frames = list(source)
    names = ["a.png", "a.sub/x.jpg", "b/10.PNG", "b/2.png", "z.bmp"]
    assert [frame.name for frame in frames] == names
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.image.shape[1] for frame in frames] == [14, 12, 11, 10, 13]
    assert {frame.time_s for frame in frames} == {0.0}
    (line,) = capsys.readouterr().err.splitlines()
    assert "skipped 3 of 8 files" in line and "b/empty.jpg, broken.png, notes.txt" in line


def test_folder_without_a_readable_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image in the folder .* \(1 other files\)"):
        open_source({"source": tmp_path})
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="None of the 2 files in"):
        open_source({"source": tmp_path})


def test_system_files_of_a_folder_are_counted_and_links_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for parent in (folder, elsewhere, folder / "__MACOSX", folder / "@eaDir"):
        parent.mkdir()
        Image.new("RGB", (8, 8)).save(parent / "a.png")
    (folder / "._a.png").write_bytes(b"no image")
    (folder / "b").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    with open_source({"source": folder}) as source:
        assert [frame.name for frame in source] == ["a.png", "b/a.png"]
    text = capsys.readouterr().err
    assert "ignored 3 hidden or system files and folders: ._a.png, @eaDir, __MACOSX." in text
    assert f"ignored 1 links that are broken or circular: {folder / 'circle'}." in text
    assert "skipped" not in text
