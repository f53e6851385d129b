"""metrics.jsonl."""

from short_runs import read_metrics


def test_every_step_is_recorded_once(teacher):
    records = read_metrics(teacher)
    steps = [r["step"] for r in records if "losses" in r]
    assert steps == list(range(1, 6 * 6 + 1))
    assert records[0]["losses"]["total"] > records[-2]["losses"]["total"]
    dev = [r for r in records if "dev" in r]
    assert [r["step"] for r in dev] == list(range(3, 37, 3))
