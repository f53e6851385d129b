"""Datasets that the ``datasets`` library reads: on the Hugging Face hub, or in a folder of ``save_to_disk``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrkd_cli.data.names import short
from hrkd_cli.data.sources.arrow import BATCH, arrow_table
from hrkd_cli.data.sources.columns import SourceFile
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError, one_line
from hrkd_cli.events import Note, OnEvent

_SAVED = ("dataset_dict.json", "state.json")
_TIMEOUT = 20
# By name: they come from huggingface_hub, httpx, requests and Python, and their homes differ between versions.
_UNREACHABLE = frozenset(
    {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException", "LocalEntryNotFoundError"}
)


def is_saved(folder: Path) -> bool:
    """Tell a folder of ``save_to_disk``."""
    return any((folder / name).is_file() for name in _SAVED)


def find_splits(source: str, on_event: OnEvent) -> list[SourceFile]:
    """Load a dataset and return the splits that are used; the split of data that has no splits is None.

    Args:
        source: ``owner/name``, with ``:config`` where the dataset has several; or a folder of ``save_to_disk``.
        on_event: told of splits that are not read.

    Raises:
        DataError: it is not there, cannot be reached, or cannot be read.
    """
    on_event(Note(f"loading {source}"))
    with _quiet() as datasets:
        try:
            if is_saved(Path(source)):
                loaded = datasets.load_from_disk(source)
                loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
            else:
                name, _, config = source.partition(":")
                _fail_fast(datasets, name)
                loaded = datasets.load_dataset(name, config or None)
        # datasets, huggingface_hub, httpx, fsspec and pyarrow each raise exceptions of their own here.
        except Exception as error:
            raise DataError(f"{source}: {_explain(error)}") from None
    used: dict[str, str | None] = {name: SPLIT_NAMES[name] for name in loaded if name in SPLIT_NAMES}
    if not used:
        raise DataError(f"{source}: none of its splits is train, dev or test ({', '.join(loaded)})")
    if others := [f"{source}/{name}" for name in loaded if name not in used]:
        on_event(Note(f"{source}: splits not read: {short(others)}", warning=True))
    if list(used.values()) == ["train"]:  # what data without splits is called
        used = dict.fromkeys(used)
    return [_split_file(f"{source}/{name}", loaded[name], split) for name, split in used.items()]


def _fail_fast(datasets: Any, name: str) -> None:
    """Raise at once what ``load_dataset`` would raise after half a minute of retries: no network, and no copy here."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=_TIMEOUT)
    except Exception as error:
        cached = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
        if _is_unreachable(error) and not cached.is_dir():
            raise


def _split_file(where: str, part: Any, split: str | None) -> SourceFile:
    def batches(wanted: list[str]) -> Any:
        return part.select_columns(wanted).with_format("arrow").iter(BATCH)

    names = {name: feature.names for name, feature in part.features.items() if hasattr(feature, "names")}
    table = arrow_table(list(part.column_names), batches, names)
    return SourceFile(where, lambda _encoding: table, split=split)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Import ``datasets`` and keep it from drawing bars and logging: the command line has its own display."""
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
    if type(error).__name__ == "DatasetNotFoundError":
        return "no such file or folder here, and no such dataset on the hub (if private: hf auth login)"
    if _is_unreachable(error):
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"no such file or folder here, and the hub ({hub}) cannot be reached; check path and network"
    return f"this dataset cannot be loaded: {one_line(error)}"


def _is_unreachable(error: Exception) -> bool:
    return not _UNREACHABLE.isdisjoint(kind.__name__ for kind in type(error).__mro__)
