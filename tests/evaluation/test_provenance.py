import itertools
import json
import shutil
from pathlib import Path

import pytest

from hrkd_cli import evaluate, prepare
from hrkd_cli.data.dataset_folder import open_dataset
from hrkd_cli.errors import DataError
from hrkd_cli.evaluation.provenance import (
    DataProvenance,
    default_data,
    find_start_encoder,
    find_teacher,
    read_provenance,
    restrict_to_common_domains,
)
from hrkd_cli.models.fingerprint import model_fingerprint
from tiny_folder import make_dataset, make_texts


def write_json(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def single(tmp_path):
    """Return a function that writes a single-domain model (its configuration only)."""

    def write(domain):
        folder = write_json(tmp_path / domain, "config.json", {"hrkd": {"domain": domain}})
        (folder / "model.safetensors").touch()
        return folder

    return write


def dataset_of(*domains, path=None):
    rows = {"test": (make_texts(2), ["negative", "positive"])}
    return make_dataset(dict.fromkeys(domains, rows), path=path)


def test_the_recorded_path_is_relative_to_the_model(tmp_path):
    student = write_json(tmp_path / "student", "config.json", {})
    assert read_provenance(student) is None
    write_json(student, "hrkd.json", {"data": {"path": "../dataset", "fingerprint": "abc"}})
    assert read_provenance(student) == DataProvenance(tmp_path / "dataset", "abc")
    assert read_provenance("owner/hub-id") is None


def test_only_prepared_datasets_can_differ(tmp_path):
    prepared, raw = dataset_of("books", path=tmp_path), dataset_of("books")
    other, same = DataProvenance(tmp_path, "other"), DataProvenance(tmp_path, prepared.fingerprint)
    assert (other.differs_from(prepared), same.differs_from(prepared), other.differs_from(raw)) == (True, False, False)


def test_data_prepared_from_a_models_data_does_not_differ(tmp_path):
    cells = itertools.product(("books", "dvd"), "ab", range(20))
    lines = [f"{domain},{label},{domain} {label} {n}" for domain, label, n in cells]
    (tmp_path / "raw.csv").write_text("\n".join(["domain,label,text", *lines]))
    prepare(tmp_path / "raw.csv", out=tmp_path / "whole")
    prepare(tmp_path / "whole", out=tmp_path / "part", domains=["books"], few_shot=0.5)
    whole, part = open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "part")
    assert not DataProvenance(tmp_path / "whole", whole.fingerprint).differs_from(part)
    assert DataProvenance(tmp_path / "part", part.fingerprint).differs_from(whole)
    assert DataProvenance(tmp_path / "whole", "changed since").differs_from(part)


def test_data_defaults_to_hrkd_out_then_to_the_first_models_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = write_json(tmp_path / "student", "config.json", {})
    with pytest.raises(DataError, match=r"no dataset in .*dataset; say which one to use with --data"):
        default_data([student])
    write_json(student, "hrkd.json", {"data": {"path": "../reviews"}})
    with pytest.raises(DataError, match=r"reviews, which .* was made from, no longer exists"):
        default_data([student])
    (tmp_path / "reviews").mkdir()
    assert default_data([student]) == tmp_path / "reviews"
    write_json(tmp_path / "hrkd-out", "config.json", {})
    write_json(tmp_path / "hrkd-out/dataset", "dataset.json", {})
    assert default_data([student]) == Path("hrkd-out/dataset")


def test_evaluate_names_recorded_data_that_is_gone(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models / "teacher", "teacher")
    (tmp_path / "teacher/hrkd.json").write_text(json.dumps({"data": {"path": "../dataset"}}))
    with pytest.raises(DataError, match=r"dataset, which teacher was made from, no longer exists"):
        evaluate(["teacher"])


def test_rows_of_domains_that_a_model_does_not_predict_are_left_out(tmp_path, single, models):
    events = []
    dataset = dataset_of("books", "cars", "dvd")
    teacher, other = models / "teacher", single("dvd")
    restricted = restrict_to_common_domains([teacher, other], dataset, "data", on_event=events.append)
    assert restricted.domains == ("dvd",)
    assert [(event.text, event.warning) for event in events] == [
        (f"{teacher} predicts only books, dvd: rows of other domains are not scored", True),
        (f"{other} predicts only dvd: rows of other domains are not scored", True),
    ]
    dataset = dataset_of("books", "dvd")
    assert restrict_to_common_domains([teacher], dataset, "data") is dataset


def test_data_of_one_domain_is_not_restricted(single):
    dataset = dataset_of("new")
    assert restrict_to_common_domains([single("dvd")], dataset, "data") is dataset


def test_data_without_a_domain_that_all_models_predict_is_an_error(single):
    with pytest.raises(DataError, match=r"data: no rows to score: .*dvd predicts only dvd; the .* have cars, pans"):
        restrict_to_common_domains([single("dvd")], dataset_of("cars", "pans"), "data")
    with pytest.raises(
        DataError, match=r"no rows to score: .*dvd predicts only dvd; the data and other models have boo"
    ):
        restrict_to_common_domains([single("books"), single("dvd")], dataset_of("books", "dvd"), "data")


def test_the_teacher_of_another_project_is_not_taken_for_the_models_own(tmp_path, models, monkeypatch):
    for project in ("own", "other"):
        shutil.copytree(models / "teacher", tmp_path / project / "out/teacher")
    config = tmp_path / "other/out/teacher/config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    student = tmp_path / "own/out/student"
    student.mkdir()
    fingerprint = model_fingerprint(models / "teacher")
    write_json(student, "hrkd.json", {"models": {"teacher": {"name": "out/teacher", "fingerprint": fingerprint}}})
    monkeypatch.chdir(tmp_path / "other")
    own = tmp_path / "own/out/teacher"
    assert find_teacher(student) == own
    own.rename(tmp_path / "moved")
    assert find_teacher(student) is None  # out/teacher here is another model
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").rename(tmp_path / "out-teacher")
    write_json(student, "hrkd.json", {"models": {"extended": {"name": "out-teacher", "fingerprint": fingerprint}}})
    assert find_teacher(student) == Path("out-teacher")


def test_the_data_of_a_model_is_found_through_a_link(tmp_path):
    student = write_json(tmp_path / "student", "config.json", {})
    write_json(student, "hrkd.json", {"data": {"path": "../dataset", "fingerprint": "abc"}})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/current").symlink_to("../student")
    assert read_provenance(tmp_path / "deep/current").path == tmp_path / "dataset"


@pytest.mark.parametrize("damaged", ["{", '{"models": {"start": 5}}'])
def test_a_damaged_record_of_a_teacher_does_not_end_a_run_that_compares_baselines(tmp_path, damaged):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "hrkd.json").write_text('{"models": {"start": {"name": "encoder"}}}')
    events = []
    assert find_start_encoder([tmp_path], events.append) == "encoder"
    (tmp_path / "hrkd.json").write_text(damaged)
    assert find_start_encoder([tmp_path], events.append) is None
    assert [event.text for event in events] == [
        "no baseline on a frozen encoder: it is not known which one the teacher was fine-tuned from"
    ]
