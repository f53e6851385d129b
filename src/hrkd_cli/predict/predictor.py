"""Labels for new texts.

An exported folder needs only onnxruntime, tokenizers and numpy; a folder with torch weights imports torch when opened.
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
    """What the model says about a text (the first of a pair): the most probable label, and a probability by label."""

    text: str
    domain: str
    label: str
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain values."""
        return asdict(self)


class Predictor:
    """A classifier that is ready to label texts."""

    def __init__(self, path: str | Path, *, threads: int | None = None, device: str = "auto") -> None:
        """Load a classifier.

        Args:
            path: ``onnx`` folder (int8 if there, else fp32), one ``.onnx`` file, model folder, or hub id.
            threads: threads of one forward pass; None for the library's own choice.
            device: where torch weights run; ONNX graphs run on the CPU.

        Raises:
            ModelError: nothing there, or not a classifier.
        """
        self._backend = open_backend(path, threads=threads, device=device)
        self._heads = self.spec.all_heads

    @property
    def spec(self) -> ModelSpec:
        """What the model's configuration says."""
        return self._backend.spec

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that ``predict`` takes, beside ``any``; none for a classifier of another origin."""
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
            texts: the texts, or the first ones of pairs.
            pairs: the second texts, where the model reads two.
            domain: the domain whose head answers; ``any`` is the mean of all heads' probabilities.
            batch_size: texts of one forward pass; None for 1 with an ONNX graph (an int8 graph's answer depends on the
                other texts of the batch), 32 with torch.

        Raises:
            UsageError: unknown domain, ``any`` over domains with different labels, second texts missing or too many.
        """
        # A domain may be called "any"; then its own head answers.
        if domain not in (*self._heads.labels, ANY_DOMAIN):
            raise UsageError(f"domain {domain!r} is not one of the model's: {', '.join((*self.domains, ANY_DOMAIN))}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size: {batch_size} is not at least 1")
        logits = self.logits(texts, pairs, batch_size=batch_size or self._backend.default_batch_size)
        if domain in self._heads.labels:
            names, shares = self._heads.labels[domain], domain_probabilities(logits, self._heads, domain)
        else:
            names, shares = mean_probabilities(logits, self._heads)
        return [
            Prediction(text, domain, names[row.argmax()], dict(zip(names, row.tolist(), strict=True)))
            for text, row in zip(texts, shares, strict=True)
        ]

    def stream(
        self, texts: Iterable[str | tuple[str, str]], *, domain: str = ANY_DOMAIN, batch_size: int | None = 1
    ) -> Iterator[Prediction]:
        """Label texts (or pairs, where the model reads two) as they come, without end if they are.

        Each answer is given before the next ``batch_size`` texts are asked for; None asks for 64 at a time, and has
        the batch size of ``predict``. Errors are those of ``predict``.
        """
        waiting, size = iter(texts), 64 if batch_size is None else max(batch_size, 1)
        while chunk := list(islice(waiting, size)):
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
        """Return the logits of all (domain, label) outputs, [n, outputs].

        Args:
            texts: the texts, or the first ones of pairs.
            pairs: the second texts, where the model reads two.
            batch_size: texts of one forward pass.
            pad_to: tokens every batch is padded to; None batches texts of similar length, padded to the longest.

        Raises:
            UsageError: second texts missing or too many.
        """
        if self.spec.pair is True and pairs is None:
            raise UsageError("this model reads two texts: give the second ones too (pairs, --text-pair)")
        if self.spec.pair is False and pairs is not None:
            raise UsageError("this model reads one text: leave out the second ones (pairs, --text-pair)")
        return self._backend.logits(texts, pairs, batch_size=batch_size, pad_to=pad_to)
