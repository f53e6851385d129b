from hrkd_cli.onnx_export.export_result import ExportResult, Trial, accuracy_drop, best_trial


def make_trial(recipe, drop, *, kept=False):
    return Trial("int8", recipe, bytes=1, drop=drop, passed=kept, accuracy={}, kept=kept)


def test_accuracy_drop_is_an_exact_mean_over_domains_in_points():
    assert accuracy_drop({"books": 0.9}, {"books": 0.895}) == 0.5
    assert accuracy_drop({"books": 0.9, "dvd": 0.8}, {"books": 0.8, "dvd": 0.9}) == 0.0
    assert str(accuracy_drop({"books": 0.9}, {"books": 0.9})) == "0.0"
    assert accuracy_drop({"books": 0.5}, {"books": 0.6}) == -10.0


def test_the_best_trial_is_the_kept_one_or_else_the_one_with_the_smallest_drop():
    first, second = make_trial("first", 3.0), make_trial("second", 2.0)
    assert best_trial([first, second]) is second
    kept = make_trial("third", 2.5, kept=True)
    assert best_trial([first, second, kept]) is kept


def test_json_lists_optional_fields_only_if_they_are_set():
    assert set(ExportResult().to_json()) == {"files", "quantized_ops", "bytes_by_part", "gate"}
    full = ExportResult(tries=(make_trial("first", 3.0),), target="avx2", out="folder").to_json()
    assert full["tries"] == [
        {"precision": "int8", "recipe": "first", "bytes": 1, "drop": 3.0, "passed": False, "kept": False}
    ]
    assert (full["target"], full["out"], full["domain"]) == ("avx2", "folder", None)
