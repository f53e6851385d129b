"""Predict the labels of texts.

An exported folder needs only onnxruntime, tokenizers and numpy. Opening a folder with torch weights imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from hrkd_cli.errors import ModelError, UsageError, did_you_mean
from hrkd_cli.predict.answers import answer
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.calibration import AUTO, GIVEN, Calibration, check_limits
from hrkd_cli.predict.heads import FloatArray, Logits
from hrkd_cli.predict.model_spec import AUTO_DOMAIN, ModelSpec
from hrkd_cli.predict.tokenization import check_texts


@dataclass(frozen=True, slots=True)
class Prediction:
    """A text (the first of a pair), its domain, its most probable label, and the probability of each label.

    A blank text, or a pair with a blank text, has the label None and no scores.

    Attributes:
        domain: the domain that was given or found; ``auto`` if none was found.
        scores: probabilities by label. If a domain was found among domains with different labels: those of the most
            probable pairs ``DOMAIN/LABEL``, best first.
        domain_probability: probability of the domain that was found; None if none was.
        abstain: whether the largest score is below the limit of the predictor, or there is no label; None without a
            limit, and False for an answer of the fallback model.
        fallback: whether the fallback model answered; None without one.
    """

    text: str
    domain: str
    label: str | None
    scores: dict[str, float]
    domain_probability: float | None = None
    abstain: bool | None = None
    fallback: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain values, without those of the last three fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "label"}


class Predictor:
    """A loaded classifier that labels texts."""

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        device: str = "auto",
        min_confidence: float | None = None,
        target_accuracy: float | None = None,
        fallback: str | Path | None = None,
    ) -> None:
        """Load a classifier.

        Args:
            path: ``onnx`` folder (int8 if it has one, else fp32), one ``.onnx`` file, model folder, or hub id.
            threads: threads of one forward pass; None for the library's default.
            device: device of torch weights; ONNX files run on the CPU.
            min_confidence: mark answers with a smaller probability as abstentions.
            target_accuracy: mark answers below the threshold that promises this percentage of right answers among the
                others. Export finds it on dev.
            fallback: a model that answers instead of an abstention, usually a larger one.

        Raises:
            ModelError: there is nothing at ``path``, it is not a classifier, or it has no thresholds for a target.
            UsageError: both limits, an impossible one, a fallback without a limit, or one with other labels.
        """
        check_limits(min_confidence, target_accuracy)
        if fallback is not None and min_confidence is None and target_accuracy is None:
            raise UsageError(
                "--fallback: it answers the texts that the model is not certain of; say how certain it must be with "
                "--min-confidence or --target-accuracy"
            )
        self._min_confidence, self._target_accuracy = min_confidence, target_accuracy
        self._backend = open_backend(path, threads=threads, device=device)
        self._heads = self.spec.all_heads
        self._calibration = Calibration.read(self.spec.config, self._backend.file)
        if target_accuracy is not None and self._calibration is None:
            raise ModelError(
                f"--target-accuracy: {path} has no thresholds, because it was exported without dev data or by an "
                "earlier version; export it again with --data"
            )
        self._fallback: Predictor | None = None
        if fallback is not None:
            self._fallback = Predictor(fallback, threads=threads, device=device)
            _check_fallback(self.spec, self._fallback.spec, fallback)

    @property
    def spec(self) -> ModelSpec:
        """The model's configuration."""
        return self._backend.spec

    @property
    def file(self) -> str:
        """Name of the file with the weights."""
        return self._backend.file

    @property
    def batch_size(self) -> int:
        """Texts per forward pass by default."""
        return self._backend.default_batch_size

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that ``predict`` accepts besides ``auto``; none for a classifier that is not multi-domain."""
        return tuple(domain for domain in self._heads.domains if self.spec.heads or domain != AUTO_DOMAIN)

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        domain: str | Sequence[str] = AUTO_DOMAIN,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Label texts.

        Args:
            texts: the texts, or the first texts of pairs.
            pairs: the second texts, if the model reads pairs.
            domain: the domain whose head predicts, or that of each text. ``auto`` finds the domain, or averages the
                probabilities of all heads if the model was not trained to find it.
            batch_size: texts per forward pass; None for 1 with an ONNX file (int8 results depend on the other texts in
                the batch) and 32 with torch.

        Raises:
            ModelError: no threshold promises the target accuracy.
            UsageError: unknown domain, ``auto`` if the model does not find domains and their labels differ, second
                texts missing or unexpected.
        """
        check_texts(texts, pairs)
        domains = self._domains_of(texts, domain)
        if self._fallback is not None and AUTO_DOMAIN in domains and AUTO_DOMAIN not in self._heads.labels:
            _check_finds_domains(self._fallback.spec, self.domains)
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size: {batch_size} is not at least 1")
        has_limit = self._min_confidence is not None or self._target_accuracy is not None
        has_fallback = None if self._fallback is None else False
        blank = Prediction("", "", None, {}, abstain=True if has_limit else None, fallback=has_fallback)
        predictions = [replace(blank, text=text, domain=name) for text, name in zip(texts, domains, strict=True)]
        rows = [n for n, text in enumerate(texts) if text.strip() and (pairs is None or pairs[n].strip())]
        logits: Logits = self.logits(
            [texts[n] for n in rows],
            None if pairs is None else [pairs[n] for n in rows],
            batch_size=batch_size or self.batch_size,
        )
        if self._calibration is not None:
            logits = self._calibration.apply(logits, self._heads)
        for name in dict.fromkeys(domains[n] for n in rows):
            own = [index for index, n in enumerate(rows) if domains[n] == name]
            answers = answer(logits[own], self.spec, name)
            threshold = self._threshold(name)
            for index, found in zip(own, answers, strict=True):
                abstain = None if threshold is None else max(found.scores.values()) < threshold
                predictions[rows[index]] = replace(predictions[rows[index]], **asdict(found), abstain=abstain)
        if self._fallback is not None:
            sent = [n for n in rows if predictions[n].abstain]
            larger = self._fallback.predict(
                [texts[n] for n in sent],
                None if pairs is None else [pairs[n] for n in sent],
                domain=[domains[n] for n in sent],
                batch_size=batch_size,
            )
            for n, prediction in zip(sent, larger, strict=True):
                predictions[n] = replace(prediction, abstain=False, fallback=True)
        return predictions

    def _domains_of(self, texts: Sequence[str], domain: str | Sequence[str]) -> list[str]:
        """Return the domain of each text; raise UsageError if one is unknown."""
        domains = [domain] * len(texts) if isinstance(domain, str) else list(domain)
        if len(domains) != len(texts):
            raise UsageError(f"not as many domains ({len(domains)}) as texts ({len(texts)}); give one for each")
        for name in dict.fromkeys([domain] if isinstance(domain, str) else domains):
            if name not in (*self._heads.labels, AUTO_DOMAIN):
                known = (*self.domains, AUTO_DOMAIN)
                raise UsageError(
                    f"domain {name!r} is not one of the model's: {', '.join(known)}{did_you_mean(name, known)}"
                )
        if len(self._heads.domains) == 1:  # nothing to find
            domains = list(self._heads.domains) * len(texts)
        return domains

    def _threshold(self, domain: str) -> float | None:
        """Return the probability below which an answer for a domain, or ``auto``, is marked."""
        if self._target_accuracy is None or self._calibration is None:
            return self._min_confidence
        return self._calibration.find_threshold(
            self._target_accuracy / 100, GIVEN if domain in self._heads.labels else AUTO
        )

    def stream(
        self,
        texts: Iterable[str | tuple[str, str]],
        *,
        domain: str | Iterable[str] = AUTO_DOMAIN,
        batch_size: int | None = 1,
        read_ahead: int | None = None,
    ) -> Iterator[Prediction]:
        """Label an iterable of texts (or of pairs, if the model reads pairs) of any length.

        Yields the predictions of ``read_ahead`` texts before it reads the next ones; by default, of ``batch_size``
        texts. With None for both, it reads 64 texts at a time and batches as ``predict`` does. Raises the errors of
        ``predict``.
        """
        remaining = zip(texts, repeat(domain)) if isinstance(domain, str) else zip(texts, domain, strict=True)
        chunk_size = max(read_ahead or (64 if batch_size is None else batch_size), 1)
        while chunk := list(islice(remaining, chunk_size)):
            firsts = [text if isinstance(text, str) else text[0] for text, _ in chunk]
            pairs = [text[1] for text, _ in chunk if not isinstance(text, str)]
            yield from self.predict(firsts, pairs or None, domain=[name for _, name in chunk], batch_size=batch_size)

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


def _check_finds_domains(fallback: ModelSpec, domains: Sequence[str]) -> None:
    """Raise UsageError if a fallback model cannot say to which of the model's domains a text belongs."""
    heads = fallback.all_heads
    if others := sorted(set(heads.domains) - set(domains)):
        problem = f"it also has the domains {', '.join(others)}, which the model does not have"
    elif not (fallback.finds_domains or heads.share_labels):
        problem = "it was not trained to find the domain of a text"
    else:
        return
    raise UsageError(f"--fallback: {problem}; name the domain of each text (--domain, or a column)")


def _check_fallback(spec: ModelSpec, fallback: ModelSpec, path: str | Path) -> None:
    """Raise UsageError if a fallback model does not read the same inputs or lacks a domain or label of the model."""
    known = fallback.all_heads.labels
    for domain, labels in spec.all_heads.labels.items():
        if set(known.get(domain, ())) != set(labels):
            if domain not in known:
                raise UsageError(f"--fallback {path}: it has no domain {domain!r}, only {', '.join(known)}")
            raise UsageError(
                f"--fallback {path}: in domain {domain!r} its labels are {', '.join(known[domain])}, but the model's "
                f"are {', '.join(labels)}"
            )
    if spec.pair is not None and fallback.pair is not None and spec.pair != fallback.pair:
        reads = "two texts" if fallback.pair else "one text"
        raise UsageError(f"--fallback {path}: it reads {reads}, unlike the model")
