"""Run of the export command: write the files, certify and time them, write the certificates."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from emotion_lab.core import checkpoint, paths
from emotion_lab.core.environment import git_commit, hardware, versions
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash, write_json
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data.checkpoint_data import data_config, is_foreign
from emotion_lab.data.shards.writer import LICENCES, UNKNOWN_LICENCE
from emotion_lab.exporters.calibration_data import ValImages, val_images
from emotion_lab.exporters.verify import (
    ReferencePredictions,
    certify,
    eager,
    latency,
    predict_all,
    speedup_verdict,
)
from emotion_lab.exporters.verify_page import write_page
from emotion_lab.inference.certificate import certificate_path
from emotion_lab.inference.conversion import writer
from emotion_lab.inference.conversion.base import DYNAMIC, FORMATS, select_formats
from emotion_lab.inference.loader import Run, load
from emotion_lab.models.load import LoadedCheckpoint, restore
from emotion_lab.models.quantities_head import join


class ParityError(UserError):
    """An exported file differs too much from its checkpoint."""

    exit_code = 1


def _summary_line(certificate: dict[str, Any], checkpoint_ms: dict[str, float]) -> str:
    """Return a printable line about one file."""
    text = "passed" if certificate["passed"] else "FAILED"
    if "label_flips" in certificate:
        text += (
            f", {certificate['label_flips']:,} of {certificate['n']:,} labels differ, largest "
            f"difference of a probability {certificate['max_drift']:.1g}, accuracy "
            f"{100 * certificate['accuracy_change']:+.2f} points"
        )
    if drifts := certificate.get("quantities"):
        largest = max(drift["max_drift"] for drift in drifts.values())
        text += f", largest difference of {', '.join(drifts)} {largest:.1g}"
    ms = certificate["latency_ms"]["b1"]
    text += f", {ms:.2f} ms per face (PyTorch {checkpoint_ms['b1']:.2f})"
    return f"{certificate['file']}: {text}, {certificate['size_mb']:.1f} MB"


def _measure_latency(
    certificates: list[dict[str, Any]], files: dict[str, Path], torch_run: Run, images: ValImages
) -> dict[str, float]:
    """Add the latency to every certificate; return that of the checkpoint.

    int8 is compared with the file ``<format> fp32``.
    """
    models: dict[str, Any] = {"checkpoint": lambda threads: torch_run}
    for name, path in files.items():
        models[name] = lambda threads, path=path: load(path, threads).run
    latencies = latency(models, images.faces[0])
    for certificate in certificates:
        certificate["latency_ms"] = latencies[certificate["file"]]
        if certificate["precision"] == "int8":
            fp32 = latencies[f"{certificate['format']} fp32"]
            certificate["fp32_latency_ms"] = fp32
            certificate["not_worth_it"] = speedup_verdict(certificate["latency_ms"], fp32)
    return latencies["checkpoint"]


def _export_and_certify(
    loaded: LoadedCheckpoint,
    pairs: list[tuple[str, str]],
    images: ValImages,
    run_dir: Path,
    facts: dict[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Write all files; return their certificates and the latency of the checkpoint."""
    net, card = join(loaded.net), loaded.card
    learned: list[str] = card["quantities"]
    files: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, precision in pairs:
            path = run_dir / writer.file_name(card, format, precision)
            writer.export(net, card, format, precision, path, images.calibration, **facts)
            files[path.name] = path
            if precision == "int8":
                fp32 = Path(folder) / writer.file_name(card, format, "fp32")
                files[f"{format} fp32"] = writer.export(net, card, format, "fp32", fp32, **facts)
        # After the exports, because it changes the memory format of the network.
        torch_run = eager(net, card["temperature"], len(learned))
        outputs = predict_all(torch_run, images.faces)
        k = len(card["classes"])
        reference = ReferencePredictions(
            *(images.faces, images.labels, images.names, card["classes"]),
            outputs[:, :k],
            dict(zip(learned, outputs[:, k:].T, strict=True)),
        )
        certificates = [
            certify(run_dir / writer.file_name(card, *pair), *pair, reference) for pair in pairs
        ]
        return certificates, _measure_latency(certificates, files, torch_run, images)


def _write_certificates(
    certificates: list[dict[str, Any]], about: dict[str, Any], images: ValImages, run_dir: Path
) -> None:
    """Write the JSON and HTML of each certificate and the summary of all; print one line each."""
    face = dict(zip(images.names, images.faces, strict=True))
    for certificate in certificates:
        path = run_dir / certificate["file"]
        worst = [face[image["image"]] for image in certificate.get("worst", [])]
        # backend=auto runs an int8 file only if it is the one that was certified.
        identity = {"sha256": file_hash(path), "about": about}
        write_json(certificate_path(path), {**certificate, **identity})
        write_page(Path(f"{path}.certificate.html"), certificate, about, worst)
        print(_summary_line(certificate, about["latency_ms"]))
        if certificate.get("not_worth_it"):
            print(f"  {certificate['not_worth_it']}")
    write_json(run_dir / "certificate.json", {"files": certificates, **about})


def export_checkpoint(cfg: dict[str, Any], run_dir: Path) -> None:
    """Export a checkpoint in every requested format and certify each file.

    Existing files are never replaced. A failed certificate raises :class:`ParityError` after all
    files are written.
    """
    path = find_checkpoint(cfg["ckpt"])
    loaded = LoadedCheckpoint(path, *restore(path))
    card = loaded.card
    print(f"checkpoint: {path} ({checkpoint.describe(card)})")
    if card["quantities"]:
        print(f'  output "quantities": the learned {", ".join(card["quantities"])}')
    pairs = select_formats(cfg["format"], cfg["precision"], cfg["batch"])
    if cfg["format"] == "all" and cfg["batch"] != DYNAMIC:
        for name in FORMATS.names():
            if not FORMATS.get(name).fixes_batch:
                print(f"  no {name} file: it supports no fixed batch size, only batch=dynamic")
    # An interrupted export leaves files without a certificate.
    paths.check_fresh(run_dir, *(name for pair in pairs for name in writer.file_names(card, *pair)))
    member = card.get("members", [card])[0]
    data_cfg, foreign = data_config(cfg["data"], member), is_foreign(cfg["data"], member)
    num_calibration = cfg["calibration"] if any(p == "int8" for _, p in pairs) else 0
    images = val_images(card, data_cfg, foreign, cfg["num_images"], num_calibration)
    for note in images.notes:
        print(f"  {note}")
    licence = cfg["licence"] or LICENCES.get(data_cfg["name"], UNKNOWN_LICENCE)
    sha256 = file_hash(path)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts = {"batch": cfg["batch"], "checkpoint": sha256, "licence": licence}
    certificates, latency_ms = _export_and_certify(loaded, pairs, images, run_dir, facts)
    about = {
        "checkpoint_sha256": sha256,
        "size_mb": path.stat().st_size / 1e6,
        "data": data_cfg["name"],
        "fingerprint": images.fingerprint,
        "trained_on": images.trained_on,
        "licence": licence,
        "notes": images.notes,
        "load": load_average,
        "latency_ms": latency_ms,
        "commit": git_commit(),
        "hardware": hardware("cpu"),
        "versions": versions(),
    }
    _write_certificates(certificates, about, images, run_dir)
    print(run_dir)
    failed = [certificate for certificate in certificates if not certificate["passed"]]
    if failed:
        reasons = " | ".join(f"{one['file']}: {'; '.join(one['failures'])}" for one in failed)
        raise ParityError(f"{len(failed)} of {len(certificates)} certificates failed. {reasons}.")
