"""Measure the neutral baseline: ``python -m emotion_lab.neutral ckpt=<run> data.group=<regex>``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths, weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the arguments before Hydra creates the run directory."""
    from emotion_lab.inference.neutral import REFERENCE

    paths.check_checkpoint(cfg.ckpt, exported=True)
    if cfg.save_in_ckpt and (
        weights.is_name(cfg.ckpt) or str(cfg.ckpt).endswith(EXPORT_SUFFIXES[1:])
    ):
        raise UserError(
            "save_in_ckpt=true writes into a checkpoint or an .onnx file, which "
            f"ckpt={cfg.ckpt} is not: leave save_in_ckpt out and use enrol_reference=<this run>."
        )
    paths.check_exist({"data.path": cfg.data.get("path")})
    if cfg.split == "test":
        raise UserError(
            "split=test: the strength is chosen on these images, and test is only for the final "
            "score. Set split=train or split=val."
        )
    paths.check_fresh(str(cfg.hydra.run.dir), REFERENCE)
    return []


def neutral(cfg: DictConfig) -> float | None:
    """Measure, print and write ``neutral.json``; return the difference of macro F1, if measured."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.environment import git_commit, hardware
    from emotion_lab.core.io import file_hash
    from emotion_lab.core.tables import show
    from emotion_lab.data.build import load_data
    from emotion_lab.experiments import neutral as experiment
    from emotion_lab.inference import neutral as files
    from emotion_lab.inference.classifier import load_classifier

    run_dir, config = Path(HydraConfig.get().runtime.output_dir), compose.to_container(cfg)
    classifier = load_classifier(config["ckpt"], config["backend"])
    source = load_data(config["data"], (config["split"],), carve=False)
    split, strength, classes = config["split"], config["strength"], classifier.classes
    part, labels = experiment.load_faces(source, split, classes, strength is None)
    if strength is None:
        probabilities = experiment.classify(part, classifier)
        names, num_enrolled = list(part.groups or ()), config["num_enrolled"]
        result = experiment.measure(probabilities, labels, names, classes, num_enrolled)
    else:
        result = experiment.average_face(part, labels, classifier, strength)
    text, model_id = experiment.lines(result), classifier.model_id
    if config["save_in_ckpt"]:
        path = experiment.store(config["ckpt"], result, split)
        model_id = model_id if path.suffix == ".onnx" else file_hash(path)
        text.append(f"average and strength saved in {path}")
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
        model_id,
        classes,
        average,
        **result,
        conditions=conditions,
    )
    show(*text, str(run_dir))
    return float(result["difference"]["macro_f1"]) if "difference" in result else None


def main() -> None:
    """Entry point of ``emotion-lab neutral``."""
    app.run("neutral", neutral, validate, ("neutral.json",))


if __name__ == "__main__":
    main()
