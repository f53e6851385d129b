"""``hrkd predict``: texts in, JSON lines out. For an exported folder no training library is imported, nor Rich."""

from __future__ import annotations

from hrkd_cli.cli import texts
from hrkd_cli.cli.command import command
from hrkd_cli.cli.session import Session
from hrkd_cli.command_settings import PredictSettings
from hrkd_cli.errors import UsageError


@command(
    PredictSettings,
    'hrkd predict hrkd-out/student/onnx "a lovely book" "it broke in a week"',
    "hrkd predict hrkd-out/student/onnx new.csv --text body --domain books",
    "hrkd predict --self-check hrkd-out/student",
    "tail -f messages.txt | hrkd predict hrkd-out/student/onnx",
)
def predict(run: Session, options: PredictSettings) -> None:
    """Label texts.

    Writes one JSON object per line: text, domain, label, scores. An exported folder needs no torch.
    """
    if options.self_check:
        _check(run, options)
        return
    given = options.texts or []
    file = texts.named_file(given, options.input)
    if file is None:
        _refuse_columns(run)
        if not given:
            texts.refuse_terminal()
    with run.engine(progress=False):
        from hrkd_cli.predict.predictor import Predictor

        predictor = Predictor(options.model, threads=options.threads, device=str(options.device))
        pair = predictor.spec.pair is True
        if file is not None:
            chunks = texts.from_file(file, options.text, options.text_pair, pair)
        elif given:
            chunks = texts.from_arguments(given, pair)
        else:
            chunks = texts.from_stdin(pair, run.console.warn)
        for firsts, seconds in chunks:
            found = predictor.predict(firsts, seconds, domain=options.domain)
            run.console.json_lines(prediction.to_json() for prediction in found)


def _check(run: Session, options: PredictSettings) -> None:
    """Repeat a folder's stored predictions and say so in a line."""
    with run.engine(progress=False):
        from hrkd_cli.predict.selfcheck import self_check

        checked = self_check(options.model, threads=options.threads)
    found = {"passed": True, "files": [entry.to_json() for entry in checked]}
    run.console.result(found, lines=[f"self-check passed: {'; '.join(map(str, checked))}"])


def _refuse_columns(run: Session) -> None:
    """Refuse column names on the command line where no file has columns."""
    for name in ("text", "text_pair"):
        if run.sources[name] == "flag":
            option = name.replace("_", "-")
            raise UsageError(f"--{option} names a column of a file; give the file with --input")
