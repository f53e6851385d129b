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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.distillation.collate import DistillCollate
from hrkd_cli.distillation.teachers import BATCH_TOKENS, batches_of
from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Note, Progress

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
def instance_weights(collate: DistillCollate, width: int) -> dict[str, np.ndarray]:
    """Return lambda of every row by domain, float64; runs the teachers once on every row, each process its part.

    ``width`` is that of the teachers' hidden states.

    Raises:
        TrainingError: a teacher gives something that is not a number.
    """
    context, processes = collate.context, collate.context.processes
    sums = torch.zeros(len(collate.domains), width, device=context.device)
    seen: list[tuple[int, list[int], Tensor, Tensor]] = []  # domain, rows, embeddings, probabilities
    counts = [len(lengths) for lengths in collate.rows.lengths.values()]
    done = 0
    batches = [
        (number, rows.tolist())
        for number, lengths in enumerate(collate.rows.lengths.values())
        for rows in batches_of(lengths.clip(min=collate.pad_to or 0), BATCH_TOKENS[context.device.type])
    ]
    for number, rows in processes.shard(batches):
        domain = collate.domains[number]
        batch = collate.batch({domain: rows}, [(domain, row) for row in rows])
        assert batch.teacher is not None
        with context.precision.autocast():
            found = batch.teacher()
        assert found.hidden is not None
        # Padding may hold anything, also what is not a number.
        mask = batch.tokens.mask
        states = torch.where(mask[..., None], found.hidden[-1].float(), 0.0)
        embeddings = states.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (R, H)
        # By itself and not by index_add_, whose order is open on a GPU: a run that goes on finds the same weights.
        sums[number] += embeddings.sum(dim=0)
        shares = found.logits.float().softmax(dim=-1)
        own = shares.gather(1, batch.labels.targets[:, None])[:, 0]
        probabilities = torch.where(batch.labels.weights > 0, own, shares.max(dim=-1).values)
        seen.append((number, rows, embeddings.cpu(), probabilities.cpu()))
        done += len(rows)
        context.on_event(Progress("instance weights", min(sum(counts), done * processes.size), sum(counts)))
    centroids = (processes.all_reduce(sums) / torch.tensor(counts, device=context.device)[:, None]).cpu()
    if not torch.isfinite(centroids).all():
        raise TrainingError("--instance-weights: the teacher shows something that is not a number; teach it anew")
    weights = [torch.zeros(count) for count in counts]
    for number, rows, embeddings, probabilities in seen:
        scores = prototype_scores(embeddings, torch.full((len(rows),), number), centroids)
        weights[number][rows] = expertise_weights(scores, probabilities)
    whole = processes.all_reduce(torch.cat(weights).to(context.device)).double().cpu()
    found_by_domain = dict(zip(collate.domains, map(Tensor.numpy, torch.split(whole, counts)), strict=True))
    ranges = [f"{domain} {own.min():.2f} to {own.max():.2f}" for domain, own in found_by_domain.items()]
    context.on_event(Note(f"instance weights: {', '.join(ranges)}"))
    return found_by_domain
