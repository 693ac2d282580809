"""Measure the neutral baseline: ``python -m emotion_lab.neutral ckpt=<run> data.group=<regex>``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the arguments before Hydra creates the run directory."""
    from emotion_lab.inference.neutral import REFERENCE

    paths.check_checkpoint(cfg.ckpt, exported=True)
    paths.check_exist({"data.path": cfg.data.get("path")})
    if cfg.split == "test":
        raise UserError(
            "split=test: the strength is chosen on these images, and test is only for the final "
            "score. Set split=train or split=val."
        )
    paths.check_fresh(str(cfg.hydra.run.dir), REFERENCE)
    return []


def neutral(cfg: DictConfig) -> float:
    """Measure, print and write ``neutral.json``; return the difference of macro F1."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.environment import git_commit, hardware
    from emotion_lab.core.tables import show
    from emotion_lab.data.build import load_data
    from emotion_lab.experiments import neutral as experiment
    from emotion_lab.inference import neutral as files
    from emotion_lab.inference.classifier import load_classifier

    run_dir, config = Path(HydraConfig.get().runtime.output_dir), compose.to_container(cfg)
    classifier = load_classifier(config["ckpt"], config["backend"])
    source = load_data(config["data"], (config["split"],), carve=False)
    part, labels = experiment.load_persons(source, config["split"], classifier.classes)
    probabilities = experiment.classify(part, classifier)
    names, num_enrolled = list(part.groups or ()), config["num_enrolled"]
    result = experiment.measure(probabilities, labels, names, classifier.classes, num_enrolled)
    text = experiment.lines(result)
    average, classes = result.pop("average"), result.pop("classes")
    conditions = {
        "ckpt": config["ckpt"],
        "data": {key: config["data"].get(key) for key in ("name", "path", "n", "persons", "seed")},
        "split": config["split"],
        "runtime": classifier.runtime_name,
        "hardware": hardware("cpu"),
        "commit": git_commit(),
    }
    files.write(
        run_dir / files.REFERENCE,
        "neutral reference",
        classifier.model_id,
        classes,
        average,
        **result,
        conditions=conditions,
    )
    show(*text, str(run_dir))
    return float(result["difference"]["macro_f1"])


def main() -> None:
    """Entry point of ``emotion-lab neutral``."""
    app.run("neutral", neutral, validate, ("neutral.json",))


if __name__ == "__main__":
    main()
