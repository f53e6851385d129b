"""Loading of models and tokenizers from a folder or the hub, with errors that say what to do."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from hrkd_cli.errors import HrkdError, ModelError, one_line
from hrkd_cli.json_files import read_json
from hrkd_cli.layout import ModelFiles
from hrkd_cli.models.mean_pooling import skip_constants
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.predict.tokenization import read_tokenizer

SHARD_NAME = re.compile(r"model[^/\\]*\.safetensors")
MAX_LAYERS = 1000
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "spm.model", "sentencepiece*", "*.spm")


def load_config(path: Path, role: str = "model") -> Any:
    """Load the transformers configuration of a folder.

    Raises:
        ModelError: transformers cannot read it, or it has more layers than any model.
    """
    from transformers import AutoConfig

    with _opening(f"{role} {path}: transformers cannot read its configuration"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MAX_LAYERS:  # transformers would add layers until memory runs out
        raise ModelError(f"{role} {path}: {ModelFiles.config} has over {MAX_LAYERS:,} layers; give a complete model")
    # Such entries of config.json may name code on the hub or other weights, or change what the model returns.
    config._attn_implementation = None
    config.output_hidden_states, config.return_dict = False, True
    vars(config).pop("transformers_weights", None)
    return config


def is_classifier(config: dict[str, Any]) -> bool:
    """Return whether ``config.json`` is that of a sequence classifier, not of a plain encoder."""
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def load_classifier(path: Path, heads: DomainHeads | None, *, role: str = "model") -> Any:
    """Load a transformers ``*ForSequenceClassification`` model in float32 and eval mode.

    ``heads`` are the outputs of the returned model; a head for other labels is replaced by a random one (from torch's
    global generator). None keeps the model's own outputs.

    Raises:
        ModelError: transformers cannot open it, or weights of its body are not finite, are missing or have another
            shape, which transformers would silently replace by random ones.
    """
    from transformers import AutoModelForSequenceClassification

    config = load_config(path, role)
    own_labels = dict(config.id2label)
    if heads is not None:
        set_heads(config, heads)
    model, info = _load_weights(AutoModelForSequenceClassification, path, config, role, any_head=heads is not None)
    unusable = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if heads is not None:  # the head may be new, and so may a pooler
        body = {name for name in model.base_model.state_dict() if not name.startswith("pooler.")}
        unusable = {name.removeprefix(f"{model.base_model_prefix}.") for name in unusable} & body
    if unusable:
        raise ModelError(
            f"{role} {path}: {len(unusable)} weights that its config.json requires are missing or have another shape "
            f"(such as {min(unusable)}); give the folder of a complete model"
        )
    _check_finite(model, f"{role} {path}")
    skip_constants(model)
    if own_labels != dict(config.id2label):
        # A head of the same size but for other labels would start from unrelated weights.
        _, layer = output_layer(model)
        torch.nn.init.normal_(layer.weight, std=float(getattr(config, "initializer_range", 0.02)))
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
    return model.eval()


def load_encoder(path: Path) -> Any:
    """Load a plain transformers encoder in float32 and eval mode.

    Raises:
        ModelError: transformers cannot open it, or weights are not finite.
    """
    from transformers import AutoModel

    model, _ = _load_weights(AutoModel, path, load_config(path), "model")
    _check_finite(model, f"model {path}")
    return model.eval()


def _load_weights(auto_class: Any, path: Path, config: Any, role: str, *, any_head: bool = False) -> tuple[Any, Any]:
    """Return a float32 model and transformers' loading info; with ``any_head``, weights may have other shapes."""
    _check_shards(path, role)
    with _opening(f"{role} {path}: transformers cannot open it"):
        model, info = auto_class.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=any_head,
            output_loading_info=True,
            trust_remote_code=False,
        )
    return model, info


def _check_finite(model: Any, name: str) -> None:
    damaged = [weight for weight, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if damaged:
        raise ModelError(
            f"{name}: {len(damaged)} of its weights have values that are NaN or infinite (such as {damaged[0]}); give "
            "another model, or train or download it again"
        )


def output_layer(model: Any) -> tuple[str, torch.nn.Linear]:
    """Return name and module of the linear layer that computes a classifier's outputs.

    It is not simply the last one: XLM-RoBERTa and CamemBERT register their head before the encoder.

    Raises:
        ModelError: the classifier has no such layer outside its encoder.
    """
    encoder = f"{model.base_model_prefix}."
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith(encoder)
        and module.out_features == model.config.num_labels
    ]
    if not layers:
        raise ModelError(f"{type(model).__name__}: no linear layer with {model.config.num_labels} outputs in its head")
    return layers[-1]


def new_classifier(config: Any) -> Any:
    """Return a sequence classifier with random weights."""
    from transformers import AutoModelForSequenceClassification

    with quiet_libraries():
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        return model.to(torch.float32).eval()


def set_heads(config: Any, heads: DomainHeads) -> None:
    """Give a transformers config one output for every (domain, label) pair."""
    entries = heads.to_config()
    config.num_labels = heads.num_outputs
    config.id2label = entries["id2label"]
    config.label2id = entries["label2id"]
    config.problem_type = "single_label_classification"


def load_tokenizer(path: Path, role: str = "model") -> Any:
    """Load a fast tokenizer without padding and truncation.

    Raises:
        ModelError: there is no tokenizer, or it has no fast version.
    """
    from transformers import AutoTokenizer

    # Without tokenizer files, transformers 5 returns a tokenizer that knows only its special tokens.
    if not any(next(path.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ModelError(f"{role} {path}: no tokenizer in it ({ModelFiles.tokenizer}); save the model's own there")
    read_json(path / ModelFiles.tokenizer_config, missing_ok=True)  # checks its values
    with _opening(f"{role} {path}: no tokenizer that transformers can open"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{role} {path}: its tokenizer has no words; save the model's own tokenizer there")
    if not tokenizer.is_fast:
        raise ModelError(f"{role} {path}: its tokenizer has no fast version (tokenizer.json), which export needs")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def load_backend_tokenizer(folder: Path) -> tuple[dict[str, Any], Tokenizer]:
    """Return the content of tokenizer_config.json and the ``tokenizers.Tokenizer`` of a model folder.

    The tokenizer is the caller's to change. ``tokenizer.json`` is read directly, as prediction does, because
    transformers may rebuild it by the rules of its class and then give other ids.

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


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings, log lines and progress bars of libraries; new heads and quantized graphs, say, are intended."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    disabled_level, bars = logging.root.manager.disable, is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)
        if bars:
            enable_progress_bar()


@contextlib.contextmanager
def explain_model_errors(problem: str) -> Iterator[None]:
    """Turn every error of the block into a ModelError that starts with ``problem``, except too little memory."""
    try:
        yield
    except (HrkdError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises many types, and each means that the model cannot be used
        reason = one_line(error)
        if "trust_remote_code" in str(error):
            reason = "it needs Python code of its own, which hrkd never runs; give a model that needs none"
        raise ModelError(f"{problem}: {reason}") from error


@contextlib.contextmanager
def _opening(problem: str) -> Iterator[None]:
    with quiet_libraries(), explain_model_errors(problem):
        yield


def _check_shards(path: Path, role: str) -> None:
    """Check that the index of sharded weights names only files that a model folder may have.

    Raises:
        ModelError: a file of another format, such as a pickle, or outside the folder.
    """
    if (path / ModelFiles.weights).is_file():
        return
    index = path / ModelFiles.weights_index
    weight_map = read_json(index).get("weight_map")
    names = [str(name) for name in weight_map.values()] if isinstance(weight_map, dict) else ["no weights"]
    if wrong := [name for name in names if not SHARD_NAME.fullmatch(name)]:
        raise ModelError(
            f"{role} {index}: names {wrong[0]!r}, but weights must be model*.safetensors files in the same folder; "
            "save the model again with transformers' save_pretrained"
        )
