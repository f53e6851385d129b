"""Label texts with an exported student: ``python hrkd_runtime.pyz DIR TEXT...`` prints one JSON object per line.

``hrkd predict`` for devices without hrkd-cli's packages.
"""

from __future__ import annotations

import argparse
import json
import sys

from hrkd_cli.errors import HrkdError
from hrkd_cli.predict.model_spec import ANY_DOMAIN
from hrkd_cli.predict.predictor import Predictor
from hrkd_cli.predict.selfcheck import self_check


def main() -> int:
    """Label texts from the arguments, or lines of stdin as they arrive; return the exit code."""
    parser = argparse.ArgumentParser(description="Label texts with an exported student: one JSON object per line.")
    parser.add_argument("model", help="folder of an exported student, its onnx folder, or one .onnx file")
    parser.add_argument("texts", nargs="*", metavar="text", help="texts to label (default: lines of stdin)")
    parser.add_argument(
        "--domain", default=ANY_DOMAIN, help="domain whose head predicts (default: the mean of all heads)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: chosen by onnxruntime)")
    parser.add_argument("--self-check", action="store_true", help="repeat the folder's stored predictions")
    args = parser.parse_args()
    try:
        if args.self_check:
            for result in self_check(args.model, threads=args.threads):
                sys.stdout.write(f"{result}\n")
            return 0
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        for prediction in Predictor(args.model, threads=args.threads).stream(args.texts or lines, domain=args.domain):
            sys.stdout.write(json.dumps(prediction.to_json(), ensure_ascii=False) + "\n")
            sys.stdout.flush()
    except HrkdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
