import json
import subprocess
import sys

import datasets
import pytest

from hub_server import hub_environment, serve_hub

CODE = """
import sys
from hrkd_cli import prepare
from hrkd_cli.errors import DataError
for source in sys.argv[2:]:
    try:
        result = prepare(source, out=sys.argv[1] + "/" + source.replace("/", "-"))
        print(result.to_json(), result.dropped_lines())
    except DataError as error:
        print(error)
"""


@pytest.fixture
def repository(tmp_path):
    """A dataset repository in Parquet, with class names and an unlabeled row in train."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "domain": datasets.Value("string"),
        }
    )
    for split, rows in (("train", 41), ("validation", 8)):
        columns = {
            "text": [f"{split} {i}" for i in range(rows)],
            "label": [-1 if i == 40 else i % 2 for i in range(rows)],
            "domain": ["books" if i % 4 < 2 else "dvd" for i in range(rows)],
        }
        path = tmp_path / "repository" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return tmp_path / "repository"


def run(tmp_path, url, *sources, code=CODE, **env):
    (tmp_path / "work").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "work"), *sources],
        env={**hub_environment(url, tmp_path / "hf"), **env},
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_hub_dataset_is_prepared_with_class_names_and_its_splits(tmp_path, repository, jsonl):
    plain = jsonl(
        tmp_path / "plain" / "all.jsonl", [{"text": f"t{i}", "label": i % 2, "genre": "g"} for i in range(20)]
    )
    with serve_hub({"datasets/acme/reviews": repository, "datasets/acme/plain": plain.parent}) as url:
        lines = run(tmp_path, url, "acme/reviews", "acme/plain", "acme/none", "acme/reviews:odd")
    domains = {
        "books": {"train": 18, "dev": 4, "test": 2, "labels": {"neg": 12, "pos": 12}},
        "dvd": {"train": 18, "dev": 4, "test": 2, "labels": {"neg": 12, "pos": 12}},
    }
    assert lines[0].startswith(str({"domains": domains, "dropped": {"no label": 1}})[:-1])
    assert lines[0].endswith("['not used: 1 row, no label (acme/reviews/train:41)']")
    assert lines[1].startswith("{'domains': {'g': {'train': 16, 'dev': 2, 'test': 2, 'labels': {'0': 10, '1': 10}}}")
    assert lines[2].startswith("acme/none: no such file or folder here, and no such dataset on the hub")
    assert lines[3].startswith("acme/reviews:odd: this dataset cannot be loaded: BuilderConfig 'odd' not found")
    assert len(lines) == 4
    sources = json.loads((tmp_path / "work" / "acme-reviews" / "dataset.json").read_text())["sources"]
    assert [source["path"] for source in sources] == ["acme/reviews"]


def test_a_gated_dataset_says_what_to_do(tmp_path, repository):
    with serve_hub({"datasets/acme/reviews": repository}, gated=["datasets/acme/reviews"]) as url:
        lines = run(tmp_path, url, "acme/reviews")
    assert lines == ["acme/reviews: accept its terms on the hub first, then run hf auth login"]


def test_a_hub_that_cannot_be_reached_is_an_error_of_one_line(tmp_path):
    # Nothing listens on this port: the server is closed before the request.
    with serve_hub({}) as url:
        pass
    message = (
        f"acme/reviews: no such file or folder here, and the hub ({url}) cannot be reached; check path and network"
    )
    assert run(tmp_path, url, "acme/reviews") == [message]
    assert run(tmp_path, url, "acme/reviews", HF_HUB_OFFLINE="1") == [message]


def test_training_reuses_hub_data_and_evaluation_takes_all_of_it(tmp_path, jsonl):
    folder = jsonl(
        tmp_path / "plain" / "all.jsonl", [{"text": f"t{i}", "label": i % 2, "genre": "g"} for i in range(20)]
    ).parent
    code = """
import sys
from hrkd_cli.data.dataset_loading import load_for_evaluation, load_for_training
notes = []
for _ in range(2):
    load_for_training("acme/plain", on_event=notes.append)
print([n.text.split()[0] for n in notes if hasattr(n, "text")])
print(len(load_for_evaluation("acme/plain", "test").split("g", "test")))
"""
    with serve_hub({"datasets/acme/plain": folder}) as url:
        assert run(tmp_path, url, code=code) == ["['preparing', 'columns:', 'using']", "20"]


def test_the_fake_hub_serves_models_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    code = (
        "import huggingface_hub as h, os\n"
        "print(sorted(os.listdir(h.snapshot_download('acme/tiny-bert'))))\n"
        "print(open(h.hf_hub_download('acme/tiny-bert', 'config.json')).read())\n"
        "print(h.file_exists('acme/tiny-bert', 'model.safetensors'))"
    )
    with serve_hub({"acme/tiny-bert": tmp_path / "model"}) as url:
        assert run(tmp_path, url, code=code, HF_HUB_DISABLE_PROGRESS_BARS="1") == [
            "['config.json']",
            '{"a": 1}',
            "False",
        ]
