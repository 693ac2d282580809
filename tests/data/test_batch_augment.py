"""augment=device: ranges, random draws, sizes, and equal results on all devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.data.batch_augment import BatchAugment, affine_matrices
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.torch_dataset import SplitDataset
from emotion_lab.data.transforms import Resize
from tests.conftest import composed


def make_augment(image_size: int = 48, channels: int = 1, **cfg: Any) -> BatchAugment:
    cfg = {**composed("augment=device")["augment"], **cfg}
    return BatchAugment(cfg, image_size, channels)


#: Settings that switch all transforms off.
UNCHANGED: dict[str, Any] = {"flip_p": 0.0, "affine_p": 0.0, "color_jitter_p": 0.0}


@pytest.fixture
def face() -> np.ndarray:
    """Return a smooth image without symmetry, uint8 (48, 48)."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    return cv2.resize(noise, (48, 48), interpolation=cv2.INTER_CUBIC)


def warp_face(face: np.ndarray, *transform: np.ndarray) -> np.ndarray:
    matrix = torch.from_numpy(affine_matrices(*transform))
    return make_augment().warp(torch.from_numpy(face)[None, None], 48, matrix)[0, 0].numpy()


# Shifts of whole pixels, because albumentations rounds translations.
CASES = [(20, 1.0, 0, 0), (0, 1.2, 0, 0), (0, 1.0, 4, -2), (15, 0.9, 4, 2), (-12, 1.1, -3, 5)]


@pytest.mark.parametrize(("degrees", "scale", "right", "down"), CASES)
def test_warp_matches_albumentations(
    face: np.ndarray, degrees: float, scale: float, right: int, down: int
) -> None:
    reference = A.Affine(
        rotate=(-degrees, -degrees),  # albumentations rotates in the other direction
        scale=(scale, scale),
        translate_px={"x": (right, right), "y": (down, down)},
        border_mode=cv2.BORDER_REFLECT,
        p=1,
    )
    expected = A.Compose([reference])(image=face)["image"].astype(float)
    shift = 2 * np.array([[right], [down]]) / 48
    result = warp_face(face, np.radians([degrees]), np.array([scale]), shift, np.ones(1))
    inner = (slice(6, -6), slice(6, -6))
    assert np.abs(result - expected)[inner].mean() < 1.0
    assert np.abs(face - expected)[inner].mean() > 5.0


def test_mirror(face: np.ndarray) -> None:
    result = warp_face(face, np.zeros(1), np.ones(1), np.zeros((2, 1)), -np.ones(1))
    np.testing.assert_allclose(result, face[:, ::-1], atol=1e-2)


def test_jitter_matches_albumentations(face: np.ndarray) -> None:
    augment = make_augment(color_jitter_p=1.0, brightness=0.2, contrast=0.2)
    torch.manual_seed(3)
    n = 400
    images = torch.from_numpy(face)[None, None].float().expand(n, 1, 48, 48)
    result = augment.jitter(images).flatten(1)
    # A linear fit of the unclipped pixels recovers factor and offset of each image.
    for row in result[:20]:
        inside = (row > 0) & (row < 255)
        x = images[0].flatten()[inside]
        factor, offset = np.polyfit(x.numpy(), row[inside].numpy(), 1)
        assert 0.8 <= factor <= 1.2 and abs(offset) <= 51.01
        clipped = (factor * images[0].flatten() + offset).clamp(0, 255)
        torch.testing.assert_close(row, clipped.float(), atol=0.1, rtol=0)
    assert result.min() >= 0 and result.max() <= 255
    assert result.std(0).mean() > 20  # draws differ between images


def test_identity_without_transforms(face: np.ndarray) -> None:
    augment = make_augment(**UNCHANGED)
    images = torch.from_numpy(face)[None, None].expand(5, 1, 48, 48)
    assert torch.equal(augment(images), images)
    torch.testing.assert_close(augment(images.float()), images.float(), atol=2e-2, rtol=0)


def test_probabilities() -> None:
    torch.manual_seed(0)
    augment = make_augment(flip_p=0.5, affine_p=0.25, erase_p=0.4)
    matrices = augment.sample_affine(4000)
    mirrored = torch.linalg.det(matrices[:, :, :2]) < 0
    assert abs(mirrored.float().mean() - 0.5) < 0.03
    shifted = matrices[:, :, 2].abs().sum(1) > 0
    assert abs(shifted.float().mean() - 0.25) < 0.03
    black = torch.full((2000, 1, 24, 24), -1.0)
    erased = (augment.erase(black) >= 0).flatten(1)
    assert abs(erased.any(1).float().mean() - 0.4) < 0.04
    fraction = erased[erased.any(1)].float().mean()
    low, high = augment.cfg["erase_size"]
    assert low**2 < fraction < high**2


@pytest.mark.parametrize("progress", [0.0, 0.49, 0.5, 0.79, 0.8, 1.0])
def test_progressive_resize(progress: float) -> None:
    augment = make_augment(progressive_resize=[[0, 32], [0.5, 40], [0.8, 48]])
    expected = 32 if progress < 0.5 else 40 if progress < 0.8 else 48
    images = torch.zeros(2, 1, 48, 48, dtype=torch.uint8)
    assert augment(images, progress).shape == (2, 1, expected, expected)


def test_downscaling_is_antialiased() -> None:
    board = torch.from_numpy(np.indices((48, 48)).sum(0) % 2 * 255).byte()[None, None]
    augment = make_augment(**UNCHANGED, progressive_resize=[[0, 32]])
    # A checkerboard finer than the new grid must become grey, without aliasing.
    assert augment(board, 0.0).float().std() < 40
    assert augment(board.float(), 0.0).std() < 40


def test_grey_to_rgb_and_upscaling(face: np.ndarray) -> None:
    augment = make_augment(image_size=96, channels=3, **UNCHANGED)
    result = augment(torch.from_numpy(face)[None, None])
    assert result.shape == (1, 3, 96, 96)
    expected = Resize(96, 3)(face[:, :, None]).transpose(2, 0, 1)
    np.testing.assert_allclose(result[0].float().numpy(), expected, atol=1.5)


def test_same_seed_gives_same_batch(face: np.ndarray) -> None:
    augment = make_augment(erase_p=0.5)
    images = torch.from_numpy(face)[None, None].expand(8, 1, 48, 48)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(augment(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("size", "channels", "progress"), [(48, 1, 1.0), (40, 3, 1.0), (48, 1, 0.0)]
)
def test_cpu_matches_accelerator(size: int, channels: int, progress: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (16, 8, 8, channels), dtype=np.uint8)
    faces = np.stack([cv2.resize(x, (48, 48), interpolation=cv2.INTER_CUBIC) for x in noise])
    images = torch.from_numpy(faces.reshape(16, 48, 48, channels)).permute(0, 3, 1, 2).contiguous()
    probabilities = {"erase_p": 0.5, "affine_p": 0.9, "color_jitter_p": 0.9}
    sizes = [[0, 36], [0.5, size]]
    augment = make_augment(size, channels, **probabilities, progressive_resize=sizes)
    torch.manual_seed(4)
    on_cpu = augment(images, progress)
    torch.manual_seed(4)
    on_accelerator = augment(images.float(), progress)  # floats use the accelerator path
    assert on_cpu.shape == on_accelerator.shape
    assert (on_cpu.float() - on_accelerator).abs().mean() < 1.5
    originals = images.float()[:, :, : on_cpu.shape[2], : on_cpu.shape[3]]
    assert (on_cpu.float() - originals).abs().mean() > 15


def test_array_batches_match_single_images(tiny: Callable[..., dict[str, Any]]) -> None:
    data = EmotionData(tiny()["data"], ("train",), 0, "none")
    data.prepare_for(40, 1)
    in_memory = data.dataset("train")
    on_demand = SplitDataset(data.split("train"), Resize(40, 1))
    keys = [(0, 5), (0, 0), (0, 7), (0, 5)]
    assert in_memory._array is not None and on_demand._array is None
    batches = zip(in_memory.__getitems__(keys)[:3], on_demand.__getitems__(keys)[:3], strict=True)
    assert all(torch.equal(a, b) for a, b in batches)


def test_grey_images_stay_grey_for_training_only(tiny: Callable[..., dict[str, Any]]) -> None:
    data = EmotionData(tiny()["data"], ("train", "val"), 0, "device")
    data.prepare_for(96, 3)
    train = next(iter(data.train_dataloader())).images
    assert train.shape[1:] == (1, 96, 96)
    for loader in (data.val_dataloader(), data.eval_dataloader("train")):
        assert next(iter(loader)).images.shape[1:] == (3, 96, 96)


def _write_folder(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """Write 30 grey images of 20 x 20 pixels; ``change`` is applied to sad/7.png."""
    for name in ("happy", "sad"):
        (root / name).mkdir(parents=True)
        for i in range(15):
            noise = np.random.default_rng(i + len(name)).integers(0, 256, (5, 5), np.uint8)
            image = cv2.resize(noise, (20, 20), interpolation=cv2.INTER_CUBIC)
            image = change(image) if (name, i) == ("sad", 7) else image
            cv2.imwrite(str(root / name / f"{i}.png"), image)
    return str(root)


def _augmented(folder: str, cache: str, size: int, channels: int) -> dict[str, np.ndarray]:
    """Return the augmented images of an epoch by name."""
    arguments = ("data=image_folder", f"data.path={folder}", f"data.cache={cache}")
    data = EmotionData(composed(*arguments, "data.batch_size=4")["data"], ("train",), 0, "device")
    data.prepare_for(size, channels)
    augment, images = make_augment(size, channels, affine_p=0.9), {}
    for i, batch in enumerate(data.train_dataloader()):
        torch.manual_seed(i)
        for position, image in zip(batch.positions, augment(batch.images).numpy(), strict=True):
            images[data.split("train").names[int(position)]] = image
    return images


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda image: image,
    "size": lambda image: cv2.resize(image, (90, 70)),
    "colour": lambda image: cv2.applyColorMap(image, cv2.COLORMAP_JET),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "channels"), [(48, 1), (48, 3), (16, 3)])
def test_device_augmentation_does_not_depend_on_the_cache(
    change: str, size: int, channels: int, tmp_path: Path
) -> None:
    """Neither the cache nor another image changes an image, for larger and smaller networks."""
    folder = _write_folder(tmp_path / "folder", CHANGES[change])
    in_memory, on_demand = (_augmented(folder, c, size, channels) for c in ("ram", "none"))
    plain = _write_folder(tmp_path / "plain", CHANGES["nothing"])
    others = _augmented(plain, "ram", size, channels)
    assert len(in_memory) > 20 and in_memory.keys() == on_demand.keys() == others.keys()
    for name, image in in_memory.items():
        assert image.shape == (channels, size, size)
        assert np.array_equal(image, on_demand[name]), name
        assert np.array_equal(image, others[name]) or name.endswith("sad/7.png"), name


def test_progressive_resize_requires_a_convolutional_network() -> None:
    from emotion_lab.models.base import build_model
    from emotion_lab.training.factory import device_augment

    cfg = composed(
        "augment=device", "augment.progressive_resize=[[0,32]]", "model=vit", "model.depth=1"
    )
    net, _ = build_model(cfg["model"], 7)
    with pytest.raises(UserError, match=r"augment.progressive_resize needs a convolutional"):
        device_augment(cfg["augment"], net)


INVALID_SIZES = ["[[0,32],[0,40]]", "[[0.5,32]]", "[[0,8]]", "32", "[[0,32],[2,40]]", "[]"]


@pytest.mark.parametrize("value", [*INVALID_SIZES, "[[0,32.5]]"])
def test_invalid_progressive_resize(value: str) -> None:
    with pytest.raises(UserError, match=r"augment.progressive_resize=.*fractions rising from 0"):
        composed("augment=device", f"augment.progressive_resize={value}")


@pytest.mark.parametrize("value", ["[1.1,0.9]", "[0,1]", "1", "[a,b]"])
def test_invalid_scale(value: str) -> None:
    with pytest.raises(UserError, match=r"augment.scale="):
        composed("augment=device", f"augment.scale={value}")
