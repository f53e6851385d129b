"""Label texts with an exported student: ``python hrkd_runtime.pyz DIR TEXT...``, a JSON object per line.

What ``hrkd predict`` does for exported folders, for devices without its packages.
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
    """Label texts from the arguments, or lines of stdin as they come, and return the exit code."""
    parser = argparse.ArgumentParser(description="Label texts with an exported student: a JSON object per line.")
    parser.add_argument("model", help="folder of an exported student, its onnx folder, or one .onnx file")
    parser.add_argument("texts", nargs="*", metavar="text", help="texts to label (default: lines of stdin)")
    parser.add_argument(
        "--domain", default=ANY_DOMAIN, help="domain whose head answers (default: the mean of all heads)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: onnxruntime's choice)")
    parser.add_argument("--self-check", action="store_true", help="repeat the folder's stored predictions")
    given = parser.parse_args()
    try:
        if given.self_check:
            for entry in self_check(given.model, threads=given.threads):
                sys.stdout.write(f"{entry}\n")
            return 0
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        texts = given.texts or (line for line in lines if line.strip())
        for found in Predictor(given.model, threads=given.threads).stream(texts, domain=given.domain):
            sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
            sys.stdout.flush()
    except HrkdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
