"""Which weights are saved: the best on average, and the best of each domain."""

import json

import torch
from safetensors.torch import load_file

from hrkd_cli.evaluation.metrics import DomainScores
from short_runs import read_metrics, run_teach


def test_the_step_with_the_best_average_is_saved(teacher):
    record = json.loads((teacher / "hrkd.json").read_text())
    dev = {r["step"]: r["dev"] for r in read_metrics(teacher) if "dev" in r}
    averages = {step: scores["average"]["accuracy"] for step, scores in dev.items()}
    best = max(averages, key=lambda step: (averages[step], step))
    assert record["results"]["best"]["step"] == best
    # A domain's weights are saved only if its best step is a different one.
    for domain in ("books", "music"):
        by_step = {step: scores["domains"][domain]["accuracy"] for step, scores in dev.items()}
        own = max(by_step, key=lambda step: (by_step[step], step))
        assert (teacher / "best" / domain).is_dir() == (own != best)


def test_a_domains_best_weights_are_saved_if_they_are_from_another_step(tmp_path, encoder, dataset, monkeypatch):
    """With these scores, books is best at the first evaluation, music and the average at the second."""
    made_up = iter([(0.9, 0.1), (0.8, 0.7), (0.5, 0.6)])

    def score(*_args):
        pair = dict(zip(("books", "music"), next(made_up), strict=True))
        return {d: DomainScores(16, value, value, (0.0, 1.0), {}) for d, value in pair.items()}

    monkeypatch.setattr("hrkd_cli.training.trainer.score_split", score)
    result = run_teach(encoder, dataset, tmp_path / "t", epochs=1, eval_every=2, batch_size=8)
    assert result.best_step == 4
    assert sorted(p.name for p in (tmp_path / "t" / "best").iterdir()) == ["books"]
    root, books = (load_file(f / "model.safetensors") for f in (tmp_path / "t", tmp_path / "t" / "best" / "books"))
    assert any(not torch.equal(root[name], books[name]) for name in root)
