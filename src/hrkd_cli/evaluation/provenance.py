"""The data that a model was made from, and the data on which models can be evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.data.dataset_folder import is_prepared, open_dataset
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.formatting import join_names
from hrkd_cli.json_files import read_json, read_json_or_empty
from hrkd_cli.layout import DATASET_OUT, DatasetFiles, ModelFiles
from hrkd_cli.models.fingerprint import model_fingerprint
from hrkd_cli.outputs import absolute_path
from hrkd_cli.predict.model_location import locate_model
from hrkd_cli.predict.model_spec import single_domain


@dataclass(frozen=True, slots=True)
class DataProvenance:
    """The dataset that a model was made from, according to its ``hrkd.json``."""

    path: Path
    fingerprint: str | None

    def differs_from(self, dataset: Dataset) -> bool:
        """Return whether ``dataset`` is another prepared dataset, and may hold out rows that the model was trained on.

        False for raw data, whose fingerprint differs, and for data whose dev and test rows are held out in the model's
        data too, as in data prepared from that.
        """
        if not (self.fingerprint and dataset.path and self.fingerprint != dataset.fingerprint):
            return False
        try:
            original = open_dataset(self.path)
        except DataError:  # it no longer exists
            return True
        return original.fingerprint != self.fingerprint or not _held_out_rows(dataset) <= _held_out_rows(original)


def read_provenance(model: str | Path) -> DataProvenance | None:
    """Return the dataset that a model was made from; None if not recorded."""
    location = locate_model(model)
    if location is None:
        return None
    entry = read_json(location.root / ModelFiles.run, missing_ok=True).get("data") or {}
    if not entry.get("path"):
        return None
    return DataProvenance(absolute_path(entry["path"], location.root), entry.get("fingerprint"))


def _held_out_rows(dataset: Dataset) -> set[tuple[str, str, str, str]]:
    """Return domain, split and texts of every dev and test row."""
    rows: set[tuple[str, str, str, str]] = set()
    for domain in dataset.domains:
        for split in (Split.DEV, Split.TEST):
            part = dataset.split(domain, split)
            rows.update((domain, split, *texts) for texts in zip(part.texts, part.pairs or part.texts, strict=True))
    return rows


def find_teacher(folder: Path) -> Path | None:
    """Return the folder of the teacher, or extended student, that a model was made from; None if it is not found.

    It is looked for next to the model and where it was when the model was made. A changed model is not taken for it.
    """
    made_from = read_json_or_empty(folder / ModelFiles.run).get("models") or {}
    teacher = made_from.get("teacher") or made_from.get("extended") or {}
    name = Path(teacher.get("name") or "")
    found = (path for path in (folder.resolve().parent / name.name, name) if (path / ModelFiles.config).is_file())
    return next((path for path in found if name.name and model_fingerprint(path) == teacher.get("fingerprint")), None)


def restrict_to_common_domains(
    models: Sequence[str | Path], dataset: Dataset, data_name: str, *, on_event: OnEvent = ignore
) -> Dataset:
    """Return the rows of the domains that all models predict.

    Data with one domain is returned unchanged: it may be a new file with any name.

    Raises:
        DataError: there is no such domain.
    """
    common = dataset.domains
    for model in models:
        location = locate_model(model)
        config = read_json(location.root / ModelFiles.config, missing_ok=True) if location else {}
        domain, of_several = single_domain(config), (config.get("hrkd") or {}).get("domains")
        known = [domain] if domain is not None else [*(of_several or common)]
        if len(dataset.domains) == 1 or set(common) <= set(known):
            continue
        before, common = common, tuple(domain for domain in common if domain in known)
        text = f"{model} predicts only {join_names(known)}"
        if not common:
            raise DataError(
                f"{data_name}: no rows to score: {text}; the data and other models have {join_names(before)}"
            )
        on_event(Note(f"{text}: rows of other domains are not scored", warning=True))
    return dataset if common == dataset.domains else dataset.select_domains(*common)


def default_data(models: Sequence[str | Path]) -> Path:
    """Return hrkd-out/dataset, else the data that the first model was made from; DataError if neither exists."""
    if (DATASET_OUT / DatasetFiles.manifest).is_file():
        return DATASET_OUT
    provenance = read_provenance(models[0])
    if provenance is not None and provenance.path.exists():
        return provenance.path
    gone = f", and {provenance.path}, which {models[0]} was made from, no longer exists" if provenance else ""
    raise DataError(f"no dataset in {DATASET_OUT}{gone}; say which one to use with --data")


def find_train_data(models: Sequence[str | Path], dataset: Dataset, on_event: OnEvent) -> Dataset:
    """Return the dataset if it has train rows, else the one that a model was made from."""
    if any(len(dataset.split(domain, Split.TRAIN)) for domain in dataset.domains):
        return dataset
    for model in models:
        provenance = read_provenance(model)
        if provenance is not None and is_prepared(provenance.path):
            on_event(Note(f"--floor uses the train rows of {provenance.path}, which {model} was made from"))
            return open_dataset(provenance.path)
    return dataset


def find_start_encoder(models: Sequence[str | Path], on_event: OnEvent) -> str | None:
    """Return the folder or hub id of the encoder that a model or its teacher was fine-tuned from; None if unknown."""
    for model in models:
        location = locate_model(model)
        folder, visited = location.root if location else None, set()
        while folder is not None and folder not in visited:
            visited.add(folder)
            made_from = read_json_or_empty(folder / ModelFiles.run).get("models") or {}
            if start := made_from.get("start"):
                return str(start["name"])
            folder = find_teacher(folder)
    on_event(Note("no baseline on a frozen encoder: it is not known which one the teacher was fine-tuned from"))
    return None
