"""Printed results of the benchmarks."""

from __future__ import annotations

from typing import Any

from emotion_lab.core.tables import TextTable

Blocks = list[str | TextTable]
_RATE_KEYS = ("median", "min", "max")


def report(result: dict[str, Any]) -> Blocks:
    """Return the lines and tables that ``bench`` prints for the content of ``bench.json``."""
    blocks: Blocks = []
    for benchmark in ("data", "train"):
        if benchmark in result:
            blocks += _throughput(benchmark, result[benchmark], result["rounds"])
    if "deploy" in result:
        from emotion_lab.benchmarks.deploy import pareto

        blocks += pareto.report(result["deploy"])
    if "live" in result:
        from emotion_lab.benchmarks.live.report import live_report

        blocks += live_report(result["live"])
    if "derived" in result:
        blocks += derived_report(result["derived"])
    if "sources" in result:
        blocks += sources_report(result["sources"])
    if "archive" in result:
        blocks += archive_report(result["archive"])
    if "anonymize" in result:
        blocks += anonymize_report(result["anonymize"])
    if "near_copies" in result:
        blocks += near_copies_report(result["near_copies"])
    if "smoothing" in result:
        blocks += smoothing_report(result["smoothing"], result["hardware"])
    return blocks


def smoothing_report(result: dict[str, Any], hardware: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=smoothing``."""
    keys = ("median_ms", "p95_ms", "p99_ms")
    rows = [
        (name, *(f"{row[key]:.3f}" for key in keys), f"{row['n']:,}")
        for name, row in result["steps"].items()
    ]
    load = result["load_average"]
    return [
        f"\nmilliseconds of one step (one face in one frame, {result['classes']} classes) on "
        f"{hardware['cpu']}, {hardware['cores']} cores"
        + ("" if load is None else f", load average {load:.1f} before"),
        TextTable(("smoothing", "median", "95 %", "99 %", "steps"), rows),
    ]


def sources_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=sources``."""
    width, height = result["size"]
    rows = [
        (
            *(row["source"], row["frames"], f"{row['frames_per_s']:.1f}"),
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{row['dropped_share']:.2%}",
        )
        for row in result["per_source"]
    ]
    least = result["least_served"]
    return [
        f"\nsources: {result['num_sources']} of {width}x{height} at {result['fps']:g} frames/s in "
        f"one process; detector {result['detector']}, backend {result['runtime']}",
        "delay from capture to label, milliseconds",
        TextTable(("source", "frames", "frames/s", "median", "p95", "p99", "dropped"), rows),
        f"all: median {result['p50_ms']:.1f} ms, p95 {result['p95_ms']:.1f} ms, "
        f"{result['dropped_share']:.2%} of the frames dropped; least served: source "
        f"{least['source']}, {least['frames_per_s']:.1f} frames/s",
        f"{result['faces_per_frame']:.2f} faces a frame, {result['faces_per_batch']:.2f} faces of "
        f"{result['sources_per_batch']:.2f} sources a batch; {result['cpu_share']:.0%} of the CPU",
    ]


def archive_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=archive``."""
    blocks: Blocks = [f"\narchive: detector {result['detector']}, backend {result['runtime']}"]
    for kind in ("photos", "clips"):
        rows = []
        if kind == "photos" and "one_by_one" in result:
            rows.append(("one after the other", "", *_file_cells(result["one_by_one"], None)))
        alone = {row["engine"]: row for row in result.get(kind, ()) if row["workers"] == 1}
        for row in result.get(kind, ()):
            cells = _file_cells(row, alone[row["engine"]])
            rows.append((row["engine"], row["workers"], *cells))
        if rows:
            header = (kind, "workers", "files/s", "first result, s", "efficiency")
            blocks.append(TextTable(header, rows))
    return blocks


def _file_cells(row: dict[str, float], alone: dict[str, float] | None) -> tuple[str, str, str]:
    """Return files/s, first result and, relative to one worker, the efficiency."""
    efficiency = ""
    if alone is not None:
        share = row["files_per_s"] / (row["workers"] * alone["files_per_s"])
        efficiency = f"{share:.0%}"
    return f"{row['files_per_s']:.1f}", f"{row['first_s']:.1f}", efficiency


def anonymize_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=anonymize``."""
    rows = [
        (
            *(f"{row['height']} px", row["speed"], row["faces"], row["visible"]),
            *(f"{row['least']:.1%}", f"{row['picture']:.1%}"),
        )
        for row in result["rows"]
    ]
    header = ("face", "px a frame", "faces", "visible", "least hidden", "picture hidden")
    faces, visible = (sum(row[key] for row in result["rows"]) for key in ("faces", "visible"))
    return [
        f"\nmoving faces hidden by anonymize=, detector {result['detector']}",
        TextTable(header, rows),
        f"{visible:,} of {faces:,} faces are visible: less than {result['hidden']:.0%} of them is "
        "hidden",
    ]


def near_copies_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=near_copies``."""
    rows = []
    for row in result["copies"]:
        low, high = row["found_ci95"]
        found = f"{row['found']:.1%} ({low:.1%} to {high:.1%})"
        bits = (f"{row[key]:.0f}" for key in ("median", "p99", "max"))
        rows.append((row["change"], row["n"], *bits, found))
    others, limit = result["others"], result["max_distance"]
    return [
        f"\nbits of {result['bits']} in which the hash of a changed training image differs; found "
        f"up to {limit}",
        TextTable(("change", "images", "median", "99 %", "max", "found (95 %)"), rows, left=(0, 5)),
        f"of {others['n']:,} val images without an equal training image {others['close']} are "
        f"within {limit} bits of one: {others['correlated']} show the same picture by their "
        f"correlation, {len(others['unconfirmed'])} are not confirmed",
    ]


def derived_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=derived``."""
    names = ("yaw", "pitch", "roll", "turn")
    rows = [
        (f"{row['from']} to {row['to']}", row["n"], *(f"{row[name]:.1f}" for name in names))
        for row in result["pose"]
    ]
    blocks: Blocks = [
        "\nhead pose: mean absolute error in degrees on projected heads, by turn",
        TextTable(("turn", "heads", *names), rows),
    ]
    if "intensity" in result:
        strengths = [f"{strength:g}" for strength in result["strengths"]]
        shares = [
            (name, *(f"{share:.2f}" for share in row["shares"]), f"{row['spearman']:.2f}")
            for name, row in result["intensity"].items()
        ]
        blocks += [
            f"intensity: mean over {result['people']} synthetic people by strength of the emotion",
            TextTable(("emotion", *strengths, "Spearman"), shares),
        ]
    return blocks


def _throughput(benchmark: str, result: dict[str, Any], rounds: int) -> Blocks:
    """Return the report of ``benchmark=data`` and ``benchmark=train``."""
    rows = [
        ("baseline" if name == "plain" else name, *(f"{rate[k]:,.0f}" for k in _RATE_KEYS))
        for name, rate in result["rounds"].items()
    ]
    blocks: Blocks = [
        f"\n{benchmark}: images per second over {rounds} rounds",
        TextTable(("pipeline", *_RATE_KEYS), rows),
        f"ours is {result['ratio']:.1f} times as fast as the baseline",
    ]
    if "of_ceiling" in result:
        blocks += [
            f"ours reaches {result['of_ceiling']:.0%} of the ceiling, which is the training step "
            "alone, without data loading",
            f"peak memory of a training process: {result['peak_memory_mib']:,.0f} MiB",
        ]
    if "cached_ratio" in result:
        blocks.append(
            "data.feature_cache: from the second epoch on, an epoch of a frozen backbone is "
            f"{result['cached_ratio']:.0f} times as fast on cached features"
        )
    if "epoch" in result:
        epochs = [
            (f"{row['n']:,}", f"{row['seconds']:.3f}", row["us_per_image"])
            for row in result["epoch"]
        ]
        blocks += [
            "loading one epoch:",
            TextTable(("images", "s/epoch", "us/image"), epochs, left=()),
        ]
    blocks += [
        f"reading {row['images']:,} files of 224 px without a cache: peak memory "
        f"{row['peak_memory_mib']:,.0f} MiB"
        for row in result.get("folder", [])
    ]
    return blocks
