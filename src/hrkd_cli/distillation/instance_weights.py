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

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.distillation.teacher_outputs import TeacherOutputs
from hrkd_cli.errors import TrainingError
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.models.encoding import Encoded, Encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.rows import Pick

TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}  # padded tokens of a batch
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
    side: TeacherOutputs,
    rows: tuple[Encoder, Mapping[str, Encoded]],
    labels: Mapping[str, np.ndarray],
    *,
    width: int,
    pad_to: int | None = None,
    arithmetic: Arithmetic,
    processes: ProcessGroup,
    on_event: OnEvent = ignore,
) -> dict[str, np.ndarray]:
    """Return lambda of every row by domain, float64; asks the teachers once about every row, each process its part.

    Args:
        side: what the teachers show, the last hidden states among it.
        rows: (encoder, token ids by domain), the domains in their order.
        labels: right answers by domain, of its first rows; those after them have none.
        width: H, of the teachers' hidden states.
        pad_to: tokens that ``side`` pads to; None for the longest row of a batch.
        arithmetic: precision and device.
        processes: the processes of the run.
        on_event: told how far it is.

    Raises:
        TrainingError: a teacher shows something that is not a number.
    """
    encoder, encoded = rows
    device = arithmetic.device
    numbers = {domain: number for number, domain in enumerate(encoded)}
    seen: list[tuple[Sequence[Pick], Tensor, Tensor, Tensor]] = []
    sums = torch.zeros(len(numbers), width, device=device)
    total = sum(len(own) for own in encoded.values())
    done = 0
    for picks in processes.shard(_batches(encoded, TOKENS[device.type], pad_to)):
        number = numbers[picks[0][0]]
        batch = encoder.collate_rows([(encoded[domain], row) for domain, row in picks], device, pad_to=pad_to)
        own = torch.full((len(picks),), number, device=device)
        with arithmetic.forward():
            found = side.signals(side.load(picks, batch), own)
        assert found.hidden is not None
        # Padding may hold anything, also what is not a number.
        states = torch.where(batch.mask[..., None], found.hidden[-1].float(), 0.0)
        embeddings = states.sum(dim=1) / batch.mask.sum(dim=1, keepdim=True)  # (R, H)
        # By itself and not by index_add_, whose order is open on a GPU: a run that goes on finds the same weights.
        sums[number] += embeddings.sum(dim=0)
        probabilities = _probabilities(found.logits.float(), picks, labels)
        seen.append((picks, own.cpu(), embeddings.cpu(), probabilities.cpu()))
        done += len(picks)
        on_event(Progress("instance weights", min(total, done * processes.size), total))
    counts = torch.tensor([float(len(encoded[domain])) for domain in numbers], device=device)
    centroids = (processes.all_reduce(sums) / counts[:, None]).cpu()
    if not torch.isfinite(centroids).all():
        raise TrainingError("--instance-weights: the teacher shows something that is not a number; teach it anew")
    starts = np.concatenate([[0], np.cumsum([len(encoded[domain]) for domain in numbers])])
    weights = torch.zeros(int(starts[-1]))
    for picks, own, embeddings, probabilities in seen:
        places = torch.tensor([int(starts[numbers[domain]]) + row for domain, row in picks])
        weights[places] = expertise_weights(prototype_scores(embeddings, own, centroids), probabilities)
    whole = processes.all_reduce(weights.to(device)).double().cpu().numpy()
    return {domain: whole[starts[number] : starts[number + 1]] for domain, number in numbers.items()}


def _batches(encoded: Mapping[str, Encoded], tokens: int, pad_to: int | None) -> Iterator[Sequence[Pick]]:
    """Give the rows of each domain in batches of similar length, of so many padded tokens at most, or one row."""
    for domain, own in encoded.items():
        lengths = own.lengths()
        order = np.argsort(-lengths, kind="stable").tolist()
        start = 0
        while start < len(order):
            size = max(1, tokens // (pad_to or int(lengths[order[start]])))
            yield [(domain, row) for row in order[start : start + size]]
            start += size


def _probabilities(logits: Tensor, picks: Sequence[Pick], labels: Mapping[str, np.ndarray]) -> Tensor:
    """Return what the teacher gives each row's right label, (R,); where there is none the most that it gives any."""
    found = logits.softmax(dim=-1)
    right = [int(labels[domain][row]) if row < len(labels[domain]) else -1 for domain, row in picks]
    targets = torch.tensor(right, device=logits.device)
    chosen = found.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    return torch.where(targets < 0, found.max(dim=-1).values, chosen)
