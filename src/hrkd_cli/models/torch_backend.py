"""Torch backend for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hrkd_cli.errors import ModelError
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.device import pick_device
from hrkd_cli.models.loading import (
    explain_model_errors,
    is_classifier,
    load_backend_tokenizer,
    load_classifier,
)
from hrkd_cli.models.model_source import resolve_model
from hrkd_cli.models.model_tokenizer import check_vocabulary, input_names
from hrkd_cli.models.wide import WideBranch, WideClassifier
from hrkd_cli.predict.backend import Backend
from hrkd_cli.predict.heads import FloatArray


class TorchBackend(Backend):
    """A sequence classifier in float32 and eval mode.

    Attributes:
        model: the transformers model.
        wide: its wide branch; None if it has none.
        network: what computes the logits: the model, with its wide branch.
    """

    kind = "torch"
    default_batch_size = 32  # fp32 results do not depend on the batch size

    def __init__(self, path: str | Path, *, threads: int | None = None, device: str = "auto") -> None:
        """Load a model folder, or a hub id if there is no such folder; ``threads`` None is torch's default.

        Raises:
            ModelError: no safetensors weights, not a classifier, no tokenizer.
            UsageError: the device is not available.
        """
        self.threads = threads
        self.device = pick_device(device)
        folder = resolve_model(path)
        config = read_json(folder / ModelFiles.config)
        if not is_classifier(config):
            what = ", ".join(map(str, config.get("architectures") or ())) or "no architecture given"
            raise ModelError(f"{path}: not a text classifier ({what}); train one with hrkd teach or hrkd distill")
        self.model = load_classifier(folder, None).to(self.device)
        self.wide: WideBranch | None = None
        self.network = self.model
        if encoder_length := (config.get("hrkd") or {}).get("encoder_length"):
            self.wide = WideBranch.load(folder, self.model.config.vocab_size)
            self.network = WideClassifier(self.model, self.wide, encoder_length).to(self.device)
        tokenizer_config, tokenizer = load_backend_tokenizer(folder)
        check_vocabulary(tokenizer, self.model.config, str(path))
        super().__init__(str(path), self.model.config.to_dict(), tokenizer_config, tokenizer)
        self.input_names = input_names(self.model, tokenizer_config.get("model_input_names"))
        # The weights of a pooling layer are constants; ONNX files have only those of its norms.
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.parameters = sum(w.numel() for w in (*weights, *(self.wide.parameters() if self.wide else ())))
        # Sharded weights are named by their index.
        single = folder / ModelFiles.weights
        self.file = single.name if single.is_file() else ModelFiles.weights_index
        files = [single] if single.is_file() else folder.glob("model-*.safetensors")
        self.bytes = sum(file.stat().st_size for file in (*files, *folder.glob(ModelFiles.wide)))

    def forward(self, arrays: Mapping[str, Any]) -> FloatArray:
        """Run the model once; see ``Backend``."""
        tensors = {name: torch.as_tensor(arrays[name], device=self.device) for name in self.input_names}
        before = torch.get_num_threads()  # process-wide
        torch.set_num_threads(self.threads or before)
        try:
            with explain_model_errors(f"{self.name_or_path}: transformers cannot run it"), torch.inference_mode():
                logits: FloatArray = self.network(**tensors).logits.float().cpu().numpy()
        finally:
            torch.set_num_threads(before)
        return logits
