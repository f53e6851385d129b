"""The commands that call one function of the package and show its result; nothing heavy is imported before the call."""

from __future__ import annotations

from pathlib import Path

from hrkd_cli import layout
from hrkd_cli.cli import tables
from hrkd_cli.cli.command import command
from hrkd_cli.cli.session import Session
from hrkd_cli.command_settings import EvalSettings, ExportSettings, PrepareSettings, ReportSettings
from hrkd_cli.settings import DistillArguments, TeachArguments


@command(
    PrepareSettings,
    "hrkd prepare ./reviews",
    "hrkd prepare reviews.csv --text body --label stars --domain shop",
    "hrkd prepare ./reviews --domains books,dvd --few-shot 0.1",
)
def prepare(run: Session, options: PrepareSettings) -> None:
    """Turn raw text of several domains into a dataset folder.

    It has train, dev and test splits; those that the source has are kept. Rows that cannot be used are counted and
    shown with their file and line.
    """
    with run.engine() as on_event:
        from hrkd_cli.data.prepare import prepare as engine

        result = engine(**options.values(), on_event=on_event)
        if run.console.json:  # the table for people says it too
            result.report(on_event)
    run.console.result(result.to_json(), tables.prepared(result.to_json(), result.dropped_rows))
    run.console.hint(
        f"dataset: {result.out}", "hrkd teach --model MODEL" + _unless("--data", options.out, layout.DATASET_OUT)
    )


@command(
    TeachArguments,
    "hrkd teach --model google-bert/bert-base-uncased",
    "hrkd teach --model ./encoder --data ./reviews --epochs 2",
)
def teach(run: Session, options: TeachArguments) -> None:
    """Fine-tune one encoder with a head for every domain.

    The best step on average is kept, and the best step of each domain beside it.
    """
    run.in_processes(options.processes)
    with run.engine() as on_event:
        from hrkd_cli.teaching.teach import teach as engine

        result = engine(**options.values(), sources=run.sources, on_event=on_event)
    run.console.result(result.to_json(), tables.trained(result.to_json()))
    run.console.hint(f"teacher: {result.out}", "hrkd distill" + _unless("--teacher", options.out, layout.TEACHER_OUT))


@command(
    DistillArguments,
    "hrkd distill",
    "hrkd distill --student 4x312 --epochs 5",
    "hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews",
)
def distill(run: Session, options: DistillArguments) -> None:
    """Distill a teacher into a small student for all domains.

    With a plain encoder as --teacher or raw --data the stages before are run first, and reused while nothing changes.
    """
    run.in_processes(options.processes)
    with run.engine() as on_event:
        from hrkd_cli.distillation.distill import distill as engine

        result = engine(**options.values(), sources=run.sources, on_event=on_event)
    run.console.result(result.to_json(), tables.trained(result.to_json()))
    run.console.hint(f"student: {result.out}", f"hrkd export{_unless('', options.out, layout.STUDENT_OUT)} --int8")


@command(
    EvalSettings,
    "hrkd eval",
    "hrkd eval hrkd-out/teacher hrkd-out/student hrkd-out/student/onnx --latency",
    "hrkd eval hrkd-out/student --floor",
    "hrkd eval hrkd-out/student/onnx --data new.csv --split all --by-label",
)
def evaluate(run: Session, options: EvalSettings) -> None:
    """Score teacher, student and ONNX models side by side.

    Scores are by domain and on average; accuracy has its 95 % interval. ONNX models are scored one text at a time, and
    padded in batches beside that.
    """
    with run.engine() as on_event:
        from hrkd_cli.evaluation.evaluate import evaluate as engine

        result = engine(**options.values(), on_event=on_event)
    found = result.to_json()
    run.console.result(found, tables.compared(found))
    for line in tables.floor_lines(found):
        run.console.note(line)


@command(
    ExportSettings,
    "hrkd export --int8",
    "hrkd export ./student --int8 --max-drop 1.0",
    "hrkd export ./student --int8 --target avx2 --out ./for-old-pcs",
    "hrkd export --fp16 --int4",
    "hrkd export --int8 --domain books --trim-vocabulary --out ./books",
)
def export(run: Session, options: ExportSettings) -> None:
    """Write a student as ONNX files, checked and gated.

    fp32 is always written; its logits must equal the student's. Smaller precisions must pass the accuracy gate. The
    student's README.md gets their accuracy, size and latency.
    """
    with run.engine() as on_event:
        from hrkd_cli.onnx_export.export import export as engine

        result = engine(**options.values(), on_event=on_event)
    found = result.to_json()
    run.console.result(found, tables.exported(found), tables.gate_lines(found))
    folder = Path(found["files"][0]["path"]).parent
    run.console.hint(f"files: {folder}", f'hrkd predict {folder} "a text to classify"')


@command(
    ReportSettings,
    "hrkd report",
    "hrkd report hrkd-out/teacher --out teacher.html",
    "hrkd report hrkd-out/student.partial",
    "hrkd report ./frozen ./uniform --out compared.html",
)
def report(run: Session, options: ReportSettings) -> None:
    """Write one HTML page about a run: losses, dev scores, ratios, exported files.

    The page needs no network and nothing beside it. A run that is under way can be looked at, too.
    """
    with run.engine() as on_event:
        from hrkd_cli.reporting.report import report as engine

        result = engine(options.runs or layout.STUDENT_OUT, out=options.out, force=options.force, on_event=on_event)
    run.console.result(result.to_json(), tables.reported(result.to_json()))
    run.console.note(f"page: {result.out}")


def _unless(option: str, value: Path, default: Path) -> str:
    """Return `` --option value`` for a hint, or nothing where the default will do."""
    return "" if value == default else f" {option} {value}".replace("  ", " ")
