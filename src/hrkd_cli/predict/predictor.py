"""Predict the labels of texts.

An exported folder needs only onnxruntime, tokenizers and numpy. Opening a folder with torch weights imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hrkd_cli.errors import UsageError
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.heads import FloatArray, domain_probabilities, mean_probabilities
from hrkd_cli.predict.model_spec import ANY_DOMAIN, ModelSpec


@dataclass(frozen=True, slots=True)
class Prediction:
    """A text (the first of a pair), its most probable label, and the probability of each label."""

    text: str
    domain: str
    label: str
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain values."""
        return asdict(self)


class Predictor:
    """A loaded classifier that labels texts."""

    def __init__(self, path: str | Path, *, threads: int | None = None, device: str = "auto") -> None:
        """Load a classifier.

        Args:
            path: ``onnx`` folder (int8 if it has one, else fp32), one ``.onnx`` file, model folder, or hub id.
            threads: threads of one forward pass; None for the library's default.
            device: device of torch weights; ONNX files run on the CPU.

        Raises:
            ModelError: there is nothing at ``path``, or it is not a classifier.
        """
        self._backend = open_backend(path, threads=threads, device=device)
        self._heads = self.spec.all_heads

    @property
    def spec(self) -> ModelSpec:
        """The model's configuration."""
        return self._backend.spec

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that ``predict`` accepts besides ``any``; none for a classifier that is not multi-domain."""
        return tuple(domain for domain in self._heads.domains if self.spec.heads or domain != ANY_DOMAIN)

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        domain: str = ANY_DOMAIN,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Label texts.

        Args:
            texts: the texts, or the first texts of pairs.
            pairs: the second texts, if the model reads pairs.
            domain: the domain whose head predicts; ``any`` averages the probabilities of all heads.
            batch_size: texts per forward pass; None for 1 with an ONNX file (int8 results depend on the other texts in
                the batch) and 32 with torch.

        Raises:
            UsageError: unknown domain, ``any`` over domains with different labels, second texts missing or unexpected.
        """
        # A domain may itself be named "any"; its head then takes precedence.
        if domain not in (*self._heads.labels, ANY_DOMAIN):
            raise UsageError(f"domain {domain!r} is not one of the model's: {', '.join((*self.domains, ANY_DOMAIN))}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size: {batch_size} is not at least 1")
        logits = self.logits(texts, pairs, batch_size=batch_size or self._backend.default_batch_size)
        if domain in self._heads.labels:
            labels, probabilities = self._heads.labels[domain], domain_probabilities(logits, self._heads, domain)
        else:
            labels, probabilities = mean_probabilities(logits, self._heads)
        return [
            Prediction(text, domain, labels[row.argmax()], dict(zip(labels, row.tolist(), strict=True)))
            for text, row in zip(texts, probabilities, strict=True)
        ]

    def stream(
        self, texts: Iterable[str | tuple[str, str]], *, domain: str = ANY_DOMAIN, batch_size: int | None = 1
    ) -> Iterator[Prediction]:
        """Label an iterable of texts (or of pairs, if the model reads pairs) of any length.

        Yields the predictions of ``batch_size`` texts before it reads the next ones. With None, it reads 64 texts at a
        time and batches as ``predict`` does. Raises the errors of ``predict``.
        """
        remaining, chunk_size = iter(texts), 64 if batch_size is None else max(batch_size, 1)
        while chunk := list(islice(remaining, chunk_size)):
            firsts = [text if isinstance(text, str) else text[0] for text in chunk]
            pairs = [text[1] for text in chunk if not isinstance(text, str)]
            yield from self.predict(firsts, pairs or None, domain=domain, batch_size=batch_size)

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        batch_size: int = 1,
        pad_to: int | None = None,
    ) -> FloatArray:
        """Return the logits of all (domain, label) outputs, (n, outputs); see ``predict``.

        Every batch is padded to ``pad_to`` tokens; None batches texts of similar length and pads to the longest.

        Raises:
            UsageError: second texts missing or unexpected.
        """
        if self.spec.pair is True and pairs is None:
            raise UsageError("this model reads two texts: give the second texts too (pairs, --text-pair)")
        if self.spec.pair is False and pairs is not None:
            raise UsageError("this model reads one text: leave out the second texts (pairs, --text-pair)")
        return self._backend.logits(texts, pairs, batch_size=batch_size, pad_to=pad_to)
