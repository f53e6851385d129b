"""Datasets that the ``datasets`` library loads: from the Hugging Face hub, or from a ``save_to_disk`` folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.arrow import BATCH_ROWS, make_arrow_reader
from hrkd_cli.data.sources.row_reader import RowReader, SourceFile, check_open_options
from hrkd_cli.data.sources.values import SPLIT_ALIASES
from hrkd_cli.errors import DataError, one_line
from hrkd_cli.events import Note, OnEvent, Progress
from hrkd_cli.formatting import join_names

_SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")
_TIMEOUT_SECONDS = 20
# By name: they come from huggingface_hub, httpx, requests and Python, and their modules differ between versions.
_CONNECTION_ERRORS = frozenset(
    {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException", "LocalEntryNotFoundError"}
)


def is_saved_dataset(folder: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return any((folder / name).is_file() for name in _SAVED_DATASET_FILES)


def load_splits(source: str, on_event: OnEvent) -> list[SourceFile]:
    """Load a dataset and return its train, dev and test splits; a dataset with only a train split has no splits.

    ``source`` is ``owner/name``, ``owner/name:config`` if it has several configs, or a ``save_to_disk`` folder.

    Raises:
        DataError: it does not exist, or cannot be reached or read.
    """
    on_event(Progress(f"loading {source}"))
    with _silenced_datasets() as datasets:
        try:
            if is_saved_dataset(Path(source)):
                loaded = datasets.load_from_disk(source)
                loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
            else:
                name, _, config = source.partition(":")
                loaded = datasets.load_dataset(name, config or None)
        # datasets, huggingface_hub, httpx, fsspec and pyarrow raise unrelated exceptions here.
        except Exception as error:
            raise DataError(f"{source}: {_explain(error)}") from None
    splits: dict[str, str | None] = {name: SPLIT_ALIASES[name] for name in loaded if name in SPLIT_ALIASES}
    if not splits:
        raise DataError(f"{source}: none of its splits is train, dev or test ({', '.join(loaded)})")
    if skipped := [f"{source}/{name}" for name in loaded if name not in splits]:
        on_event(Note(f"{source}: splits not read: {join_names(skipped)}", warning=True))
    if list(splits.values()) == ["train"]:  # datasets' name for data without splits
        splits = dict.fromkeys(splits)
    return [_make_source_file(f"{source}/{name}", loaded[name], split) for name, split in splits.items()]


def check_hub(source: str) -> None:
    """Raise DataError if the hub has no such dataset, or cannot be reached and no copy is cached.

    ``load_dataset`` would need half a minute of retries, after some seconds for the import of ``datasets``.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    name = source.partition(":")[0]
    try:
        HfApi().dataset_info(name, timeout=_TIMEOUT_SECONDS)
    except Exception as error:
        cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
        is_missing = isinstance(error, RepositoryNotFoundError | HFValidationError)
        if is_missing or (_is_connection_error(error) and not (cache / name.replace("/", "___")).is_dir()):
            raise DataError(f"{source}: {_explain(error)}") from None


def _make_source_file(display_name: str, data: Any, split: str | None) -> SourceFile:
    def iter_batches(columns: list[str]) -> Any:
        return data.select_columns(columns).with_format("arrow").iter(BATCH_ROWS)

    class_names = {name: feature.names for name, feature in data.features.items() if hasattr(feature, "names")}
    reader = make_arrow_reader(list(data.column_names), iter_batches, class_names)

    def open_split(encoding: str | None = None, has_header: bool = True) -> RowReader:
        check_open_options(display_name, encoding, has_header)
        return reader

    return SourceFile(display_name, open_split, split=split)


@contextmanager
def _silenced_datasets() -> Iterator[Any]:
    """Import ``datasets`` without its progress bars and logging: the command line has its own display."""
    import datasets
    from huggingface_hub import utils as hub

    bars = {datasets: datasets.is_progress_bar_enabled(), hub: not hub.are_progress_bars_disabled()}
    levels = {library: library.logging.get_verbosity() for library in bars}
    for library in bars:
        library.logging.set_verbosity_error()
        library.disable_progress_bars()
    try:
        yield datasets
    finally:
        for library, enabled in bars.items():
            library.logging.set_verbosity(levels[library])
            if enabled:
                library.enable_progress_bars()


def _explain(error: Exception) -> str:
    # datasets raises the same error for a gated dataset as for a missing one.
    if type(error).__name__ == "GatedRepoError" or "gated dataset" in str(error):
        return "accept its terms on the hub first, then run hf auth login"
    if type(error).__name__ in ("DatasetNotFoundError", "RepositoryNotFoundError", "HFValidationError"):
        return "no such file or folder here, and no such dataset on the hub (if private: hf auth login)"
    if _is_connection_error(error):
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"no such file or folder here, and the hub ({hub}) cannot be reached; check path and network"
    return f"this dataset cannot be loaded: {one_line(error)}"


def _is_connection_error(error: Exception) -> bool:
    return not _CONNECTION_ERRORS.isdisjoint(cls.__name__ for cls in type(error).__mro__)
