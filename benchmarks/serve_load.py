"""Load test of ``hrkd serve``: ``python benchmarks/serve_load.py MODEL [--batch-size N]``.

Starts the server on a free port and sends one sentence of the built-in sample per request, from as many connections at
a time as ``--levels`` says. It prints requests per second, latency (p50, p99) and the texts per call of the model.
Client and server share the machine.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from hrkd_cli import sample


def read_texts() -> list[str]:
    """Return the sentences of the sample."""
    files = sorted(Path(sample.__file__).parent.glob("*.jsonl"))
    return [json.loads(line)["text"] for file in files for line in file.read_text("utf-8").splitlines()]


def send(port: int, texts: list[str], end: float, milliseconds: list[float], refused: list[int]) -> None:
    """Send one text after the other on one connection until ``end``."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < end:
        body = json.dumps({"text": texts[number % len(texts)], "domain": "camera"})
        number += 1
        start = time.perf_counter()
        connection.request("POST", "/predict", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            milliseconds.append(1000 * (time.perf_counter() - start))
        else:
            refused.append(answer.status)


def calls_and_texts(url: str) -> tuple[float, float]:
    """Return the number of calls of the model so far, and of their texts."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    count, total = (re.search(rf"^hrkd_batch_texts_{name} (.*)$", text, re.MULTILINE) for name in ("count", "sum"))
    return float(count[1]), float(total[1])


def main() -> None:
    """Run the test and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--batch-size", default="1")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 8, 32, 96], help="connections at a time")
    parser.add_argument("--seconds", type=float, default=6, help="of each level")
    options = parser.parse_args()
    command = [sys.executable, "-m", "hrkd_cli", "serve", options.model, "--port", "0"]
    command += ["--batch-size", options.batch_size, "--threads", options.threads]
    texts = read_texts()
    print(f"batch size {options.batch_size}, {options.threads} thread(s), load before: {os.getloadavg()[0]:.1f}\n")
    print("| connections | requests/s | p50, ms | p99, ms | texts per call | status 503 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+", process.stderr.readline())[0]
            for level in options.levels:
                milliseconds: list[float] = []
                refused: list[int] = []
                before, start = calls_and_texts(url), time.perf_counter()
                arguments = (int(url.rpartition(":")[2]), texts, start + options.seconds, milliseconds, refused)
                threads = [threading.Thread(target=send, args=arguments) for _ in range(level)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                rate = len(milliseconds) / (time.perf_counter() - start)
                calls, count = (new - old for new, old in zip(calls_and_texts(url), before, strict=True))
                p50, p99 = (statistics.quantiles(milliseconds, n=100)[n] for n in (49, 98))
                print(
                    f"| {level} | {rate:.0f} | {p50:.0f} | {p99:.0f} | {count / calls:.1f} | {len(refused)} |",
                    flush=True,
                )
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
