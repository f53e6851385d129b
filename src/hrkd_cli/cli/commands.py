"""The commands that call one function of the package and show its result; nothing heavy is imported before the call."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hrkd_cli
from hrkd_cli import layout
from hrkd_cli.cli import launch, predict_input, tables
from hrkd_cli.cli.command import command
from hrkd_cli.cli.console import Console, is_terminal
from hrkd_cli.cli.progress import make_display
from hrkd_cli.command_settings import EvalSettings, ExportSettings, PredictSettings, PrepareSettings, ReportSettings
from hrkd_cli.errors import UsageError
from hrkd_cli.formatting import byte_size
from hrkd_cli.machine import cpu_name, instruction_sets, usable_cpus
from hrkd_cli.options import Settings, option_name
from hrkd_cli.settings import DistillArguments, TeachArguments
from hrkd_cli.version import __version__


@command(
    "prepare",
    PrepareSettings,
    "hrkd prepare ./reviews",
    "hrkd prepare reviews.csv --text body --label stars --domain shop",
    "hrkd prepare ./reviews --domains books,dvd --few-shot 0.1",
)
def prepare(run: Console, options: PrepareSettings) -> None:
    """Turn raw text of several domains into a dataset folder.

    The dataset has train, dev and test splits; those of the source are kept. Unusable rows are counted and listed with
    file and line.
    """
    with run.engine(make_display) as on_event:
        result = hrkd_cli.prepare(**vars(options), on_event=on_event)
    run.result(result.to_json(), tables.prepared(result.to_json()))
    run.note(f"dataset: {result.out}")
    run.note("next: hrkd teach --model MODEL" + _unless("--data", options.out, layout.DATASET_OUT))


@command(
    "teach",
    TeachArguments,
    "hrkd teach --model google-bert/bert-base-uncased",
    "hrkd teach --model ./encoder --data ./reviews --epochs 2",
)
def teach(run: Console, options: TeachArguments) -> None:
    """Fine-tune one encoder with one head per domain.

    Keeps the weights that score best on average, and those that score best for each domain.
    """
    launch.start_processes(options.processes)
    with run.engine(make_display) as on_event:
        result = hrkd_cli.teach(**vars(options), sources=run.sources, on_event=on_event)
    run.result(result.to_json(), tables.trained(result.to_json()))
    run.note(f"teacher: {result.out}")
    run.note("next: hrkd distill" + _unless("--teacher", options.out, layout.TEACHER_OUT))


@command(
    "distill",
    DistillArguments,
    "hrkd distill",
    "hrkd distill --student 4x312 --epochs 5",
    "hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews",
)
def distill(run: Console, options: DistillArguments) -> None:
    """Distill a teacher into a small student for all domains.

    Given a plain encoder as --teacher or raw --data, the earlier stages run first; their results are reused.
    """
    launch.start_processes(options.processes)
    with run.engine(make_display) as on_event:
        result = hrkd_cli.distill(**vars(options), sources=run.sources, on_event=on_event)
    run.result(result.to_json(), tables.trained(result.to_json()))
    run.note(f"student: {result.out}")
    run.note(f"next: hrkd export{_unless('', options.out, layout.STUDENT_OUT)} --int8")


@command(
    "eval",
    EvalSettings,
    "hrkd eval",
    "hrkd eval hrkd-out/teacher hrkd-out/student hrkd-out/student/onnx --latency",
    "hrkd eval hrkd-out/student --floor",
    "hrkd eval hrkd-out/student/onnx --data new.csv --split all --by-label",
)
def evaluate(run: Console, options: EvalSettings) -> None:
    """Score teacher, student and ONNX models side by side.

    Shows scores per domain and on average, and 95% intervals of the accuracy. ONNX models are scored one text at a time
    and also in padded batches.
    """
    with run.engine(make_display) as on_event:
        found = hrkd_cli.evaluate(**vars(options), on_event=on_event).to_json()
    run.result(found, tables.compared(found))
    for line in tables.floor_lines(found):
        run.note(line)


@command(
    "export",
    ExportSettings,
    "hrkd export --int8",
    "hrkd export ./student --int8 --max-drop 1.0",
    "hrkd export ./student --int8 --target avx2 --out ./for-old-pcs",
    "hrkd export --fp16 --int4",
    "hrkd export --int8 --domain books --trim-vocabulary --out ./books",
)
def export(run: Console, options: ExportSettings) -> None:
    """Export a student to ONNX, verified and checked against an accuracy gate.

    Always writes fp32, whose logits must equal the student's. Smaller files must pass the accuracy gate. Accuracy, size
    and latency are added to the student's README.md.
    """
    with run.engine(make_display) as on_event:
        found = hrkd_cli.export(**vars(options), on_event=on_event).to_json()
    run.result(found, tables.exported(found), tables.gate_lines(found))
    folder = Path(found["files"][0]["path"]).parent
    run.note(f"files: {folder}")
    run.note(f'next: hrkd predict {folder} "a text to classify"')


@command(
    "predict",
    PredictSettings,
    'hrkd predict hrkd-out/student/onnx "a lovely book" "it broke in a week"',
    "hrkd predict hrkd-out/student/onnx new.csv --text body --domain books",
    "hrkd predict --self-check hrkd-out/student",
    "tail -f messages.txt | hrkd predict hrkd-out/student/onnx",
)
def predict(run: Console, options: PredictSettings) -> None:
    """Label texts.

    Writes one JSON object per line: text, domain, label, scores. Exported folders do not need torch.
    """
    if options.self_check:
        _check(run, options)
        return
    texts, file = options.texts or [], predict_input.input_file(options)
    if file is None:
        for name in ("text", "text_pair"):
            if run.sources[name] == "flag":
                raise UsageError(f"{option_name(name)} names a column of a file; give the file with --input")
        if not texts and is_terminal(sys.stdin):
            raise UsageError("nothing to label: give texts as arguments, a file with --input, or lines on stdin")
    with run.engine():
        from hrkd_cli.predict.predictor import Predictor

        predictor = Predictor(options.model, threads=options.threads, device=str(options.device))
        pair, batch_size = predictor.spec.pair is True, None
        rows: Iterable[predict_input.Text]
        if file is not None:
            rows = predict_input.from_file(file, options.text, options.text_pair, pair)
        elif texts:
            rows = predict_input.from_arguments(texts, pair)
        else:
            rows, batch_size = predict_input.from_stdin(pair, run), 1  # a line is answered when it arrives
        for prediction in predictor.stream(rows, domain=options.domain, batch_size=batch_size):
            run.write_json(prediction.to_json(), indent=None)


@command(
    "report",
    ReportSettings,
    "hrkd report",
    "hrkd report hrkd-out/teacher --out teacher.html",
    "hrkd report hrkd-out/student.partial",
    "hrkd report ./frozen ./uniform --out compared.html",
)
def report(run: Console, options: ReportSettings) -> None:
    """Write one HTML page about a run: losses, dev scores, ratios, exported files.

    The page is self-contained. It also works for a run in progress.
    """
    with run.engine(make_display) as on_event:
        result = hrkd_cli.report(**vars(options), on_event=on_event)
    run.result(result.to_json(), tables.reported(result.to_json()))
    run.note(f"page: {result.out}")


@command("info", Settings)
def info(run: Console, _options: Settings) -> None:
    """Show versions, processor, memory and devices."""
    with run.engine():
        found = _machine()
    memory = byte_size(found["memory_bytes"]) if found["memory_bytes"] else None
    devices = {entry["device"]: entry["name"] for entry in found["devices"]}
    run.result(found, [tables.facts("", {**found, "memory_bytes": memory, "devices": devices}, words=(0, 1))])


def _check(run: Console, options: PredictSettings) -> None:
    """Repeat a folder's stored predictions and say so in a line."""
    with run.engine():
        from hrkd_cli.predict.selfcheck import self_check

        checked = self_check(options.model, threads=options.threads)
    found = {"passed": True, "files": [entry.to_json() for entry in checked]}
    run.result(found, lines=[f"self-check passed: {'; '.join(map(str, checked))}"])


def _unless(option: str, value: Path, default: Path) -> str:
    """Return `` --option value`` for a hint, or nothing where the default will do."""
    return "" if value == default else f" {option} {value}".replace("  ", " ")


def _machine() -> dict[str, Any]:
    cores = {"cores": os.cpu_count(), "usable_cores": usable_cpus()}
    return {
        "hrkd-cli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "cpu": {"name": cpu_name(), **cores, "instructions": instruction_sets()},
        "memory_bytes": _memory(),
        "devices": _devices(),
    }


def _packages() -> dict[str, str | None]:
    """Return the version of every package that this one depends on; None where it is not installed."""
    from importlib import metadata

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    required = metadata.requires("hrkd-cli") if version("hrkd-cli") else None
    names = [re.split(r"[^\w-]", line)[0] for line in required or () if "extra ==" not in line]
    return {name: version(name) for name in names}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> list[dict[str, str]]:
    """List what ``--device`` can name here."""
    cpu = {"device": "cpu", "name": cpu_name()}
    try:
        import torch
    except (ImportError, OSError) as error:
        return [{**cpu, "name": f"{cpu_name()} (torch cannot be imported: {error})"}]
    found = [cpu]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found
