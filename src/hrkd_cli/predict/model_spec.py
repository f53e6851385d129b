"""Where a classifier's graph, configuration and tokenizer lie, and what the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrkd_cli.choices import Truncate
from hrkd_cli.errors import ModelError
from hrkd_cli.layout import ModelFiles
from hrkd_cli.predict.heads import DomainHeads, id_to_label

ANY_DOMAIN = "any"
"""The domain that stands for all: the mean of the heads' probabilities."""

_LENGTH_CAP = 512  # of a classifier without a length of its own: what the usual encoders were trained with

# Their positions are counted from the padding id, which is 1, so that two rows of the table are never reached.
OFFSET_POSITION_TYPES = frozenset({"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "mpnet", "longformer"})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a classifier's configuration says.

    Attributes:
        config: ``config.json``, with ``id2label`` always there.
        heads: outputs by domain; None for a classifier that is not a multi-domain one.
        max_length: tokens a text (or a pair) is cut to.
        pair: whether it reads two texts; None when unknown.
        truncate: what is kept of a text that is too long.
    """

    config: Mapping[str, Any]
    heads: DomainHeads | None
    max_length: int
    pair: bool | None
    truncate: Truncate = Truncate.HEAD

    @property
    def all_heads(self) -> DomainHeads:
        """The heads; plain labels count as one head: of the baked domain, else of ``any``."""
        if self.heads is not None:
            return self.heads
        names = id_to_label(self.config)
        domain, order = single_domain(self.config) or ANY_DOMAIN, sorted(names)
        return DomainHeads({domain: tuple(names[i] for i in order)}, {domain: tuple(order)}, len(order))


def build_spec(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> ModelSpec:
    """Interpret a model's and a tokenizer's configuration.

    Raises:
        ModelError: the ``hrkd`` entry and ``id2label`` contradict each other, or it asks for a cut that is not known.
    """
    config = dict(config)
    # transformers leaves out what equals its default, which is two labels of these names.
    if not config.get("id2label"):
        config["id2label"] = {str(index): name for index, name in id_to_label(config).items()}
    ours = config.get("hrkd") or {}
    if not isinstance(ours, dict):
        raise ModelError(f"{ModelFiles.config}: its hrkd entry is not one that hrkd wrote")
    truncate = ours.get("truncate", Truncate.HEAD)
    if truncate not in tuple(Truncate):
        raise ModelError(
            f"{ModelFiles.config}: its hrkd.truncate, {truncate!r}, is not one of {', '.join(Truncate)}; correct it, "
            "or use the version of hrkd that wrote it"
        )
    return ModelSpec(
        config=config,
        heads=DomainHeads.from_config(config),
        max_length=int(ours.get("max_length") or _longest(config, tokenizer_config)),
        pair=ours.get("pair"),
        truncate=Truncate(truncate),
    )


def single_domain(config: Mapping[str, Any]) -> str | None:
    """Return the domain whose head alone a classifier is; None for one that was not baked."""
    ours = config.get("hrkd")
    return ours.get("domain") if isinstance(ours, dict) else None


def _longest(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """Return the most tokens that both the tokenizer and the position table allow, within the cap."""
    limits = (_LENGTH_CAP, int(tokenizer_config.get("model_max_length") or _LENGTH_CAP), position_limit(config))
    return max(min(limit for limit in limits if limit is not None), 1)


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens that a model's position table allows; None where it has no table."""
    positions = config.get("max_position_embeddings")
    unreached = 2 if config.get("model_type") in OFFSET_POSITION_TYPES else 0
    return int(positions) - unreached if positions else None
