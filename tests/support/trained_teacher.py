"""Session fixtures: a tiny encoder, a dataset, and a teacher fine-tuned on it."""

import pytest

from tiny import make_dataset, write_encoder

# Enough for a tiny random model to learn a separable task. A linear probe would leave its student nothing to improve.
TEACHING = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 8, "max_length": 16, "probe": False}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("models") / "encoder", layers=4)


@pytest.fixture(scope="session")
def dataset():
    return make_dataset()


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, encoder, dataset):
    from hrkd_cli.teaching.teach import teach

    out = tmp_path_factory.mktemp("teachers") / "teacher"
    teach(encoder, data=dataset, out=out, **TEACHING)
    return out
