"""Type and role of the keys of the entry points ``live`` and ``predict``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emotion_lab.config.fields import (
    SOURCES,
    Anonymize,
    Count,
    DisplaySection,
    Location,
    NonNegative,
    Positive,
    PositiveFraction,
    Role,
    Seed,
    integer,
    number,
    section,
)

CLASSIFY = section(when=Literal["auto", "always"], max_age_s=Positive)
TRACKING = section(
    detect_every=Count,
    detect_every_s=Positive,
    max_missed_s=NonNegative,
    coast_s=NonNegative,
    box_time_constant_s=NonNegative,
    max_match_distance=Positive,
    scene_cut_threshold=PositiveFraction | None,
)
LIVE = section(
    ckpt=Location,
    source=Annotated[SOURCES, Role.LOCATION],
    display=Annotated[Literal["auto", "window", "web", "none"], Role.DISPLAY],
    out=Location,
    save=Location,
    log=Location,
    record=Location,
    record_what=Annotated[Literal["frames", "faces"], Role.EXECUTION],
    record_format=Annotated[Literal["jpg", "png"], Role.EXECUTION],
    enrol=Location,
    enrol_reference=Location,
    enrol_save=Location,
    summary=Annotated[bool, Role.DISPLAY],
    overwrite=Annotated[bool, Role.EXECUTION],
    width=integer(16) | None,
    height=integer(16) | None,
    fps=Positive | None,
    loop=bool,
    realtime=bool,
    max_frames=Count | None,
    reconnect_s=NonNegative,
    seed=Seed,
    align=bool,
    max_turn_deg=number(gt=0, le=180) | None,
    anonymize=Annotated[Anonymize, Role.DISPLAY],
    language=Annotated[str, Role.DISPLAY],
    tracking=TRACKING,
    classify=CLASSIFY,
    web=section(DisplaySection, host=str, port=integer(0, 65535), token=str | int | None),
    overlay=section(
        DisplaySection,
        bars=Literal["auto", "all", "top3", "none"],
        timeline_s=NonNegative,
        scale=Positive,
        font=Location,
    ),
)
PREDICT = section(
    LIVE,
    source=Annotated[
        str | int | None,
        Role.LOCATION,
        Field(description="one photo, clip, folder, glob, list.txt of paths or s3://bucket/prefix"),
    ],
    format=Annotated[Literal["jsonl", "parquet", "both"], Role.DISPLAY],
    resume=Annotated[bool, Role.EXECUTION],
)
