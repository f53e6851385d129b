"""Small valid inputs of all commands, for tests that damage one of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hrkd_cli.cli.main import main

DOMAINS = ("books", "dvd")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def run_program(*words: str) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def working_folder(folder: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run the block in a folder, with variables, and restore the environment afterwards."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_rows(folder: Path) -> None:
    """Write a CSV file for each domain."""
    folder.mkdir()
    for domain in DOMAINS:
        lines = [
            f"{domain} {word} {n},{label}"
            for n in "abcdefghijklmnopqrst"  # the tokenizer has no digits
            for word, label in (("good", "positive"), ("bad", "negative"))
        ]
        (folder / f"{domain}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")


def write_dataset(folder: Path) -> None:
    """Prepare these rows."""
    write_rows(folder.with_name("source"))
    with working_folder(folder.parent):
        assert run_program("prepare", "source", "--out", folder.name, "--test", "0.2")[0] == 0


def write_student(folder: Path, **options: Any) -> None:
    """Write a model with random weights, exported to fp32."""
    from hrkd_cli import export
    from tiny_folder import write_model

    export(write_model(folder, **options), latency=False)


def write_encoder(architecture: str, **sizes: Any) -> Callable[[Path], None]:
    """Return a function that writes a plain encoder with random weights and a tokenizer."""

    def write(folder: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModel

        from tiny_folder import write_tokenizer

        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **{"vocab_size": 80, **sizes})
        AutoModel.from_config(config).save_pretrained(folder)
        write_tokenizer(folder)

    return write


def enlarge_tokenizer(write: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that adds more tokens to a tokenizer than the model has embeddings."""

    def write_enlarged(folder: Path) -> None:
        write(folder)
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary |= {f"more{n}": len(vocabulary) + n for n in range(50)}
        path.write_text(json.dumps(content))

    return write_enlarged


def write_run(folder: Path) -> None:
    """Write a finished run with a few steps."""
    from fake_runs import lines, write_lines

    write_lines(folder, lines())


WRITERS: dict[str, Callable[[Path], None]] = {
    "raw": write_rows,
    "dataset": write_dataset,
    "student": write_student,
    "plain": lambda folder: write_student(folder, plain_labels=["negative", "positive"]),
    "grown": enlarge_tokenizer(write_student),
    "encoder": write_encoder("bert", **SIZES),
    "grown-encoder": enlarge_tokenizer(write_encoder("bert", **SIZES)),
    "gpt2": write_encoder("gpt2", n_embd=32, n_layer=2, n_head=4),
    "llama": write_encoder("llama", **SIZES, num_key_value_heads=2, pad_token_id=0),
    "t5": write_encoder("t5", d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4),
    "xlnet": write_encoder("xlnet", d_model=32, n_layer=2, n_head=4, d_inner=64),
    "mobilebert": write_encoder("mobilebert", **SIZES, embedding_size=32, intra_bottleneck_size=16),
    "mpnet": write_encoder("mpnet", **SIZES),
    "run": write_run,
}


class ValidInputs:
    """Copies valid inputs into a folder; each is made once, when it is first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def copy(self, name: str, folder: Path) -> None:
        """Copy the input of this name, if there is one, to ``folder / name``."""
        original = self.root / name / name
        if name not in WRITERS or (folder / name).exists():
            return
        if not original.exists():
            original.parent.mkdir(parents=True)
            WRITERS[name](original)
        shutil.copytree(original, folder / name)
