"""What an evaluation returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hrkd_cli.evaluation.floor import Floor
from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.evaluation.metrics import AverageScores, DomainScores


@dataclass(frozen=True, slots=True)
class Padded:
    """An ONNX graph scored once more in padded batches: dynamic int8 gives other results there.

    Attributes:
        accuracy: unweighted mean over domains.
        disagreement: share of rows whose label differs from that at batch 1.
    """

    accuracy: float
    disagreement: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Scores and facts of one model.

    Attributes:
        model: the argument as it was given; of the floor, what it is.
        kind: ``"torch"``, ``"onnx"`` or ``"floor"``.
        domains: scores by domain; an ONNX graph's are those at batch 1.
        average: unweighted means over domains.
        agreement: share of rows with the same label as the first model's.
        file: name of the file with the weights; None for the floor, as the next three.
        precision: of weights and arithmetic, for example ``"fp32"`` or ``"int8"``.
        parameters: numbers in the weights.
        bytes: size of the weights on disk.
        padded: the same graph in padded batches; None for a torch model.
        latency: None unless it was asked for.
        latency_lengths: by number of tokens and threads; empty unless latency was asked for.
        floor: how the floor was made; None for a model.
    """

    model: str
    kind: str
    domains: dict[str, DomainScores]
    average: AverageScores
    agreement: float
    file: str | None = None
    precision: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    padded: Padded | None = None
    latency: Latency | None = None
    latency_lengths: tuple[Latency, ...] = ()
    floor: Floor | None = None

    def to_json(self, *, by_label: bool = False) -> dict[str, Any]:
        """Return the figures as plain values; what does not apply is left out."""
        facts = ("model", "file", "kind", "precision", "parameters", "bytes")
        entry: dict[str, Any] = {name: getattr(self, name) for name in facts}
        if self.floor is not None:
            entry["floor"] = self.floor.to_json()
        if self.padded is not None:
            entry["padded"] = asdict(self.padded)
        entry["domains"] = {name: scores.to_json(by_label=by_label) for name, scores in self.domains.items()}
        entry["average"] = self.average.to_json()
        entry["agreement"] = self.agreement
        if self.latency is not None:
            entry["latency_ms"] = self.latency.to_json()
        if self.latency_lengths:
            entry["latency"] = [figure.to_json() for figure in self.latency_lengths]
        return entry


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Several models on the same rows.

    Attributes:
        split: the split that was scored.
        models: one entry a model, in the order of the arguments; then the floor, where it was asked for.
        by_label: whether ``to_json`` lists the scores of each label.
        machine: what the latencies were measured on; empty without them.
    """

    split: str
    models: tuple[ModelResult, ...]
    by_label: bool = False
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        models = [model.to_json(by_label=self.by_label) for model in self.models]
        return {"split": self.split, "models": models} | ({"machine": self.machine} if self.machine else {})
