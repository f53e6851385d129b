"""A torch classifier for evaluation and prediction."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from hrkd_cli.choices import Device
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.loading import is_classifier, load_classifier, load_tokenizer, resolve
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import FloatArray
from hrkd_cli.predict.tokenization import read_tokenizer


class TorchBackend(Backend):
    """A sequence classifier in float32 and eval mode."""

    kind = "torch"
    default_batch_size = 32  # its fp32 results do not depend on it

    def __init__(self, path: str | Path, *, threads: int | None = None, device: str = "auto") -> None:
        """Load a model folder or hub id.

        Args:
            path: folder, or hub id when there is no such folder.
            threads: threads of a forward pass; None for torch's own number.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

        Raises:
            ModelError: no safetensors weights, not a classifier, no tokenizer.
            UsageError: the device is not there.
        """
        self.threads = threads
        self.device = pick_device(device)
        folder = resolve(path)
        config = read_json(folder / ModelFiles.config)
        if not is_classifier(config):
            what = ", ".join(map(str, config.get("architectures") or ())) or "no architecture named"
            raise ModelError(f"{path}: not a text classifier ({what}); make one of it with hrkd teach or hrkd distill")
        self.model = load_classifier(folder, None).to(self.device)
        tokenizer_config, tokenizer = load_encoder_parts(folder)
        super().__init__(str(path), self.model.config.to_dict(), tokenizer_config, tokenizer)
        self.inputs = input_names(self.model, tokenizer_config.get("model_input_names"))
        self.parameters = sum(p.numel() for p in self.model.parameters())
        # Weights in several files go by the name of their index.
        single = folder / ModelFiles.weights
        self.file = single.name if single.is_file() else ModelFiles.weights_index
        files = [single] if single.is_file() else folder.glob("model-*.safetensors")
        self.bytes = sum(file.stat().st_size for file in files)

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run the model once; see ``Backend``."""
        tensors = {name: torch.as_tensor(arrays[name], device=self.device) for name in self.inputs}
        before = torch.get_num_threads()  # of the whole process
        torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode():
                logits: FloatArray = self.model(**tensors).logits.float().cpu().numpy()
        finally:
            torch.set_num_threads(before)
        return logits


def load_encoder_parts(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    """Return what tokenizer_config.json says, and the tokenizer, a copy that the caller may change.

    A ``tokenizer.json`` is read as the runtime reads it, so that both see the same ids: transformers may rebuild it
    from its own idea of the class.

    Raises:
        ModelError: no fast tokenizer.
    """
    if (folder / ModelFiles.tokenizer).is_file():
        return read_json(folder / ModelFiles.tokenizer_config, missing_ok=True), read_tokenizer(folder)
    loaded = load_tokenizer(folder)
    config = {
        "pad_token": loaded.pad_token,
        "model_max_length": loaded.model_max_length,
        "model_input_names": list(loaded.model_input_names),
    }
    return config, Tokenizer.from_str(loaded.backend_tokenizer.to_str())


def input_names(model: Any, named: Sequence[str] | None) -> tuple[str, ...]:
    """Return the inputs that a model takes from its tokenizer, in the usual order.

    Segment ids are one of them where the model has more than one segment, takes them, and the tokenizer does not leave
    them out of what it names (its ``model_input_names``, where it has them).
    """
    names = ("input_ids", "attention_mask")
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    if takes and (getattr(model.config, "type_vocab_size", 0) or 0) > 1 and (not named or "token_type_ids" in named):
        return (*names, "token_type_ids")
    return names


def pick_device(device: str) -> torch.device:
    """Turn ``auto`` into CUDA, MPS or the CPU, and check that a named device is there.

    Raises:
        UsageError: unknown device, or none of that kind.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == Device.AUTO:
        return torch.device(next(name for name, found in there.items() if found))
    if device not in there:
        raise UsageError(f"--device: {device!r} is not one of {', '.join(Device)}")
    if not there[device]:
        raise UsageError(f"--device: no {device} device here; use --device cpu or auto")
    return torch.device(str(device))
