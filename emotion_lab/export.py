"""Export a checkpoint: ``python -m emotion_lab.export ckpt=<run> format=onnx``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError

if TYPE_CHECKING:
    from emotion_lab.exporters.calibration_data import Images
    from emotion_lab.exporters.verify import ReferencePredictions

RESULTS = ("certificate.json",)


class ParityError(UserError):
    """A file says something else than its checkpoint."""

    exit_code = 1


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check what is cheap to check, before Hydra makes the run folder."""
    from emotion_lab.exporters.base import chosen

    paths.check_checkpoint(cfg.ckpt)
    chosen(str(cfg.format), str(cfg.precision), cfg.batch)
    paths.check_exist({"data.path": cfg.data.path})
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def _line(entry: dict[str, Any], checkpoint: dict[str, float]) -> str:
    """Say how a file did."""
    words = "passed" if entry["passed"] else "FAILED"
    if "label_flips" in entry:
        words += (
            f", {entry['label_flips']:,} of {entry['n']:,} labels differ, largest drift "
            f"{entry['max_drift']:.1g}, accuracy {100 * entry['accuracy_change']:+.2f} points"
        )
    if "latency_ms" in entry:
        words += f", {entry['latency_ms']['b1']:.2f} ms a face (PyTorch {checkpoint['b1']:.2f})"
    return f"{entry['file']}: {words}, {entry['size_mb']:.1f} MB"


def _time(
    entries: list[dict[str, Any]],
    places: dict[str, Path],
    known: ReferencePredictions,
    temperature: float,
    net: Any,
) -> dict[str, float]:
    """Add the latency to every certificate; return the checkpoint's own.

    Args:
        entries: The certificates.
        places: Files by name; ``<format> fp32`` stands for one that int8 is measured against.
        known: The images.
        temperature: Of the checkpoint.
        net: The checkpoint's network.
    """
    from emotion_lab.exporters.verify import eager, latency, speedup_verdict
    from emotion_lab.inference.loader import load

    ways: dict[str, Any] = {"checkpoint": lambda threads: eager(net, temperature)}
    for name, path in places.items():
        ways[name] = lambda threads, path=path: load(path, threads).run
    found = latency(ways, known.faces[0])
    for entry in entries:
        entry["latency_ms"] = found[entry["file"]]
        if entry["precision"] == "int8":
            entry["fp32_latency_ms"] = found[f"{entry['format']} fp32"]
            entry["not_worth_it"] = speedup_verdict(entry["latency_ms"], entry["fp32_latency_ms"])
    return found["checkpoint"]


def _reference(images: Images, net: Any, card: dict[str, Any]) -> ReferencePredictions:
    from emotion_lab.exporters.verify import ReferencePredictions, eager, predict_all

    given = predict_all(eager(net, card["temperature"]), images.faces)
    return ReferencePredictions(
        images.faces, images.labels, images.names, card["classes"], given, images.notes
    )


def export(cfg: DictConfig) -> int:
    """Write the files, certify each; returns how many failed.

    Raises:
        Failed: If one did, once everything is written.
    """
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.core.environment import git_commit, hardware, versions
    from emotion_lab.core.io import file_hash, write_json
    from emotion_lab.data.shards.writer import LICENCES, UNKNOWN_LICENCE
    from emotion_lab.evaluate import data_config, describe
    from emotion_lab.exporters import writer
    from emotion_lab.exporters.base import chosen
    from emotion_lab.exporters.calibration_data import val_images
    from emotion_lab.exporters.verify import certify
    from emotion_lab.exporters.verify_page import write_page
    from emotion_lab.models.load import restore
    from emotion_lab.training.fit import quiet

    quiet()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    plain = compose.to_container(cfg)
    source = ckpt.find(plain["ckpt"])
    net, card = restore(source)
    print(f"checkpoint: {source} ({describe(card)})")
    pairs = chosen(plain["format"], plain["precision"], plain["batch"])
    # Also what an export that was stopped has left: nobody certified it.
    paths.check_fresh(run_dir, *(n for pair in pairs for n in writer.file_names(card, *pair)))
    quantizes = any(precision == "int8" for _, precision in pairs)
    foreign = plain["data"]["name"] != "checkpoint"
    data = data_config(plain, card.get("members", [card])[0])
    images = val_images(card, data, foreign, plain["num_images"], plain["calibration"] if quantizes else 0)
    for note in images.notes:
        print(f"  {note}")
    licence = plain["licence"] or LICENCES.get(data["name"], UNKNOWN_LICENCE)
    about: dict[str, Any] = {
        "checkpoint_sha256": file_hash(source),
        "size_mb": source.stat().st_size / 1e6,
        "data": data["name"],
        "fingerprint": images.fingerprint,
        "licence": licence,
        "notes": images.notes,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    facts = {"batch": plain["batch"], "checkpoint": about["checkpoint_sha256"], "licence": licence}
    entries, places = [], {}
    with tempfile.TemporaryDirectory() as spare:
        for name, precision in pairs:
            path = run_dir / writer.file_name(card, name, precision)
            writer.export(net, card, name, precision, path, images.calibration, **facts)
            places[path.name] = path
            if precision == "int8":
                plainer = Path(spare) / writer.file_name(card, name, "fp32")
                places[f"{name} fp32"] = writer.export(net, card, name, "fp32", plainer, **facts)
        # Last of all: PyTorch changes the memory format of the network it runs.
        known = _reference(images, net, card)
        for name, precision in pairs:
            path = run_dir / writer.file_name(card, name, precision)
            entries.append(certify(path, name, precision, known))
        about["latency_ms"] = _time(entries, places, known, card["temperature"], net)
    about |= {"commit": git_commit(), "hardware": hardware("cpu"), "versions": versions()}
    position = {name: i for i, name in enumerate(images.names)}
    for entry in entries:
        beside = run_dir / entry["file"]
        worst = [images.faces[position[one["image"]]] for one in entry.get("worst", [])]
        write_json(Path(f"{beside}.certificate.json"), {**entry, "about": about})
        write_page(Path(f"{beside}.certificate.html"), entry, about, worst)
        print(_line(entry, about["latency_ms"]))
        if entry.get("not_worth_it"):
            print(f"  {entry['not_worth_it']}")
    write_json(run_dir / "certificate.json", {"files": entries, **about})
    print(run_dir)
    failed = [entry for entry in entries if not entry["passed"]]
    if failed:
        said = " | ".join(f"{one['file']}: {'; '.join(one['failures'])}" for one in failed)
        raise ParityError(f"{len(failed)} of {len(entries)} certificates failed. {said}.")
    return 0


def main() -> None:
    """Entry point of ``emotion-export``."""
    app.run("export", export, validate, RESULTS)


if __name__ == "__main__":
    main()
