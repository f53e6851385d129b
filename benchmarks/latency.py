"""Times one text through a teacher and its student: ``python benchmarks/latency.py [TEACHER STUDENT]``.

Models take turns: teacher and student in torch, the student's fp32 graph as traced and as rewritten by export, its
smaller formats and, if installed, optimum's default export with its int8 and OpenVINO's int8. Without folders, the
models are BERT-base and a 4 x 312 student with random weights. Each model has its own process, which waits while others
are timed, because several runtimes in one process would compete for the CPU.

    python benchmarks/latency.py --threads 1 --optimum-python other-env/bin/python --openvino-python third/bin/python

--optimum-python is the Python of an environment with optimum-onnx (transformers 4.57), --openvino-python one with
openvino and nncf. --clock cpu measures the CPU time of a model's process, which with one thread is about the time on an
idle machine, even if other programs run. --rewrites times int8 after zero, one, two and all rewrites instead.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LENGTHS = (16, 32, 64, 128, 256)
SHAPES = {"teacher": (12, 768, 3072), "student": (4, 312, 1200)}
VOCABULARY = 30522
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")

# Each process loads a model, then answers each line "TOKENS RUNS" with the milliseconds of each run.
WORKER = """
import json, sys, time
import numpy as np

kind, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
clock = time.process_time if sys.argv[4] == "cpu" else time.perf_counter
if kind == "torch":
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]

    def forward(arrays):
        with torch.inference_mode():
            model(**{name: torch.from_numpy(arrays[name]) for name in names})
elif kind == "onnx":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def forward(arrays):
        session.run(None, {name: arrays[name] for name in names})
else:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    names = [entry.any_name for entry in openvino.Core().read_model(path).inputs]

    def forward(arrays):
        request.infer({name: arrays[name] for name in names})

print("ready", file=sys.stderr, flush=True)
for line in sys.stdin:
    tokens, runs = map(int, line.split())
    ids = np.random.default_rng(0).integers(1000, 20000, (1, tokens))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    for _ in range(2):
        forward(arrays)
    milliseconds = []
    for _ in range(runs):
        start = clock()
        forward(arrays)
        milliseconds.append(1000 * (clock() - start))
    print(json.dumps(milliseconds), flush=True)
"""

OPTIMUM = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

source, out = sys.argv[1:]
ORTModelForSequenceClassification.from_pretrained(source, export=True).save_pretrained(out)
config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
ORTQuantizer.from_pretrained(out).quantize(save_dir=out, quantization_config=config)
"""

OPENVINO = """
import sys
import numpy as np
import nncf, openvino

source, out = sys.argv[1:]
model = openvino.Core().read_model(source)
random = np.random.default_rng(0)
names = [entry.any_name for entry in model.inputs]
rows = []
for tokens in random.integers(8, 256, 64):
    ids = random.integers(1000, 20000, (1, int(tokens)))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    rows.append({name: arrays[name] for name in names})
small = nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER)
openvino.save_model(small, out)
"""


class Worker:
    """A process that holds one model and times it on request."""

    def __init__(self, python: str, kind: str, path: Path, threads: int, clock: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [python, "-c", WORKER, kind, str(path), str(threads), clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            if line.strip() == "ready":
                return
            lines.append(line)
        sys.exit(f"{kind} {path}: {''.join(lines[-3:])}")

    def time(self, tokens: int, runs: int) -> list[float]:
        """Return the milliseconds of each run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{tokens} {runs}\n")
        self.process.stdin.flush()
        milliseconds: list[float] = json.loads(self.process.stdout.readline())
        return milliseconds


def write_random(folder: Path, layers: int, width: int, inner: int) -> Path:
    """Write a classifier with random weights, and the tokenizer file that loading requires."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=inner,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def write_files(student: Path, out: Path) -> dict[str, Path]:
    """Write the student's graphs: as traced, as rewritten, and in smaller formats with their first recipes.

    There is no gate, because speed does not depend on the weights' values.
    """
    import numpy as np

    from hrkd_cli.choices import Target
    from hrkd_cli.models.torch_backend import TorchBackend
    from hrkd_cli.onnx_export.cpu_targets import weight_format_for
    from hrkd_cli.onnx_export.graph_editor import OnnxFormat
    from hrkd_cli.onnx_export.quantizers import QuantizerInputs
    from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe
    from hrkd_cli.onnx_export.rewrites import rewrite_file
    from hrkd_cli.onnx_export.trace import trace_to_onnx

    backend = TorchBackend(student, device="cpu")
    traced, fp32 = out / "traced.onnx", out / "fp32.onnx"
    # With segments even if the tokenizer has none, because optimum's graph has them.
    backend.input_names = INPUT_NAMES
    trace_to_onnx(backend, traced)
    shutil.copy(traced, fp32)
    rewrite_file(fp32)
    files = {"student ONNX fp32 as traced": traced, "student ONNX fp32": fp32}
    ids = np.random.default_rng(0).integers(1000, 20000, (1, 64))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    inputs = QuantizerInputs(weight_format_for(Target.AUTO), lambda: iter([arrays]))
    int8 = out / "int8_as_traced.onnx"
    apply_recipe(traced, int8, OnnxFormat.INT8, FORMATS[OnnxFormat.INT8].tiers[0][0], inputs)
    files["student ONNX int8 as traced"] = int8
    for onnx_format in (OnnxFormat.FP16, OnnxFormat.INT8, OnnxFormat.INT8_STATIC, OnnxFormat.INT4):
        path = out / f"{onnx_format}.onnx"
        apply_recipe(fp32, path, onnx_format, FORMATS[onnx_format].tiers[0][0], inputs)
        files[f"student ONNX {onnx_format}"] = path
    return files


def write_rewrites(student: Path, out: Path) -> dict[str, Path]:
    """Write int8 graphs after no rewrite, the first one, the first two, and so on."""
    import onnx
    import onnx_ir as ir

    from hrkd_cli.choices import Target
    from hrkd_cli.models.torch_backend import TorchBackend
    from hrkd_cli.onnx_export import rewrites
    from hrkd_cli.onnx_export.cpu_targets import weight_format_for
    from hrkd_cli.onnx_export.graph_editor import OnnxFormat, to_proto
    from hrkd_cli.onnx_export.quantizers import QuantizerInputs
    from hrkd_cli.onnx_export.recipes import FORMATS, apply_recipe
    from hrkd_cli.onnx_export.trace import trace_to_onnx

    backend = TorchBackend(student, device="cpu")
    backend.input_names = INPUT_NAMES
    trace_to_onnx(backend, out / "traced.onnx")
    files = {}
    for count in range(len(rewrites.REWRITES) + 1):
        names = list(rewrites.REWRITES)[:count]
        model = ir.load(out / "traced.onnx")
        rewrites.rewrite(model, names)
        onnx.save(to_proto(model), str(out / "some.onnx"))
        name = f"int8, and {names[-1].replace('_', ' ')}" if names else "int8 as traced"
        files[name] = out / f"rewrites_{count}.onnx"
        recipe = FORMATS[OnnxFormat.INT8].tiers[0][0]
        inputs = QuantizerInputs(weight_format_for(Target.AUTO))
        apply_recipe(out / "some.onnx", files[name], OnnxFormat.INT8, recipe, inputs)
    return files


def prepare(arguments: argparse.Namespace, work: Path) -> dict[str, tuple[str, str, Path]]:
    """Write all models; return the Python to run, the kind and the path by name."""
    folders = {"teacher": arguments.teacher, "student": arguments.student}
    for name, shape in SHAPES.items():
        folders[name] = folders[name] or write_random(work / name, *shape)
    if arguments.rewrites:
        files = write_rewrites(folders["student"], work)
        return {name: (sys.executable, "onnx", path) for name, path in files.items()}
    models = {f"{name} torch": (sys.executable, "torch", folder) for name, folder in folders.items()}
    files = write_files(folders["student"], work)
    models |= {name: (sys.executable, "onnx", path) for name, path in files.items()}
    if arguments.optimum_python:
        out = work / "optimum"
        run(arguments.optimum_python, OPTIMUM, str(folders["student"]), str(out))
        models["student optimum fp32"] = (sys.executable, "onnx", out / "model.onnx")
        models["student optimum int8"] = (sys.executable, "onnx", out / "model_quantized.onnx")
    if arguments.openvino_python:
        out = work / "openvino.xml"
        run(arguments.openvino_python, OPENVINO, str(files["student ONNX fp32 as traced"]), str(out))
        models["student OpenVINO int8"] = (arguments.openvino_python, "openvino", out)
    return models


def run(python: str, code: str, *arguments: str) -> None:
    """Run code under another Python, and exit with the end of its stderr if it fails."""
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python}: {done.stderr[-400:]}")


def report(times: dict[str, dict[int, list[float]]], lengths: list[int], models: dict[str, Path]) -> None:
    """Print medians and 95th percentiles, then the speedup of int8 over the other models."""
    print("| p50 / p95, ms |" + "".join(f" {n} |" for n in lengths) + " MB |")
    print("| --- |" + " ---: |" * (len(lengths) + 1))
    medians = {name: {n: statistics.median(runs) for n, runs in by_length.items()} for name, by_length in times.items()}
    for name, by_length in times.items():
        cells = [f"{medians[name][n]:.2f} / {statistics.quantiles(by_length[n], n=20)[-1]:.2f}" for n in lengths]
        path = models[name]
        weights = path
        if path.is_dir():
            weights = path / "model.safetensors"
        elif path.suffix == ".xml":
            weights = path.with_suffix(".bin")
        print(f"| {name} | " + " | ".join(cells) + f" | {weights.stat().st_size / 1e6:.1f} |")
    ours = medians.get("student ONNX int8", {})
    for other in ("teacher torch", "student optimum int8", "student OpenVINO int8", "student ONNX fp32"):
        if other in medians and ours:
            ratios = ", ".join(f"{n}: {medians[other][n] / ours[n]:.2f}" for n in lengths)
            print(f"\nspeedup of int8 over {other}, by tokens: {ratios}")


def main() -> None:
    """Write the models, time them in turns, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, nargs="?", help="model folder (default: random BERT-base)")
    parser.add_argument("student", type=Path, nargs="?", help="model folder (default: random 4 x 312)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every model (default 1)")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="numbers of tokens")
    parser.add_argument("--rounds", type=int, default=12, help="turns per model (default 12)")
    parser.add_argument("--runs", type=int, default=8, help="runs per turn (default 8)")
    parser.add_argument("--rewrites", action="store_true", help="time int8 after each rewrite instead")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="clock to measure with (default wall)")
    parser.add_argument("--optimum-python", metavar="PATH")
    parser.add_argument("--openvino-python", metavar="PATH")
    arguments = parser.parse_args()
    from hrkd_cli.machine import machine_name

    with tempfile.TemporaryDirectory() as name:
        models = prepare(arguments, Path(name))
        threads, clock = arguments.threads, arguments.clock
        workers = {name: Worker(python, kind, path, threads, clock) for name, (python, kind, path) in models.items()}
        times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in arguments.lengths} for name in models}
        for tokens in arguments.lengths:
            for _ in range(arguments.rounds):
                for name, worker in workers.items():
                    times[name][tokens] += worker.time(tokens, arguments.runs)
        for worker in workers.values():
            worker.process.kill()
        print(f"{machine_name()}; {threads} thread(s), {clock} time, {arguments.rounds} x {arguments.runs} runs\n")
        report(times, arguments.lengths, {name: path for name, (_, _, path) in models.items()})


if __name__ == "__main__":
    main()
