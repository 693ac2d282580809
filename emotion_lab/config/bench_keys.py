"""Type and role of the keys of the entry point ``bench``."""

from __future__ import annotations

from emotion_lab.config.fields import (
    Anonymize,
    BatchSizes,
    Benchmark,
    Count,
    Counts,
    Fraction,
    Location,
    Locations,
    Monitor,
    NonNegative,
    Positive,
    Seed,
    WholeNumber,
    integer,
    section,
)
from emotion_lab.config.live_keys import CLASSIFY, TRACKING

#: ``mix`` of ``bench`` and ``train``.
MIX = section(mixup=NonNegative, cutmix=NonNegative, probability=Fraction)
BENCH = section(
    benchmark=Benchmark,
    rounds=Count,
    images=Count,
    workers=WholeNumber | None,
    sizes=Counts,
    folder=Count,
    ckpt=Locations,
    models=list[str],
    batches=BatchSizes,
    threads=Count | None,
    exports=Locations,
    num_images=integer(1000) | None,
    budget=section(latency_ms=Positive | None, size_mb=Positive | None),
    clip=Locations,
    photo=Location,
    seconds=Positive,
    num_sources=Count,
    engines=list[str],
    num_photos=WholeNumber,
    num_clips=WholeNumber,
    memory_frames=WholeNumber,
    peer=str | None,
    peer_frames=Count,
    peer_timeout_s=Positive,
    align=bool,
    anonymize=Anonymize,
    tracking=TRACKING,
    classify=CLASSIFY,
    seed=Seed,
    deterministic=bool,
    monitor=Monitor,
    mix=MIX,
)
