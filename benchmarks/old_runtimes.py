"""Which onnxruntime versions run exported files: ``python benchmarks/old_runtimes.py STUDENT/onnx --python PATH...``.

Each PATH is the Python of an environment with one version of onnxruntime and numpy in it, nothing else. Every file is
run on the same made-up texts there and here, and the logits are compared.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, sys
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
found = {}
for path in sys.argv[1:]:
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        logits = []
        for tokens in (3, 40):
            ids = np.arange(2 * tokens, dtype=np.int64).reshape(2, tokens) % 50
            mask = np.ones_like(ids)
            mask[1, tokens // 2 :] = 0
            arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            logits += session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()})[0].ravel().tolist()
        found[path] = logits
    except Exception as error:
        found[path] = str(error).splitlines()[0][:100]
print(json.dumps([onnxruntime.__version__, found]))
"""


def probe(python: str, files: list[str]) -> tuple[str, dict[str, list[float] | str]]:
    """Run the files under one Python; return its onnxruntime's version, and logits or an error by file."""
    done = subprocess.run([python, "-c", PROBE, *files], capture_output=True, text=True, check=True)
    version, found = json.loads(done.stdout)
    return version, found


def main() -> None:
    """Print a row for each version and a column for each file: the largest difference of logits, or the error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", nargs="+", required=True, metavar="PATH")
    arguments = parser.parse_args()
    files = sorted(str(path) for path in arguments.folder.glob("*.onnx"))
    here, expected = probe(sys.executable, files)
    names = [Path(path).name for path in files]
    print("| onnxruntime | " + " | ".join(names) + " |")
    print("| --- |" + " ---: |" * len(names))
    for python in arguments.python:
        version, found = probe(python, files)
        cells = []
        for path in files:
            logits = found[path]
            if isinstance(logits, str):
                cells.append(f"does not run: {logits}")
            else:
                cells.append(f"{max(abs(a - b) for a, b in zip(logits, expected[path], strict=True)):.1e}")
        print(f"| {version} | " + " | ".join(cells) + " |")
    print(f"\nLargest difference of logits from those of onnxruntime {here}.")


if __name__ == "__main__":
    main()
