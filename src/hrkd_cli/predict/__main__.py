"""The program ``hrkd-runtime``, and of ``hrkd_runtime.pyz``: ``hrkd predict`` for devices without hrkd-cli."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hrkd_cli.errors import HrkdError, UsageError
from hrkd_cli.predict import records, text_input
from hrkd_cli.predict.model_spec import AUTO_DOMAIN
from hrkd_cli.predict.predictor import Predictor
from hrkd_cli.predict.selfcheck import self_check
from hrkd_cli.version import __version__

_INTERRUPTED = 130
_TERMINATED = 143
# Formats that need hrkd-cli, or another program.
_TABLES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".review", ".xlsx", ".gz", ".zst")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with the given arguments, by default those of the process, and return the exit code."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    serves = words[:1] == ["serve"]
    options = _serve_parser().parse_args(words[1:]) if serves else _parser().parse_intermixed_args(words)
    try:
        _check_numbers(options)
        signal.signal(signal.SIGTERM, _terminate)
        if serves:
            _serve(options)
        elif options.self_check:
            _self_check(options)
        else:
            _label(options)
        sys.stdout.flush()
    except HrkdError as error:
        _write_error(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader is gone (hrkd-runtime ... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _write_error(f"{error.filename or 'stdout'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hrkd-runtime",
        description="Label texts with an exported student: one JSON object per line.",
        epilog="hrkd-runtime serve MODEL labels texts over HTTP; see hrkd-runtime serve --help.",
    )
    _add_model_options(parser)
    parser.add_argument("texts", nargs="*", default=[], metavar="text", help="texts to label (default: lines of stdin)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="file with one text per line")
    parser.add_argument("--domain", default=AUTO_DOMAIN, help="domain of the texts (default: auto, find it)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to a .jsonl, .csv or .parquet file")
    parser.add_argument("--force", action="store_true", help="replace the file of --output")
    parser.add_argument("--self-check", action="store_true", help="repeat the folder's stored predictions")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _serve_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hrkd-runtime serve", description="Label texts over HTTP: POST /predict, GET /health, GET /metrics."
    )
    _add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any free one (default: 8000)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at a time (default: 64)")
    parser.add_argument("--max-body", type=int, default=1_000_000, help="largest request in bytes (default: 1000000)")
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of an exported student, its onnx folder, or one .onnx file")
    parser.add_argument("--min-confidence", type=float, metavar="P", help="mark answers with a probability below P")
    parser.add_argument(
        "--target-accuracy",
        type=float,
        metavar="PERCENT",
        help="mark answers so that this many of the others are right",
    )
    parser.add_argument("--fallback", metavar="MODEL", help="larger model that answers the marked texts instead")
    parser.add_argument("--batch-size", type=int, help="texts per forward pass (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: chosen by onnxruntime)")


def _check_numbers(options: argparse.Namespace) -> None:
    """Raise UsageError for a number that is not at least 1."""
    for name in ("batch_size", "threads", "concurrency", "max_body"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: {value} is not at least 1")


def _open_predictor(options: argparse.Namespace) -> Predictor:
    return Predictor(
        options.model,
        threads=options.threads,
        min_confidence=options.min_confidence,
        target_accuracy=options.target_accuracy,
        fallback=options.fallback,
    )


def _serve(options: argparse.Namespace) -> None:
    from hrkd_cli.predict import server

    server.serve(
        _open_predictor(options),
        model=options.model,
        host=options.host,
        port=options.port,
        announce=lambda url: _write_error(f"serving {options.model} at {url}"),
        batch_size=options.batch_size,
        concurrency=options.concurrency,
        max_body=options.max_body,
    )


def _self_check(options: argparse.Namespace) -> None:
    text_input.check_self_check_options(vars(options), vars(_parser().parse_args([options.model])))
    for result in self_check(options.model, threads=options.threads):
        sys.stdout.write(f"{result}\n")


def _has_data_suffix(text: str) -> bool:
    return text.lower().endswith((".txt", *_TABLES))


def _label(options: argparse.Namespace) -> None:
    """Label the arguments, or each line of a file or of stdin as it arrives."""
    file = text_input.input_file(options.texts, options.input, _has_data_suffix)
    if file is not None and file.suffix.lower() in _TABLES:
        raise UsageError(f"{file}: hrkd-runtime reads files with one text per line; convert it, or install hrkd-cli")
    if options.output is not None:
        records.check_output(options.output, file, force=options.force)
    predictor = _open_predictor(options)
    has_pairs = predictor.spec.pair is True
    if options.texts and file is None:
        rows: Iterable[text_input.InputRow] = text_input.from_arguments(options.texts, has_pairs, options.domain)
    else:
        stream, name = (sys.stdin.buffer, "stdin") if file is None else (file.open("rb"), str(file))
        rows = text_input.from_lines(
            stream, name, has_pairs, options.domain, lambda text: _write_error(f"warning: {text}")
        )
    made = records.make_records(
        predictor, rows, batch_size=options.batch_size, as_they_arrive=file is None and not options.texts
    )
    output = nullcontext(_write_line) if options.output is None else records.open_output(options.output, {})
    with output as write:
        for record in made:
            write(record)


def _terminate(_signal: int, _frame: Any) -> None:
    # A SystemExit, so that clean-up runs. A second SIGTERM, during clean-up, kills the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(_TERMINATED)


def _write_line(record: records.Record) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")) + "\n")
    sys.stdout.flush()


def _write_error(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
