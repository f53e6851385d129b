"""Meta-KD's instance weights: how typical a row is across domains, and how well its teacher classifies it.

Pan et al., "Meta-KD: A Meta Knowledge Distillation Framework for Language Model Compression across Domains" (ACL 2021),
prototype scores and domain-expertise weights. With E_i the mean of the teacher's last hidden states over the tokens of
row i, and C_d the mean of E_i over the rows of domain d,

    t_i      = (cos(E_i, C_d) + cos(E_i, mean of the other domains' C)) / 2
    lambda_i = (1 + t_i) / (exp((1 - p_i)^2) + 1)

where p_i is the teacher's probability of the right label, or its highest probability if the row has no label. The
cosine to the mean of the other domains follows Meta-KD's released code.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.distillation.distill_collator import DistillBatch, DistillCollator
from hrkd_cli.distillation.online_teacher import inference_batches
from hrkd_cli.errors import TrainingError
from hrkd_cli.events import Note, Progress
from hrkd_cli.method import Outputs

MIN_WEIGHT = 1e-3  # keeps a domain's weighted means defined if all its rows have weight 0


def prototype_scores(embeddings: Tensor, domains: Tensor, centroids: Tensor) -> Tensor:
    """Return t of each row, (R,), from -1 to 1.

    Args:
        embeddings: E, (R, H).
        domains: (R,), index of each row's domain.
        centroids: C, (D, H). If there is a single domain, t is the cosine to its centroid.
    """
    own_domain = F.cosine_similarity(embeddings, centroids[domains], dim=-1)
    if len(centroids) == 1:
        return own_domain
    others = (centroids.sum(dim=0) - centroids) / (len(centroids) - 1)
    return (own_domain + F.cosine_similarity(embeddings, others[domains], dim=-1)) / 2


def expertise_weights(scores: Tensor, probabilities: Tensor) -> Tensor:
    """Return lambda of each row, (R,), at least MIN_WEIGHT, from t and p, (R,) each."""
    return ((1 + scores) / (torch.exp((1 - probabilities).square()) + 1)).clamp_min(MIN_WEIGHT)


@torch.no_grad()
def instance_weights(collator: DistillCollator, width: int) -> dict[str, np.ndarray]:
    """Run the teachers once on every row; return lambda of every row by domain, float64.

    The processes of the run share the rows. ``width`` is H.

    Raises:
        TrainingError: a teacher's hidden states are not finite.
    """
    context, processes = collator.context, collator.context.processes
    lengths = {domain: own.clip(min=collator.pad_to or 0) for domain, own in collator.split.lengths.items()}
    counts = list(map(len, lengths.values()))
    batches = [
        (index, domain, rows.tolist())
        for index, domain in enumerate(collator.domains)
        for rows in inference_batches(lengths[domain], context.device)
    ]
    sums = torch.zeros(len(counts), width, device=context.device)  # of E by domain
    results: list[tuple[int, list[int], Tensor, Tensor]] = []  # domain, rows, E and p of a batch
    done = 0
    for index, domain, rows in processes.shard(batches):
        batch = collator.batch({domain: rows}, [(domain, row) for row in rows])
        assert batch.teacher is not None
        with context.precision.autocast():
            outputs = batch.teacher()
        embeddings, probabilities = _embed(batch, outputs)
        # index_add_ has no fixed order on a GPU, and a resumed run must get the same weights.
        sums[index] += embeddings.sum(dim=0)
        results.append((index, rows, embeddings.cpu(), probabilities.cpu()))
        done += len(rows)
        context.on_event(Progress("instance weights", min(sum(counts), done * processes.size), sum(counts)))
    centroids = (processes.all_reduce(sums) / torch.tensor(counts, device=context.device)[:, None]).cpu()
    if not torch.isfinite(centroids).all():
        raise TrainingError("--instance-weights: the teacher's hidden states are not finite; train the teacher again")
    weights = [torch.zeros(count) for count in counts]
    for index, rows, embeddings, probabilities in results:
        scores = prototype_scores(embeddings, torch.full((len(rows),), index), centroids)
        weights[index][rows] = expertise_weights(scores, probabilities)
    all_weights = processes.all_reduce(torch.cat(weights).to(context.device)).double().cpu()
    by_domain = dict(zip(collator.domains, map(Tensor.numpy, torch.split(all_weights, counts)), strict=True))
    ranges = [f"{domain} {own.min():.2f} to {own.max():.2f}" for domain, own in by_domain.items()]
    context.on_event(Note(f"instance weights: {', '.join(ranges)}"))
    return by_domain


def _embed(batch: DistillBatch, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return E (R, H) and p (R,) of each row from the teacher's outputs."""
    assert outputs.hidden is not None
    mask = batch.tokens.mask
    states = torch.where(mask[..., None], outputs.hidden[-1].float(), 0.0)  # padding may hold anything, including NaN
    embeddings = states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    probabilities = outputs.logits.float().softmax(dim=-1)
    of_label = probabilities.gather(1, batch.labels.targets[:, None])[:, 0]
    return embeddings, torch.where(batch.labels.weights > 0, of_label, probabilities.max(dim=-1).values)
