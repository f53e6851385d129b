"""Meta-KD's weights of single rows: what a row has in common with all domains, and how well its teacher knows it.

Pan et al., "Meta-KD: A Meta Knowledge Distillation Framework for Language Model Compression across Domains" (ACL 2021),
prototype scores and domain-expertise weights. With E_i the mean of the teacher's last hidden states over the tokens of
row i, and C_d the mean of E_i over the rows of domain d,

    t_i      = (cos(E_i, C_d) + cos(E_i, mean over other domains of C)) / 2
    lambda_i = (1 + t_i) / (exp((1 - p_i)^2) + 1)

where p_i is what the teacher gives the right label; where a text has none, the label that it finds most probable. The
cosine to the mean of the other domains is that of Meta-KD's released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.distillation.teacher_outputs import BATCH_TOKENS, TeacherOutputs, batches_of
from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Progress
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.rows import Pick

LEAST = 1e-3  # of a weight: a domain whose rows all had none would have no mean


def prototype_scores(embeddings: Tensor, own: Tensor, centroids: Tensor) -> Tensor:
    """Return t of each row, (R,), -1 to 1.

    Args:
        embeddings: (R, H).
        own: (R,), each row's domain.
        centroids: (D, H). A single domain has no others: t is then the cosine to its own.
    """
    near = F.cosine_similarity(embeddings, centroids[own], dim=-1)
    if len(centroids) == 1:
        return near
    others = (centroids.sum(dim=0) - centroids) / (len(centroids) - 1)
    return (near + F.cosine_similarity(embeddings, others[own], dim=-1)) / 2


def expertise_weights(scores: Tensor, probabilities: Tensor) -> Tensor:
    """Return lambda of each row, (R,), at least LEAST, from t and p, (R,) each."""
    return ((1 + scores) / (torch.exp((1 - probabilities).square()) + 1)).clamp_min(LEAST)


@torch.no_grad()
def instance_weights(
    teacher: TeacherOutputs,
    rows: tuple[Encoder, Mapping[str, Encoded]],
    labels: Mapping[str, np.ndarray],
    context: TrainContext,
    *,
    width: int,
    pad_to: int | None = None,
) -> dict[str, np.ndarray]:
    """Return lambda of every row by domain, float64; runs the teachers once on every row, each process its part.

    Args:
        teacher: gives hidden states, of width H, and logits.
        rows: (encoder, token ids by domain).
        labels: of each domain's first rows; the others have none.
        context: see TrainContext.
        width: H.
        pad_to: tokens that the teacher pads to; None for the longest row of a batch.

    Raises:
        TrainingError: a teacher gives something that is not a number.
    """
    encoder, encoded = rows
    device, processes = context.device, context.processes
    lengths = {domain: own.lengths() for domain, own in encoded.items()}
    sums = torch.zeros(len(encoded), width, device=device)
    seen: list[tuple[int, list[int], Tensor, Tensor]] = []  # domain, rows, embeddings, probabilities
    total, done = sum(map(len, encoded.values())), 0
    for domain, own in processes.shard(_batches(lengths, BATCH_TOKENS[device.type], pad_to)):
        picks = [(domain, row) for row in own]
        batch = encoder.collate(encoded[domain], own, device, pad_to=pad_to)
        outputs = teacher.load(picks, batch)
        with context.precision.forward():
            found = outputs()
        assert found.hidden is not None
        # Padding may hold anything, also what is not a number.
        states = torch.where(batch.mask[..., None], found.hidden[-1].float(), 0.0)
        embeddings = states.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)  # (R, H)
        number = list(encoded).index(domain)
        # By itself and not by index_add_, whose order is open on a GPU: a run that goes on finds the same weights.
        sums[number] += embeddings.sum(dim=0)
        probabilities = _probabilities(found.logits.float(), picks, labels)
        seen.append((number, own, embeddings.cpu(), probabilities.cpu()))
        done += len(own)
        context.on_event(Progress("instance weights", min(total, done * processes.size), total))
    counts = torch.tensor([float(len(own)) for own in encoded.values()], device=device)
    centroids = (processes.all_reduce(sums) / counts[:, None]).cpu()
    if not torch.isfinite(centroids).all():
        raise TrainingError("--instance-weights: the teacher shows something that is not a number; teach it anew")
    weights = [torch.zeros(len(own)) for own in encoded.values()]
    for number, own, embeddings, probabilities in seen:
        scores = prototype_scores(embeddings, torch.full((len(own),), number), centroids)
        weights[number][own] = expertise_weights(scores, probabilities)
    whole = processes.all_reduce(torch.cat(weights).to(device)).double().cpu()
    parts = torch.split(whole, [len(own) for own in encoded.values()])
    return {domain: part.numpy() for domain, part in zip(encoded, parts, strict=True)}


def _batches(lengths: Mapping[str, np.ndarray], tokens: int, pad_to: int | None) -> list[tuple[str, list[int]]]:
    """Return the rows of each domain in batches of similar length."""
    return [
        (domain, rows)
        for domain, own in lengths.items()
        for rows in batches_of(
            np.argsort(-own, kind="stable").tolist(), own if pad_to is None else np.full_like(own, pad_to), tokens
        )
    ]


def _probabilities(logits: Tensor, picks: Sequence[Pick], labels: Mapping[str, np.ndarray]) -> Tensor:
    """Return the teacher's probability of each row's label, (R,); the largest one where it has none."""
    found = logits.softmax(dim=-1)
    known = [int(labels[domain][row]) if row < len(labels[domain]) else -1 for domain, row in picks]
    targets = torch.tensor(known, device=logits.device)
    chosen = found.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    return torch.where(targets < 0, found.max(dim=-1).values, chosen)
