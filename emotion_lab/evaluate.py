"""Score a checkpoint: ``python -m emotion_lab.evaluate ckpt=<run> split=val``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion_lab import checks, config


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    checks.check_checkpoint(cfg.ckpt)
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        checks.check_folder(str(cfg.hydra.run.dir))
    return []


def data_config(cfg: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    """Return the data to read: the checkpoint's own where ``data=`` names no other."""
    if cfg["data"]["name"] != "checkpoint":
        return cfg["data"]
    given = {key: value for key, value in cfg["data"].items() if value is not None}
    return {**card["config"]["data"], **given, "name": card["config"]["data"]["name"]}


def evaluate(cfg: DictConfig) -> float:
    """Score, write the results, print the report; returns the accuracy."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab import checkpoint as ckpt
    from emotion_lab.evaluation.judge import judge, write_json
    from emotion_lab.evaluation.scores import report_text
    from emotion_lab.files import file_hash
    from emotion_lab.training.fit import quiet
    from emotion_lab.training.hardware import choose_accelerator, git_commit, hardware, versions

    quiet()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plain = config.plain(cfg)
    file = ckpt.find(plain["ckpt"])
    card = ckpt.read(file)[ckpt.CARD]
    device = choose_accelerator(plain["trainer"]["accelerator"])
    split = plain["split"]
    print(f"checkpoint: {file} (epoch {card['epoch'] + 1}, {card['config']['model']['name']})")
    judged = judge(
        file,
        data_config(plain, card),
        split,
        run_dir,
        device,
        Path(plain["ledger"]),
        plain["tta"],
        foreign=plain["data"]["name"] != "checkpoint",
    )
    scores = judged.scores
    write_json(
        run_dir / "metrics.json",
        {
            split: scores,
            "checkpoint": str(file),
            "checkpoint_sha256": file_hash(file),
            "commit": git_commit(),
            "hardware": hardware(device),
            "versions": versions(),
        },
    )
    print("\n" + report_text(scores, split))
    print(run_dir)
    return scores["accuracy"]


def main() -> None:
    """Entry point of ``emotion-evaluate``."""
    config.run("evaluate", evaluate, prepare)


if __name__ == "__main__":
    main()
