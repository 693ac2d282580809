"""Printed results of ``benchmark=live``; parts that were not measured are left out."""

from __future__ import annotations

from typing import Any

from emotion_lab.benchmarks.live.frames import SOURCES
from emotion_lab.benchmarks.live.speed import STAGES
from emotion_lab.core.tables import TextTable

Blocks = list[str | TextTable]


def live_report(result: dict[str, Any]) -> Blocks:
    """Return the report of ``benchmark=live``."""
    blocks: Blocks = [f"\nlive: detector {result['detector']}, backend {result['runtime']}"]
    rows = {name: result[name] for name in SOURCES if name in result}
    if rows:
        blocks += _speed(rows)
    blocks += _command(result)
    if "peer" in result:
        blocks += ["peer: another program on the same frames", _peer_table(result["peer"])]
    if result["agreement"]:
        blocks += [
            "classify.when=auto compared with always: faces with the same label, and faces "
            "classified",
            _agreement_table(result["agreement"]),
        ]
    if "smoothing" in result:
        blocks.append(_smoothing_table(result["smoothing"]))
    return blocks


def _speed(rows: dict[str, dict[str, Any]]) -> Blocks:
    speed, stages, costs = [], [], []
    for name, row in rows.items():
        width, height = row["size"]
        speed.append(
            (
                f"{SOURCES[name]} ({row['frames']} frames of {width}x{height})",
                f"{row['seed_fps']:,.1f}",
                f"{row['ours_fps']:,.0f}",
                f"{row['ratio']:.1f}x",
                f"{row['seed_faces']:.2f}",
                f"{row['ours_faces']:.2f}",
            )
        )
        if "ours_ms_per_frame" in row:
            each = row["ours_ms_per_frame"]
            shown = ("-" if each.get(k) is None else f"{each[k]:.2f}" for k in STAGES)
            stages.append((SOURCES[name], *shown))
        if "outputs" in row:
            cost = row["outputs"]
            costs.append(
                f"head pose, valence, arousal and intensity: {SOURCES[name]} {cost['on_ms']:.2f} "
                f"ms of processor time a frame, without them {cost['off_ms']:.2f} ms "
                f"({cost['slowdown']:+.1%})"
            )
    header = ("source", "baseline frames/s", "ours frames/s", "speedup")
    blocks: Blocks = [
        "baseline: Haar cascade and eager PyTorch, one face at a time",
        TextTable((*header, "baseline faces/frame", "ours faces/frame"), speed),
    ]
    if stages:
        blocks += [
            "milliseconds of a frame, one stage after the other:",
            TextTable(("source", *STAGES), stages),
        ]
    return [*blocks, *costs]


def _command(result: dict[str, Any]) -> Blocks:
    blocks: Blocks = []
    if "first_frame" in result:
        row = result["first_frame"]
        blocks.append(
            f"first frame of the command live: median {row['median_s']:.2f} s, at most "
            f"{row['max_s']:.2f} s of {row['rounds']} rounds"
        )
    if "latency" in result:
        row = result["latency"]
        blocks.append(
            f"latency from capture to label at {row['fps']:.0f} frames/s: median "
            f"{row['p50_ms']:.1f} ms, p95 {row['p95_ms']:.1f} ms, {row['dropped']} of "
            f"{row['frames'] + row['dropped']} frames dropped"
        )
    if "memory" in result:
        row = result["memory"]
        at = ", ".join(f"{mib:,.0f} MiB at frame {int(k):,}" for k, mib in row["at"].items())
        torch = "imported" if row["torch_imported"] else "not imported"
        blocks.append(f"memory of the command live: {at}; torch was {torch}")
    return blocks


def _peer_table(peer: dict[str, Any]) -> TextTable:
    rows = []
    for name, row in peer.items():
        same = "-" if row["same_label"] is None else f"{row['same_label']:.1%}"
        rates = (f"{row['peer_fps']:,.1f}", f"{row['ours_fps']:,.0f}", f"{row['ratio']:.1f}x")
        faces = (f"{row['peer_faces']:.2f}", f"{row['ours_faces']:.2f}")
        rows.append((name, *rates, *faces, row["both_one_face"], same))
    header = ("source", "peer frames/s", "ours frames/s", "speedup", "peer faces", "ours faces")
    return TextTable((*header, "both see one", "same label"), rows)


def _agreement_table(agreement: dict[str, Any]) -> TextTable:
    rows = []
    for name, row in agreement.items():
        equal, classified = (
            "-" if row[key] is None else f"{row[key]:.2%}" for key in ("agreement", "classified")
        )
        increase = row.get("delay_increase_ms_median")
        rows.append((name, row["faces"], equal, classified, "" if increase is None else increase))
    return TextTable(("clip", "faces", "same label", "classified", "later by ms"), rows)


def _smoothing_table(methods: dict[str, Any]) -> TextTable:
    keys = ("switches_per_min", "flicker_per_min", "delay_ms_median")
    rows = []
    for name, row in methods.items():
        switches, flicker, delay = ("-" if row[key] is None else row[key] for key in keys)
        fewer = "" if row["fewer_switches"] is None else f"{row['fewer_switches']:.1f}x"
        followed = f"{row['followed']} of {row['changes']}"
        rows.append((name, switches, fewer, flicker, delay, followed))
    columns = ("smoothing", "switches/min", "fewer", "flicker/min", "delay ms", "changes followed")
    return TextTable(columns, rows)
