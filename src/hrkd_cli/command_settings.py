"""Options of the commands that do not train, each defined once, and those that all commands share."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path

from hrkd_cli import layout
from hrkd_cli.choices import Device, SourceFormat, Split, Target
from hrkd_cli.errors import UsageError
from hrkd_cli.options import Range, Settings, option
from hrkd_cli.settings import AT_LEAST_0, AT_LEAST_1, force_option, output, seed_option, shared

_argument = partial(option, argument=True)
_column = partial(option, None, metavar="COLUMN", shown="found by usual names")
_raw_column = partial(_column, panel="Columns of raw data")
_share = partial(option, 0.1, metavar="SHARE", within=Range(0, 1, below=True))
_data = partial(option, None, metavar="DIR_OR_RAW")
_device = partial(shared, Device.AUTO, "Device for model folders; ONNX files run on the CPU.")
_threads = partial(option, None, "CPU threads.", metavar="N", within=AT_LEAST_1, shown="the runtime's choice")


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Settings):
    """Options that every command has."""

    json: bool = shared(False, "Write one JSON object to stdout, and nothing else.")
    quiet: bool = shared(False, "Show results, warnings and errors only.", short="-q")
    verbose: bool = shared(False, "Show every step and the logs of libraries.", short="-v")
    config: Path | None = shared(
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
        "A file with a domain column; a folder with one file or one folder per domain; GLUE's MNLI folder; or the id "
        "of a dataset on the hub.",
        metavar="SOURCE",
    )
    out: Path = output(layout.DATASET_OUT)
    format: SourceFormat = option(SourceFormat.AUTO, "Layout of the source; auto looks at the files.")
    dev: float = _share("Fraction of the rows for dev, if the source has no dev split.")
    test: float = _share("Fraction of the rows for test, if the source has no test split.")
    few_shot: float | None = option(
        None,
        "Keep this fraction of the train rows, stratified by label.",
        metavar="SHARE",
        shown="all of it",
        within=Range(0, 1, above=True),
    )
    domains: list[str] | None = option(None, "Keep only these domains.", metavar="A,B", shown="all")
    dedupe: bool = option(True, "Drop duplicate texts within a domain.")
    encoding: str | None = option(
        None, "Encoding of text files, like cp1252.", metavar="NAME", shown="UTF-8, or by byte order mark"
    )
    text: str | None = _raw_column("Text.")
    text_pair: str | None = _raw_column("Second text of a pair.")
    label: str | None = _raw_column("Label.")
    domain: str | None = _raw_column("Domain.")
    split: str | None = _raw_column("Split (train, dev or val, test).")
    seed: int = seed_option()
    force: bool = force_option()

    @property
    def columns(self) -> dict[str, str]:
        """Names of columns by role, those that were given."""
        named = {role: getattr(self, role) for role in ("text", "text_pair", "label", "domain", "split")}
        return {role: name for role, name in named.items() if name is not None}

    def check(self) -> None:
        """Refuse splits that leave nothing to train on."""
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
        shown="teacher, student and onnx under hrkd-out",
    )
    data: str | None = _data(
        "Prepared dataset folder, or a raw source.",
        shown="hrkd-out/dataset, else what the first model was made from",
    )
    split: Split = option(Split.TEST, "Split to score.")
    by_label: bool = option(False, "Also show scores per label.")
    latency: bool = option(False, "Measure milliseconds per text (median and 95th percentile, batch 1).")
    floor: bool = option(False, "Also train and score a linear model (TF-IDF of words) on the train split.")
    threads: int | None = _threads()
    device: Device = _device()


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Arguments of ``export``."""

    student: Path = _argument(layout.STUDENT_OUT, "Student folder.", metavar="STUDENT")
    int8: bool = option(False, "model_quantized.onnx: int8, activations quantized at run time.")
    int8_static: bool = option(
        False, "model_int8_static.onnx: int8 with ranges measured on dev; answers do not depend on padding or batch."
    )
    fp16: bool = option(False, "model_fp16.onnx: weights in half precision, arithmetic in fp32.")
    int4: bool = option(False, "model_q4.onnx: weights in 4 bits; the smallest, for onnxruntime only.")
    target: Target = option(
        Target.AUTO, "CPU that the int8 files are for; auto: this machine. Decides how many bits weights have."
    )
    max_drop: float = option(
        0.5,
        "Accuracy gate: points of average dev accuracy that a smaller file may lose. If it loses more, safer "
        "recipes are tried; if none passes, exit code 3 and no file.",
        metavar="POINTS",
        within=AT_LEAST_0,
    )
    domain: str | None = option(
        None,
        "Export one domain's head with plain labels, in a separate folder that any text-classification pipeline opens.",
        metavar="NAME",
        shown="all heads",
    )
    trim_vocabulary: bool = option(
        False, "Drop tokens that the train split does not use, in a separate folder that must pass the gate."
    )
    vocabulary_size: int | None = option(
        None, "Trim to the N most used tokens.", metavar="N", shown="all used tokens", within=AT_LEAST_1
    )
    runtime: bool = option(False, "Also write hrkd_runtime.pyz, which predicts without hrkd-cli.")
    latency: bool = option(True, "Measure latency for the model card (some seconds per file).")
    data: str | None = _data(
        "Data for the gate and calibration (dev split) and for trimming (train split).",
        shown="the data the student was made from",
    )
    out: Path | None = option(
        None, "Folder to write onnx/ into.", metavar="DIR", shown="STUDENT, or STUDENT-NAME beside it"
    )
    force: bool = force_option()

    @property
    def trims(self) -> bool:
        """Whether the vocabulary is trimmed."""
        return self.trim_vocabulary or self.vocabulary_size is not None


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """What ``hrkd predict`` takes."""

    model: str = _argument(
        MISSING, "Exported onnx folder or .onnx file (needs no torch), or a model folder.", metavar="MODEL"
    )
    texts: list[str] | None = _argument(
        None,
        "Texts to label, or one .txt, .csv, .tsv, .jsonl or .parquet file. For pairs: two texts separated by a TAB.",
        metavar="TEXT",
        shown="stdin, one text per line",
    )
    input: Path | None = option(None, "File of texts: one per line, or columns.", metavar="FILE")
    text: str | None = _column("Column of the text.")
    text_pair: str | None = _column("Column of the second text.")
    domain: str = option("any", "Domain head to use; any: average over all heads.", metavar="NAME")
    self_check: bool = option(
        False, "Repeat the predictions stored in an exported folder; exit code 1 if they differ on this machine."
    )
    threads: int | None = _threads()
    device: Device = _device()

    def check(self) -> None:
        """Refuse texts where the folder's own are used."""
        if self.self_check and (self.texts or self.input is not None):
            raise UsageError("--self-check has texts of its own; leave out TEXT and --input")


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Arguments of ``report``."""

    runs: list[str] | None = _argument(
        None,
        "Folders of teach or distill, or OUT.partial of an unfinished run; several are compared.",
        metavar="RUN",
        shown="hrkd-out/student",
    )
    out: Path | None = option(
        None,
        "HTML file to write; an existing report is replaced.",
        metavar="FILE",
        shown="RUN/report.html, hrkd-out/report.html for several runs",
    )
    force: bool = shared(False, "Replace a file that is not a report.")
