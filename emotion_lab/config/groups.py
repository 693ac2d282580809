"""Schemas of the config groups and of the nested keys of entry points."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from emotion_lab.config.fields import (
    Checked,
    Count,
    Fraction,
    HalfOpenFraction,
    Location,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Role,
    Section,
    WholeNumber,
)

#: What an epoch logs; a run is selected by one of these.
SCORES = tuple(
    f"{stage}/{name}"
    for stage in ("val", "train")
    for name in (
        *("loss", "accuracy"),
        *(f"{a}_{n}" for a in ("macro", "weighted") for n in ("precision", "recall", "f1")),
    )
)
METRICS = ("monitor", *dict.fromkeys(name.split("/", 1)[1] for name in SCORES))


def _is_interval(low: float, high: float, value: list[float]) -> bool:
    return len(value) == 2 and low <= value[0] <= value[1] <= high


def _is_resize_plan(value: list[list[float]]) -> bool:
    """Accept ``[[start, pixels], ...]`` with starts that rise from 0 and stay below 1."""
    if not value or any(len(pair) != 2 for pair in value):
        return False
    starts = [start for start, _ in value]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
        return False
    return all(isinstance(size, int) and size >= 16 for _, size in value)


_INTERVAL = "[from, to], two rising numbers from {:g} to {:g}"
_BATCHES = "a whole number of 1 or more, or a share above 0.0 to 1.0"

Monitor = Annotated[
    str, Checked(SCORES.__contains__, f"one of {', '.join(SCORES)} (never test/...)")
]
Batches = Annotated[
    int | float,
    Checked(lambda v: v >= 1 if isinstance(v, int) else 0 < v <= 1, _BATCHES),
]
ListOfCounts = Annotated[list[Count], MinLen(1)]
Device = Annotated[
    int, Checked(lambda v: v >= 1 or v == -1, "a whole number of 1 or more, or -1 for all")
]
Channels = Annotated[int, Checked(lambda v: v in (1, 3), "1 (grey) or 3 (RGB)")]


class Augment(Section):
    """``augment=device``: augmentation of whole batches on the device."""

    flip_p: Fraction
    affine_p: Fraction
    degrees: Annotated[float, Ge(0), Le(180)]
    scale: Annotated[
        list[float],
        Checked(lambda v: _is_interval(0.1, 10, v), _INTERVAL.format(0.1, 10)),
    ]
    translate: Fraction
    color_jitter_p: Fraction
    brightness: Fraction
    contrast: Fraction
    erase_p: Fraction
    erase_size: Annotated[
        list[float], Checked(lambda v: _is_interval(0, 1, v), _INTERVAL.format(0, 1))
    ]
    progressive_resize: Annotated[
        list[list[float | int]] | None,
        Checked(
            _is_resize_plan,
            "[[0,<pixels>],[<share of the epochs>,<pixels>]], shares rising from 0",
        ),
    ]


class Backend(Section):
    """What computes the network in ``live``, ``predict`` and ``evaluate``."""

    precision: Literal["auto", "fp32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Count | None


class Data(Section):
    """A data set and how it is split, cleaned and sampled."""

    path: Location
    batch_size: Count
    num_workers: Annotated[WholeNumber, Role.EXECUTION]
    limit: Count | None
    exclude: list[str] | None
    sampler: Literal["shuffle", "weighted"]
    class_weights: Literal["inverse", "sqrt_inverse", "effective_number"]
    effective_beta: HalfOpenFraction
    folds: Annotated[int, Ge(2)] | None
    fold: WholeNumber
    val_fraction: OpenFraction
    split_seed: WholeNumber
    cache: Annotated[Literal["auto", "ram", "none"], Role.EXECUTION]
    cache_limit_mib: Annotated[WholeNumber, Role.EXECUTION]
    on_decode_error: Literal["raise", "skip"]
    strict_labels: bool
    drop_csv: str | None
    relabel_csv: str | None
    ferplus_csv: Location
    label_source: Literal["original", "majority", "soft"]
    drop_not_face: bool
    download: Annotated[bool, Role.EXECUTION]
    crop_margin: NonNegative
    # data=synthetic: val and test contain every class, so 3 x 7 images at least
    n: Annotated[int, Ge(21)]
    size: Annotated[int, Ge(16), Le(4096)]
    channels: Channels
    seed: WholeNumber
    difficulty: Annotated[float, Ge(0), Le(2)]
    # data=stream
    shuffle_buffer_shards: Count
    cache_size_mib: Annotated[Count, Role.EXECUTION]


class CheckpointData(Data):
    """``data=checkpoint``: ``null`` keeps the value of the training run."""

    batch_size: Count | None  # type: ignore[assignment]  # wider than in training
    num_workers: Annotated[WholeNumber | None, Role.EXECUTION]  # type: ignore[assignment]  # wider
    cache: Annotated[  # type: ignore[assignment]  # wider
        Literal["auto", "ram", "none"] | None, Role.EXECUTION
    ]
    on_decode_error: Literal["raise", "skip"] | None  # type: ignore[assignment]  # wider
    label_source: Literal["original", "majority"] | None  # type: ignore[assignment]  # wider


class Detector(Section):
    """Face detector."""

    file: Location
    config: Location
    sha256: str | None
    score_threshold: Fraction
    nms_threshold: Fraction
    size: Annotated[int, Ge(32)]
    enlarge: bool
    max_faces: Count
    # detector=haar
    scale_factor: Annotated[float, Gt(1), Le(10)]
    min_neighbors: WholeNumber
    min_size: Count
    # detector=mtcnn
    thresholds: list[Fraction]
    min_face: Annotated[int, Ge(12)]
    # detector=yunet
    backend: Annotated[Literal["auto", "opencv", "openvino"], Role.EXECUTION]


class Loss(Section):
    """Training loss."""

    gamma: NonNegative
    label_smoothing: HalfOpenFraction
    beta: HalfOpenFraction


class TensorBoard(Section):
    """``logger=tensorboard``."""

    role: ClassVar[Role] = Role.DISPLAY
    graph: bool
    pictures_every: Count | None
    explain: WholeNumber


class Wandb(TensorBoard):
    """``logger=wandb``."""

    project: str
    entity: str | None
    name: str | None
    group: str | None
    tags: list[str]
    mode: Literal["auto", "online", "offline"]
    faces: bool
    checkpoint: bool
    upload_s: Positive


class Logger(Section):
    """Experiment trackers; several can be chosen."""

    role: ClassVar[Role] = Role.DISPLAY
    csv: dict[str, Any]
    tensorboard: TensorBoard
    wandb: Wandb


class Model(Section):
    """Network architecture, its input and fine-tuning."""

    image_size: Annotated[int, Ge(32)] | None
    channels: Channels | None
    mean: float | list[float] | None
    std: Positive | list[Positive] | None
    pretrained: bool
    weights: str | None
    freeze: Literal["none", "backbone"]
    unfreeze_last: WholeNumber | None
    unfreeze_at_epoch: Count | None
    layer_decay: PositiveFraction
    compile: Annotated[bool, Role.EXECUTION]
    dropout: HalfOpenFraction
    # cnn, senet
    widths: ListOfCounts
    stem: Count
    stem_stride: Count
    blocks: ListOfCounts
    strides: ListOfCounts
    reduction: Count
    # vit
    patch_size: Count
    depth: Count
    embed_dim: Count
    heads: Count


class LibraryModel(Model):
    """``model=timm`` and ``model=torchvision``: an architecture by its name in the library."""

    backbone: str
    dropout: HalfOpenFraction | None  # type: ignore[assignment]  # null: of the architecture


class Optim(Section):
    """Optimizer."""

    lr: Positive
    weight_decay: NonNegative
    decay_norm_and_bias: bool
    momentum: HalfOpenFraction


class Schedule(Section):
    """Learning rate schedule."""

    warmup_epochs: NonNegative
    min_lr: NonNegative
    warmup_fraction: OpenFraction
    monitor: Monitor
    mode: Literal["min", "max"]
    factor: OpenFraction
    patience: WholeNumber
    step_size: Count
    gamma: PositiveFraction


class Smoothing(Section):
    """Temporal smoothing of the probabilities of a tracked face."""

    threshold: Fraction
    switch_evidence_s: NonNegative
    space: Literal["logit", "probability"]
    # ema, window
    tau_s: Positive
    window_s: Positive
    # hmm
    transition_rate_hz: Positive
    observation_rate_hz: Positive
    prior: list[Any] | None
    # one_euro
    min_cutoff: Positive
    beta: NonNegative
    d_cutoff: Positive


class Sweep(Section):
    """Grid over typed values, hyperparameter search or learning rate range test."""

    role: ClassVar[Role] = Role.EXECUTION
    resume: bool
    space: list[str]
    trials: Count
    timeout: Positive | None
    seed: WholeNumber
    sampler: Literal["tpe", "random"]
    pruner: Literal["none", "median", "halving", "hyperband"]
    n_startup_trials: Count
    n_warmup_trials: WholeNumber
    min_epochs: Count
    reduction_factor: Annotated[int, Ge(2)]
    min_lr: Positive
    max_lr: Positive
    num_steps: Annotated[int, Ge(20)]


class Trainer(Section):
    """Options of Lightning's Trainer and of the training loop."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], Role.EXECUTION]
    devices: Device
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], Role.EXECUTION]
    num_nodes: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    channels_last: Annotated[Literal["auto"] | bool, Role.EXECUTION]
    max_epochs: Count
    max_time: Annotated[
        str | None, Checked(lambda v: bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", v)), "DD:HH:MM:SS")
    ]
    patience: Count | None
    monitor_mode: Literal["auto", "max", "min"]
    gradient_clip_val: Positive | None
    accumulate_grad_batches: Count
    ema_decay: OpenFraction | None
    log_every_n_steps: Annotated[Count, Role.DISPLAY]
    limit_train_batches: Batches | None
    limit_val_batches: Batches | None
    enable_progress_bar: Annotated[Literal["auto"] | bool, Role.DISPLAY]
    num_threads: Annotated[Count | None, Role.EXECUTION]


class Mix(Section):
    """Mixup and CutMix."""

    mixup: NonNegative
    cutmix: NonNegative
    probability: Fraction


class Distill(Section):
    """Knowledge distillation."""

    teacher: str | None
    temperature: Positive
    alpha: Fraction


class Tracking(Section):
    """Face tracking between detections."""

    detect_every: Count
    detect_every_s: Positive
    max_missed_s: NonNegative
    coast_s: NonNegative
    box_time_constant_s: NonNegative
    max_match_distance: Positive
    scene_cut_threshold: PositiveFraction | None


class Web(Section):
    """``display=web``."""

    role: ClassVar[Role] = Role.DISPLAY
    host: str
    port: Annotated[int, Ge(0), Le(65535)]
    token: str | int | None


class Overlay(Section):
    """What is drawn on a frame."""

    role: ClassVar[Role] = Role.DISPLAY
    bars: Literal["auto", "all", "top3", "none"]
    timeline_s: NonNegative
    scale: Positive
    font: Location


class Budget(Section):
    """Limits for the recommended deployment."""

    latency_ms: Positive | None
    size_mb: Positive | None
