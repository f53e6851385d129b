import pytest

from hrkd_cli import export
from tiny_folder import LABELS, make_dataset, make_texts, write_csv, write_model

DIFFERENT_LABELS = {"books": ("negative", "positive"), "news": ("politics", "sport", "weather")}


def exported(name, int8=False, **options):
    """Return a fixture: a model folder, exported to fp32, and to int8 on request."""

    @pytest.fixture(scope="session", name=name)
    def make(tmp_path_factory):
        root = tmp_path_factory.mktemp("exported")
        folder = write_model(root / name, **options)
        dev = make_dataset({d: {"dev": (make_texts(4), ["negative", "positive"] * 2)} for d in LABELS})
        smaller = {"int8": True, "data": write_csv(root / "dev.csv", dev, "dev"), "max_drop": 100} if int8 else {}
        export(folder, latency=False, **smaller)
        return folder

    return make


student = exported("student")
plain = exported("plain", plain_labels=["positive", "negative"])
paired = exported("paired", pair=True)
different_labels = exported("different_labels", labels=DIFFERENT_LABELS)
finding = exported("finding", int8=True, domain_posterior=True)
finding_different_labels = exported("finding_different_labels", labels=DIFFERENT_LABELS, domain_posterior=True)
