"""Compare smoothers on the clips of a data set: ``compare smoothing=[ema,hmm,temporal]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab.config import compose
from emotion_lab.config.overrides import parse, values
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data import contamination
from emotion_lab.data.checkpoint_data import CheckpointData, data_config, is_foreign
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.evaluate import LedgerEntry, check_ledger, identity
from emotion_lab.experiments.compare.enrolled_looks import enrol_tracks
from emotion_lab.experiments.compare.smoother_scores import compare_smoothers
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.inference.neutral import read_reference
from emotion_lab.temporal import smoother_file


def named_smoothers(overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Return name -> settings of the smoothers of ``smoothing=[...]``; empty without it.

    A typed ``smoothing.<key>`` applies to each smoother that has the key.
    """
    typed: Any = next(iter(values(overrides, "smoothing") or []), [])
    names = [str(name) for name in (typed if isinstance(typed, list) else [typed])]
    smoothers = {name: compose.defaults("smoothing", name) for name in names}
    for override in parse(overrides):
        group, _, key = override.key_or_group.partition(".")
        if group == "smoothing" and key:
            for cfg in smoothers.values():
                if key in cfg:
                    cfg[key] = override.value()
    return smoothers


def check(cfg: DictConfig, smoothers: dict[str, dict[str, Any]]) -> None:
    """Check the command before Hydra creates the run directory."""
    if any(cfg[key] is not None for key in ("run_a", "run_b", "runs")):
        raise UserError(
            "smoothing= compares smoothers, run_a=, run_b= and runs= compare runs: give one of "
            "them."
        )
    if len(smoothers) < 2:
        raise UserError(
            f"smoothing={','.join(smoothers)} is compared with nothing: name two or more, "
            "smoothing=[ema,hmm,temporal]."
        )
    if "temporal" in smoothers:
        smoother_file.read(smoothers["temporal"]["ckpt"])
    elif cfg.ckpt is None:
        raise UserError("ckpt is missing: give the network of single images, ckpt=<run>.")
    if cfg.ckpt is not None:
        paths.check_checkpoint(cfg.ckpt)
    paths.check_exist({"enrol_reference": cfg.enrol_reference})


def _temporal_card(smoothers: dict[str, dict[str, Any]]) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint of the temporal model and its card; None without one."""
    if "temporal" not in smoothers:
        return None
    path = find_checkpoint(smoother_file.find(smoothers["temporal"]["ckpt"]).parent)
    return path, ckpt.read(path)[ckpt.CARD]


def _frame_network(cfg: dict[str, Any], card: dict[str, Any] | None) -> FrameOutputs:
    """Return the network of single images: of ``ckpt``, else that of the temporal model."""
    trained_with = None if card is None else FrameOutputs.of_card(card)
    frame = trained_with if cfg["ckpt"] is None else FrameOutputs(cfg["ckpt"])
    assert frame is not None
    if trained_with is not None and frame.sha256 != trained_with.sha256:
        raise UserError(
            f"ckpt={cfg['ckpt']} is not the network that smoothing.ckpt was trained with: leave "
            f"ckpt out, or set ckpt={trained_with.path}."
        )
    return frame


def run(cfg: dict[str, Any], smoothers: dict[str, dict[str, Any]], run_dir: Path) -> dict[str, Any]:
    """Compare smoothers on a split of the data.

    Returns:
        See :func:`compare_smoothers`, with ``split``, ``data``, ``fingerprint``, ``frame`` and
        ``warnings``.
    """
    temporal = _temporal_card(smoothers)
    frame = _frame_network(cfg, None if temporal is None else temporal[1])
    path, card = temporal or (frame.path, ckpt.read(frame.path)[ckpt.CARD])
    entry = LedgerEntry(Path(cfg["test_ledger"]), run_dir)
    check_ledger(cfg["split"], entry)
    foreign = is_foreign(cfg["data"], card)
    data_cfg = data_config(cfg["data"], card)
    data = CheckpointData.open(card, data_cfg, cfg["split"], foreign, frame if temporal else None)
    over = "groups" if data.module.cfg.get("group") else "clips"
    probabilities, enrolled = frame(data.part), None
    if cfg["enrol_reference"] is not None:
        folder = Path(cfg["enrol_reference"]).expanduser()
        reference = read_reference(folder, frame.sha256, frame.classes)
        enrolled = enrol_tracks(probabilities, data.part, reference)
    result = compare_smoothers(probabilities, data.part, smoothers, over, cfg["classify"], enrolled)
    if cfg["split"] == "test":
        test_ledger.record(
            entry.ledger,
            run_dir,
            identity([path]),
            test_ledger.setup(card, "none"),
            data.fingerprint,
            result["smoothers"][result["last"]]["accuracy"],
        )
    seen = int(contamination.of_card(card, data.module.cfg).seen(data.part).exact.sum())
    warnings = [f"{path} learnt from {seen:,} of the {len(data.part):,} looks"] if seen else []
    return {
        "split": cfg["split"],
        "data": {"location": data.module.source.location, "notes": data.notes},
        "fingerprint": data.fingerprint,
        "frame": frame.entry(),
        **result,
        "warnings": warnings,
    }
