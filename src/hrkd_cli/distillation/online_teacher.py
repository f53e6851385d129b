"""Teacher outputs computed in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.distillation.teachers import Teachers
from hrkd_cli.method import MASKED_LOGIT, Outputs, Requirement
from hrkd_cli.models.device import to_device
from hrkd_cli.models.feature_capture import FeatureCapture
from hrkd_cli.models.label_gather import LabelGather
from hrkd_cli.models.model_tokenizer import TokenBatch
from hrkd_cli.training.collator import RowRef
from hrkd_cli.training.tokenized_split import TokenizedSplit

# Padded tokens per batch when only the teacher runs, by device.
INFERENCE_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 8192}


class OnlineTeacher:
    """Runs the teachers on each batch. Domains that share a teacher share a forward pass.

    If the teacher lacks a row's domain, the row's logits are the log of the mean of its heads' probabilities, and its
    domain posterior is 1 for the row's domain.

    ``split`` is the training data in the teachers' tokenization.
    """

    def __init__(
        self, teachers: Teachers, loss_config: LossConfig, split: TokenizedSplit, device: torch.device
    ) -> None:
        self.teachers = teachers
        self.layers = loss_config.matched_layers
        self.attention = loss_config.requires(Requirement.QUERIES_KEYS)
        self.domain_posterior = teachers.domain_posterior and loss_config.requires(Requirement.DOMAINS)
        self.split = split
        self.pad_to = loss_config.pad_to
        self.device = device
        models = teachers.models.values()
        self.captures = {id(model): FeatureCapture(model, self.layers, attention=self.attention) for model in models}
        self.domains = list(teachers.heads.domains)
        self.label_gather = LabelGather(teachers.heads, device)

    def load(self, refs: Sequence[RowRef], batch: TokenBatch) -> Callable[[], Outputs]:
        """Prepare some rows, in any thread; return a function that runs the teachers on them.

        ``batch`` has the same rows in the student's tokenization; if that is the teachers', they are padded alike.
        """
        examples = [self.split.examples[domain][row] for domain, row in refs]
        batch = self.split.tokenizer.collate(examples, self.device, pad_to=batch.mask.shape[1])
        model_ids = np.array([id(self.teachers.models[domain]) for domain, _ in refs])
        rows_by_model = {
            int(model_id): to_device(torch.from_numpy(np.flatnonzero(model_ids == model_id)), self.device)
            for model_id in np.unique(model_ids)
        }
        domains = torch.tensor([self.domains.index(domain) for domain, _ in refs])
        return partial(self._run, batch, rows_by_model, to_device(domains, self.device))

    @torch.no_grad()
    def _run(self, batch: TokenBatch, rows_by_model: dict[int, Tensor], domains: Tensor) -> Outputs:
        if len(rows_by_model) == 1:
            (model_id,) = rows_by_model
            outputs = self.captures[model_id](batch)
        else:
            parts = []
            for model_id, rows in rows_by_model.items():
                inputs = {name: tensor[rows] for name, tensor in batch.inputs.items()}
                parts.append(self.captures[model_id](TokenBatch(inputs, batch.mask[rows])))
            outputs = _in_batch_order(parts, torch.cat(list(rows_by_model.values())).argsort())
        gather = self.label_gather
        logits = gather.take(outputs.logits, domains)
        domain_logits = gather.domain_logits(outputs.logits) if self.domain_posterior else None
        if gather.no_head is not None:
            new = gather.no_head[domains][:, None]
            mixture = gather.mixture(outputs.logits, posterior=self.teachers.domain_posterior)
            logits = torch.where(new, mixture, logits)
            if domain_logits is not None:
                certain = (1 - F.one_hot(domains, len(self.domains))) * MASKED_LOGIT
                domain_logits = torch.where(new, certain, domain_logits)
        return replace(outputs, logits=logits, domain_logits=domain_logits)


def _in_batch_order(parts: Sequence[Outputs], order: Tensor) -> Outputs:
    """Concatenate the outputs of several models; ``order`` has the position of each row of the batch in them."""

    def concatenate(tensors: list[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present, dim=1).index_select(1, order) if present else None

    return Outputs(
        hidden=concatenate([part.hidden for part in parts]),
        queries=concatenate([part.queries for part in parts]),
        keys=concatenate([part.keys for part in parts]),
        logits=torch.cat([part.logits for part in parts]).index_select(0, order),
    )


def inference_batches(lengths: np.ndarray, device: torch.device) -> Iterator[np.ndarray]:
    """Yield row indices in the batches in which the teacher alone runs on a device."""
    return batches_by_length(lengths, INFERENCE_TOKENS[device.type])


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield row indices, longest row first, in batches of at most ``max_tokens`` padded tokens or of one row."""
    rows, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(rows):
        size = max(1, max_tokens // max(1, int(lengths[rows[start]])))
        yield rows[start : start + size]
        start += size
