"""Load test of ``hrkd serve``: ``python benchmarks/serve_load.py MODEL [--batch-size N]``.

Starts the server on a free port and sends one sentence of the built-in sample per request, from as many connections at
a time as ``--levels`` says. It prints requests per second, latency (p50, p99), the processor time of the server per
request (which other programs hardly change; Linux only), the texts per call of the model and the requests that were
sent away. Client and server share the machine.
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


def read_metrics(url: str) -> list[float]:
    """Return calls of the model so far, texts in them, and seconds of processor time."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    names = ("hrkd_batch_texts_count", "hrkd_batch_texts_sum", "process_cpu_seconds_total")
    values = dict(re.findall(r"^(\w+) (.*)$", text, re.MULTILINE))
    return [float(values[name]) for name in names]


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
    print("| connections | requests/s | p50, ms | p99, ms | processor, ms | texts per call | status 503 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            (url,) = re.findall(r"http://\S+", process.stderr.readline())
            for level in options.levels:
                milliseconds: list[float] = []
                refused: list[int] = []
                before, start = read_metrics(url), time.perf_counter()
                arguments = (int(url.rpartition(":")[2]), texts, start + options.seconds, milliseconds, refused)
                threads = [threading.Thread(target=send, args=arguments) for _ in range(level)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                rate = len(milliseconds) / (time.perf_counter() - start)
                calls, count, cpu = (new - old for new, old in zip(read_metrics(url), before, strict=True))
                p50, p99 = (statistics.quantiles(milliseconds, n=100)[n] for n in (49, 98))
                values = (
                    f"{rate:.0f}",
                    f"{p50:.0f}",
                    f"{p99:.0f}",
                    f"{1000 * cpu / count:.1f}",
                    f"{count / calls:.1f}",
                )
                print(f"| {level} | {' | '.join(values)} | {len(refused)} |", flush=True)
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
