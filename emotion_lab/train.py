"""Train: ``python -m emotion_lab.train model=senet loss=weighted_ce``."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emotion_lab.cli import app, preflight
from emotion_lab.config import compose
from emotion_lab.config.overrides import check_different, parse, quote, values
from emotion_lab.core import distributed, paths, runs
from emotion_lab.core.errors import UserError
from emotion_lab.experiments import reproduce
from emotion_lab.experiments.sweep import directory

#: What may differ when a run is resumed: where things are and how long it goes on, not what it is.
RESUME_KEYS = ("data.path", "data.num_workers", "data.cache", "trainer", "logger", "test", "test_ledger")


#: What a finished run leaves; where one is there, nothing is begun.
RESULTS = ("checkpoints/last.ckpt", "metrics.json")


class IncompleteSweepError(UserError):
    """Jobs of a sweep have no result."""

    exit_code = 1


def _run_of(resume: str) -> tuple[Path, Path]:
    """Return (last.ckpt, run folder) of ``resume=``.

    Raises:
        UserError: If there is nothing to resume from.
    """
    place = Path(resume)
    if place.is_dir():
        file = place / "checkpoints" / "last.ckpt"
        if not file.is_file():
            raise UserError(f"nothing to resume: no checkpoints/last.ckpt in {place}")
        return file, place
    if not place.is_file():
        raise UserError(f"resume={place}: no such run folder or checkpoint")
    folder = place.parent
    return place, folder.parent if folder.name == "checkpoints" else folder


def _check_sweep(trainer: DictConfig) -> None:
    """Refuse a job of a sweep that wants several devices.

    Raises:
        UserError: If it does.
    """
    if trainer.devices != 1 or trainer.num_nodes > 1:
        raise UserError(
            f"-m with trainer.devices={trainer.devices}, trainer.num_nodes={trainer.num_nodes}: "
            "a sweep runs one device a job. Set trainer.devices=1, or run the jobs without -m."
        )


def _prepare_replay(cfg: DictConfig, overrides: list[str], multirun: bool) -> list[str]:
    """Check ``reproduce=``: a finished run, in one new folder, nothing else typed."""
    if multirun or cfg.resume is not None:
        raise UserError("reproduce= repeats one run; it goes neither with -m nor with resume=.")
    run = runs.read(Path(str(cfg.reproduce)))
    for text in overrides:
        key = text.lstrip("+~").split("=", 1)[0]
        if key != "reproduce" and not key.startswith(("hydra.", *reproduce.KEYS)):
            raise UserError(
                f"reproduce= repeats the run as it was configured; '{text}' cannot change. "
                f"Allowed: {', '.join(reproduce.KEYS)}."
            )
    typed = any(text.startswith("data.path=") for text in overrides)
    paths.check_exist({"data.path": cfg.data.path if typed else run.config["data"]["path"]})
    if cfg.test:
        paths.check_appendable(Path(str(cfg.test_ledger)))
    paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def swept(overrides: list[str]) -> set[str]:
    """Return the keys of which several values were typed."""
    return {o.key_or_group for o in parse(overrides) if o.is_sweep_override()}


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    if cfg.sweep.name != "grid":
        name = cfg.sweep.name
        raise UserError(f"sweep={name} is for a search: python -m emotion_lab.sweep sweep={name}.")
    hydra_cfg = cfg.hydra
    multirun = str(hydra_cfg.mode or "").endswith("MULTIRUN")
    if multirun:
        _check_sweep(cfg.trainer)
        preflight.check_launcher(hydra_cfg)
        check_different(overrides)
    elif any(text.startswith("hydra/launcher=") for text in overrides):
        raise UserError("hydra/launcher says where the jobs of a sweep run: add -m.")
    elif any(text.startswith("hydra.sweep.dir=") for text in overrides):
        raise UserError(
            "hydra.sweep.dir names the folder of a sweep: add -m, or name that of a single run "
            "with hydra.run.dir=<folder>."
        )
    elif cfg.sweep.resume:
        raise UserError("sweep.resume=true goes on with a sweep: add -m and its options.")
    if cfg.reproduce is not None:
        return _prepare_replay(cfg, overrides, multirun)
    if cfg.resume is not None:
        if multirun:
            raise UserError("resume= goes on with one run; it cannot be swept with -m.")
        file, run = _run_of(cfg.resume)
        for text in overrides:
            key = text.lstrip("+~").split("=", 1)[0]
            if key == "trainer.ema_decay":
                raise UserError("trainer.ema_decay cannot change on resume: the average is the run's.")
            allowed = key == "resume" or key.startswith("hydra.")
            if not allowed and not any(key == k or key.startswith(f"{k}.") for k in RESUME_KEYS):
                raise UserError(
                    f"resume= goes on with the run as it was configured; '{text}' cannot change. "
                    f"Allowed: {', '.join(RESUME_KEYS)}."
                )
        return [f"hydra.run.dir={quote(str(run))}", "hydra.output_subdir=null"]
    # data.download=true may name a folder that is still to be made.
    path = None if cfg.data.get("download") else cfg.data.path
    data = {f"data.{key}": cfg.data[key] for key in ("ferplus_csv", "drop_csv", "relabel_csv")}
    required = {"data.path": path, **data, "model.weights": cfg.model.weights}
    if "distill.teacher" not in swept(overrides):
        preflight.check_teacher(cfg.distill.teacher)
    folds, fold = (values(overrides, f"data.{key}") for key in ("folds", "fold"))
    preflight.check_fold(folds or [cfg.data.folds], fold or [cfg.data.fold], fold is not None)
    # A swept path is each job's own affair: one that is missing does not end the others.
    paths.check_exist({key: required[key] for key in required if key not in swept(overrides)})
    if cfg.test:
        paths.check_appendable(Path(str(cfg.test_ledger)))
    if multirun:
        return [directory.override(directory.choose(cfg, overrides))]
    run = Path(str(hydra_cfg.run.dir))
    if distributed.is_rank_zero() and (run / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{run} already holds a run: go on with resume='{run}', "
            "or choose another hydra.run.dir."
        )
    paths.check_folder(run)
    return []


@contextlib.contextmanager
def sweeping(overrides: list[str]) -> Iterator[None]:
    """Hold the folder of a sweep while its jobs run; sum up at the end, however it comes.

    Raises:
        UserError: If jobs are without result (exit code 1), or another process sweeps there.
    """
    from emotion_lab.experiments.sweep import summary

    place = directory.named(overrides)
    with paths.locked_run_dir(place, key="hydra.sweep.dir"):
        try:
            yield
        finally:
            found = summary.write(place)
            print("\n" + "\n".join(summary.lines(place, found)))
            print(place, flush=True)
    counts = found["jobs"]
    lost = counts["all"] - counts.get("finished", 0)
    if lost:
        raise IncompleteSweepError(
            f"{lost} of {counts['all']} jobs have no result; the reasons stand above and in "
            f"{place / 'summary.csv'}. The same command with sweep.resume=true runs only these."
        )


def job(cfg: DictConfig, overrides: list[str], place: Path) -> float:
    """Run one job of a sweep in a process of its own; NaN where it has no result."""
    from emotion_lab.experiments.sweep import subprocess_job as jobs

    own = directory.asked(overrides)
    try:
        _check_sweep(cfg.trainer)
    except UserError as error:
        jobs.JobResult(place, own, "failed", str(error), None, 0.0).save()
        return math.nan
    outcome = jobs.run(own, place)
    return math.nan if outcome.value is None else outcome.value


def _changed(cfg: DictConfig, overrides: list[str], before: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a run with the allowed overrides of this command."""
    kept = [text for text in overrides if not text.startswith(("resume=", "reproduce=", "hydra"))]
    current = compose.to_container(cfg)
    result = copy.deepcopy(before)
    # Plain dicts: a path may hold "${", which a second pass through OmegaConf would resolve.
    for text in kept:
        if text.startswith("trainer="):
            # The group alone would bring the defaults of all its keys.
            own = OmegaConf.load(compose.CONF / "trainer" / f"{text.split('=', 1)[1]}.yaml")
            chosen = [key for key in own if key != "defaults"]
            moved = ("accelerator", "devices", "strategy", "num_nodes", "precision")
            result["trainer"] |= {
                key: current["trainer"][key] for key in {*chosen, "accelerator"} if key in moved
            }
            continue
        *parents, last = text.lstrip("+~").split("=", 1)[0].split(".")
        source, target = current, result
        for name in parents:
            source = source[name]
            if not isinstance(target.get(name), dict):
                target[name] = {}
            target = target[name]
        target[last] = source[last]
    return result


def _resumed(cfg: DictConfig, overrides: list[str], card: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the run to resume, with the allowed overrides of this command."""
    result = _changed(cfg, overrides, card["config"])
    result["resume"] = cfg.resume
    planned, wanted = card["config"]["trainer"]["max_epochs"], result["trainer"]["max_epochs"]
    schedule = card["config"]["schedule"]["name"]
    if planned != wanted and schedule in ("cosine", "onecycle"):
        raise UserError(
            f"trainer.max_epochs={wanted} cannot change on resume: schedule={schedule} was laid "
            f"out over {planned} epochs."
        )
    return result


def train(cfg: DictConfig) -> float:
    """Train, score the best checkpoint on val (and test if asked), return the monitored value."""
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    if str(hydra_cfg.mode or "").endswith("MULTIRUN"):
        # Before anything heavy is imported: the job does that in its own process.
        return job(cfg, list(hydra_cfg.overrides.task), run_dir)

    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.evaluation.final import finish
    from emotion_lab.evaluation.media import monitoring_callbacks
    from emotion_lab.training.fit import fit
    from emotion_lab.training.loggers import close

    resume = again = None
    plain = compose.to_container(cfg)
    if cfg.reproduce is not None:
        again = runs.read(Path(str(cfg.reproduce)))
        before = reproduce.replayed(again, plain)
        plain = _changed(cfg, list(hydra_cfg.overrides.task), before)
    if cfg.resume is not None:
        resume, _ = _run_of(cfg.resume)
        content = ckpt.read(resume)
        if "optimizer_states" not in content:
            raise UserError(
                f"resume={resume} holds weights only, for use: go on with the run folder or its "
                "last.ckpt, or start from these weights with model.weights=."
            )
        card = content[ckpt.CARD]
        plain = _resumed(cfg, list(hydra_cfg.overrides.task), card)
    else:
        OmegaConf.save(OmegaConf.create(plain), run_dir / "config.yaml")
    check = None if again is None else functools.partial(reproduce.check_data, again)
    teacher = (plain.get("distill") or {}).get("teacher")
    if teacher is not None:
        # Before the data is read, which may take longer than a mistake should.
        ckpt.read(ckpt.find(teacher))
    fitted = fit(plain, run_dir, resume, check, monitoring_callbacks(plain))
    if not fitted.main:
        # Another process of this run scores, writes the files and opens the test split.
        return float(fitted.facts["monitor"]["best"])
    status = "failed"
    try:
        value = finish(plain, run_dir, fitted)
        status = "success"
    finally:
        close(fitted.loggers, status)
    if again is not None:
        print("\n".join(reproduce.report(again, run_dir, fitted.facts)))
    print(run_dir)
    return value


def main() -> None:
    """Entry point of ``emotion-train``."""
    app.run("train", train, validate, RESULTS, sweeping)


if __name__ == "__main__":
    main()
