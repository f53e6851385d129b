"""A classifier's heads, maximum length and truncation, from ``config.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import ModelFiles
from hrkd_cli.predict.heads import DomainHeads, id_to_label

AUTO_DOMAIN = "auto"  # domain name for texts whose domain is unknown

_DEFAULT_MAX_LENGTH = 512  # the length that common encoders were trained with

# Model types that count positions from the padding id, usually 1, and so never use the first two rows of the table.
OFFSET_POSITION_TYPES = frozenset(
    {"camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"}
    | {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A classifier's configuration.

    Attributes:
        config: ``config.json``, with ``id2label`` filled in if missing.
        heads: outputs by domain; None if the classifier is not a multi-domain one.
        max_length: tokens to which a text or pair is truncated.
        pair: whether the model reads two texts; None if unknown.
        truncate: which end of a long text to keep.
    """

    config: Mapping[str, Any]
    heads: DomainHeads | None
    max_length: int
    pair: bool | None
    truncate: Truncate = Truncate.HEAD

    @property
    def all_heads(self) -> DomainHeads:
        """The heads; plain labels are one head, of the exported domain or of ``auto``."""
        if self.heads is not None:
            return self.heads
        id2label = dict(sorted(id_to_label(self.config).items()))
        domain = single_domain(self.config) or AUTO_DOMAIN
        return DomainHeads({domain: tuple(id2label.values())}, {domain: tuple(id2label)}, len(id2label))

    @property
    def finds_domains(self) -> bool:
        """Whether the model was trained to find domains: a softmax over all outputs is p(domain, label | text)."""
        return self.heads is not None and bool(self.config["hrkd"].get("domain_posterior"))


def build_spec(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> ModelSpec:
    """Build the specification from ``config.json`` and ``tokenizer_config.json``.

    Raises:
        ModelError: the ``hrkd`` entry contradicts the rest of the configuration or has an unknown truncation.
    """
    config = dict(config)
    # transformers does not write the default labels, LABEL_0 and LABEL_1.
    if not config.get("id2label"):
        config["id2label"] = {str(index): name for index, name in id_to_label(config).items()}
    entry = config.get("hrkd") or {}
    truncate = entry.get("truncate", Truncate.HEAD)
    if truncate not in tuple(Truncate):
        raise ModelError(
            f"{ModelFiles.config}: its hrkd.truncate, {truncate!r}, is not one of {', '.join(Truncate)}; correct it, "
            "or use the version of hrkd that wrote it"
        )
    limit, max_length = position_limit(config), entry.get("max_length")
    encoder_length = entry.get("encoder_length") or max_length  # a wide branch may read more than the encoder
    if limit is not None and encoder_length is not None and encoder_length > limit:
        raise ModelError(
            f"{ModelFiles.config}: hrkd allows {encoder_length} tokens, but the model has {limit} positions"
        )
    return ModelSpec(
        config=config,
        heads=DomainHeads.from_config(config),
        max_length=max_length or _default_max_length(config, tokenizer_config),
        pair=entry.get("pair"),
        truncate=Truncate(truncate),
    )


def single_domain(config: Mapping[str, Any]) -> str | None:
    """Return the domain of a single-domain export (``hrkd export --domain``); None for any other model."""
    return (config.get("hrkd") or {}).get("domain")


def _default_max_length(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """Return the tokens that tokenizer and position table allow, at most ``_DEFAULT_MAX_LENGTH``."""
    limits = (_DEFAULT_MAX_LENGTH, tokenizer_config.get("model_max_length") or None, position_limit(config))
    return max(min(int(limit) for limit in limits if limit is not None), 1)


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the number of tokens that a model's position table allows; None if it has no table."""
    positions = config.get("max_position_embeddings") or 0
    # MPNet counts from 1 whatever its padding id is.
    unused = max(config.get("pad_token_id") or 1, 1) + 1 if config.get("model_type") in OFFSET_POSITION_TYPES else 0
    return int(positions) - unused if positions > 0 else None
