"""Kill a run again and again, at random moments, and see that nothing is lost.

    python benchmarks/kill_and_resume.py --kills 20

Runs ``hrkd distill`` on the built-in sample from a small encoder of random weights (so that it teaches, keeps teacher
outputs and distils) once in peace, then with SIGKILL and ``--resume`` after each, until ``--kills`` kills have struck:
one in three at a random moment, one in three while a checkpoint is half written, one in three while teacher outputs are
(or a checkpoint, where there are none to be written). Compares weights bit for bit and counts the steps in
metrics.jsonl. Checkpoints are written every other step. One process on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

STAGES = ("teacher", "student")


def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        encoder = write_encoder(Path(place) / "encoder")
        words = [
            "distill", "--teacher", str(encoder), "--data", "sample", "--student", "2x48", "--teacher-epochs", "2",
            "--epochs", str(options.epochs), "--max-length", "32", "--allow-weak-teacher", "--cache-teacher", "on",
            "--checkpoint-every", "2", "--quiet",
        ]  # fmt: skip
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        whole.mkdir()
        cut.mkdir()
        begun = time.monotonic()
        subprocess.run(command(words), cwd=whole, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - begun
        print(f"in peace: {seconds:.0f} s")
        struck = kill_and_resume(words, cut, rng, options.kills, seconds)
        print(f"{sum(struck.values())} kills: {', '.join(f'{where} {n}' for where, n in sorted(struck.items()))}")
        for stage in STAGES:
            compare(whole / "hrkd-out" / stage, cut / "hrkd-out" / stage)


def command(words: list[str]) -> list[str]:
    """Return the command line of the installed program."""
    return [sys.executable, "-m", "hrkd_cli", *words]


EARLY = 8  # kills before anything waits for the teacher's outputs


def kill_and_resume(words: list[str], folder: Path, rng: random.Random, kills: int, seconds: float) -> Counter[str]:
    """Kill the run ``kills`` times, then let it end; return where each kill struck."""
    struck: Counter[str] = Counter()
    while sum(struck.values()) < kills:
        process = subprocess.Popen(command([*words, "--resume"]), cwd=folder, stdout=subprocess.DEVNULL)
        before = state(folder)
        # Wait until it does something, then a random moment: imports are not what is tested.
        while process.poll() is None and state(folder) == before:
            time.sleep(0.005)
        aim(folder, process, rng, sum(struck.values()), kills / seconds)
        where = activity(folder)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            if process.returncode:
                raise SystemExit(f"resuming failed with exit code {process.returncode}")
            print(f"the run ended after {sum(struck.values())} kills; raise --epochs for more")
            return struck
        struck[where] += 1
    subprocess.run(command([*words, "--resume"]), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return struck


def aim(folder: Path, process: subprocess.Popen[bytes], rng: random.Random, number: int, rate: float) -> None:
    """Wait for the moment of kill ``number``."""
    if number % 3 == 0:
        time.sleep(rng.expovariate(rate))
        return
    cached = any((folder / "hrkd-out" / "teacher-cache").rglob("*")) and (folder / "hrkd-out/student.partial").exists()
    # The first ones leave the teacher no time to get done, so that its checkpoints are struck too.
    wanted = "keeping" if number % 3 == 1 and number >= EARLY and not cached else "writing"
    last = time.monotonic() + 20
    if wanted == "writing":
        time.sleep(rng.expovariate(rate))  # some steps further on, not at the first one
    while process.poll() is None and time.monotonic() < last and not activity(folder).startswith(wanted):
        time.sleep(0.0002)


def state(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return what is there, to see when it changes."""
    found = []
    for path in sorted((folder / "hrkd-out").rglob("*")) if (folder / "hrkd-out").exists() else ():
        try:
            found.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return tuple(found)


def activity(folder: Path) -> str:
    """Return what a run is doing, by the files that it has half-written."""
    out = folder / "hrkd-out"
    for stage in STAGES:
        if any(out.glob(f"{stage}.partial/.checkpoint-*")):
            return f"writing a checkpoint ({stage})"
    if any(out.glob("teacher-cache/*/.0*")):
        return "keeping teacher outputs"
    for stage in STAGES:
        if (out / f"{stage}.partial").exists():
            return f"{stage} in training"
    return "between stages"


def compare(whole: Path, cut: Path) -> None:
    """Compare two finished folders.

    Raises:
        SystemExit: they differ.
    """
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    equal = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    steps = []
    for folder in (whole, cut):
        records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        steps.append([record["step"] for record in records if "losses" in record])
    once = steps[0] == steps[1] == list(range(1, len(steps[0]) + 1))
    print(
        f"{whole.name}: weights {'equal, bit for bit' if equal else 'DIFFER'}; {len(steps[1])} steps, "
        f"{'each once' if once else 'NOT each once'} in metrics.jsonl"
    )
    if not (equal and once):
        raise SystemExit(1)


def write_encoder(folder: Path) -> Path:
    """Write a small BERT of random weights, with a tokenizer of the sample's own words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from hrkd_cli import sample

    texts = [
        json.loads(line)["text"]
        for file in Path(sample.__file__).parent.glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(sorted(texts), trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names, model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
