"""Schemas of the entry points: the keys of ``conf/<entry>.yaml`` that belong to no group."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from emotion_lab.config.fields import (
    Checked,
    Count,
    Expected,
    Fraction,
    Location,
    Locations,
    NonNegative,
    Positive,
    Role,
    Section,
    Seed,
    WholeNumber,
)
from emotion_lab.config.groups import (
    METRICS,
    Budget,
    Distill,
    ListOfCounts,
    Mix,
    Monitor,
    Overlay,
    Tracking,
    Web,
)


class Train(Section):
    """``conf/train.yaml``."""

    seed: Seed
    deterministic: Annotated[bool, Role.EXECUTION]
    resume: Location
    reproduce: Location
    test: Annotated[bool, Role.EXECUTION]
    monitor: Monitor
    test_ledger: Annotated[str, Role.LOCATION]
    mix: Mix
    distill: Distill


class Evaluate(Section):
    """``conf/evaluate.yaml``."""

    ckpt: Locations
    weights: Literal["equal", "val"]
    split: Literal["train", "val", "test"]
    tta: Literal["none", "flip", "tencrop"]
    calibrate: bool
    rescore: bool
    report: Annotated[bool, Role.DISPLAY]
    num_mistakes: Annotated[WholeNumber, Role.DISPLAY]
    num_explained: Annotated[WholeNumber, Role.DISPLAY]
    num_robustness: WholeNumber
    test_ledger: Annotated[str, Role.LOCATION]


class Compare(Section):
    """``conf/compare.yaml``."""

    run_a: Locations
    run_b: Locations
    runs: Locations
    sort_by: Literal["accuracy", "macro_f1"] | None
    latency: bool
    split: Literal["train", "val", "test"]
    test_ledger: Annotated[str, Role.LOCATION]


class Ensemble(Section):
    """``conf/ensemble.yaml`` and ``conf/crossval.yaml``."""

    runs: Locations
    selection: Literal["val", "all"]
    metric: Annotated[str, Checked(METRICS.__contains__, f"one of {', '.join(METRICS)}")]
    max_members: Count
    num_splits: WholeNumber
    out: Location


class Audit(Section):
    """``conf/audit.yaml``."""

    near_distance: Annotated[int, Ge(0), Le(64)]
    near_correlation: Fraction
    blank: NonNegative
    tiny: Count
    face_detector: Literal["none", "haar", "yunet"]
    face_detector_file: Location
    ckpt: Location
    predictions: Locations
    num_shown: Annotated[WholeNumber, Role.DISPLAY]


class Export(Section):
    """``conf/export.yaml`` and ``conf/shard.yaml``."""

    ckpt: Location
    format: str
    precision: str
    batch: Annotated[
        Literal["dynamic"] | Count,
        Expected("dynamic, or a whole number of 1 or more"),
    ]
    num_images: Annotated[int, Ge(1000)]
    calibration: Annotated[int, Ge(50)]
    licence: str | None
    out: Location
    shard_mib: Count


class Live(Section):
    """``conf/live.yaml`` and ``conf/predict.yaml``."""

    ckpt: Location
    source: Annotated[str | int | None, Role.LOCATION]
    display: Annotated[Literal["auto", "window", "web", "none"], Role.DISPLAY]
    out: Location
    save: Location
    log: Location
    summary: Annotated[bool, Role.DISPLAY]
    overwrite: Annotated[bool, Role.EXECUTION]
    width: Annotated[int, Ge(16)] | None
    height: Annotated[int, Ge(16)] | None
    fps: Positive | None
    loop: bool
    realtime: bool
    max_frames: Count | None
    reconnect_s: NonNegative
    seed: Seed
    align: bool
    anonymize: Annotated[Literal["none", "blur"], Role.DISPLAY]
    language: Annotated[str, Role.DISPLAY]
    tracking: Tracking
    web: Web
    overlay: Overlay


class Bench(Section):
    """``conf/bench.yaml``."""

    benchmark: Literal["data", "train", "live", "deploy"]
    rounds: Count
    images: Count
    workers: WholeNumber | None
    sizes: ListOfCounts
    folder: Count
    ckpt: Locations
    models: list[str]
    batches: Annotated[
        ListOfCounts,
        Expected("a list of whole numbers of 1 or more, for instance [1,8]"),
    ]
    threads: Count | None
    exports: Locations
    num_images: Annotated[int, Ge(1000)] | None
    budget: Budget
    clip: Location
    photo: Location
    seconds: Positive
    align: bool
    anonymize: Literal["none", "blur"]
    tracking: Tracking
    seed: Seed
    deterministic: bool
    monitor: Monitor
    mix: Mix
