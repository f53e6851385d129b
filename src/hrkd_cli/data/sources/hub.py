"""Datasets that the ``datasets`` library reads: on the Hugging Face hub, or in a folder of ``save_to_disk``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.arrow import BATCH, arrow_table
from hrkd_cli.data.sources.columns import Table
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError

_SAVED = ("dataset_dict.json", "state.json")
_TIMEOUT = 20
# By name: they come from huggingface_hub, httpx, requests and Python, and their homes differ between versions.
_UNREACHABLE = frozenset(
    {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException", "LocalEntryNotFoundError"}
)


def is_saved(folder: Path) -> bool:
    """Tell a folder of ``save_to_disk``."""
    return any((folder / name).is_file() for name in _SAVED)


def load(source: str) -> tuple[list[tuple[str, str | None, Table]], list[str]]:
    """Load a dataset.

    Args:
        source: ``owner/name``, with ``:config`` where the dataset has several; or a folder of ``save_to_disk``.

    Returns:
        (name of the part, split, its table) for each split that is used, and the names of the others. The split of
        data that has no splits is None.

    Raises:
        DataError: it is not there, cannot be reached, or cannot be read.
    """
    saved = is_saved(Path(source))
    with _quiet() as datasets:
        try:
            if saved:
                loaded = datasets.load_from_disk(source)
                loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
            else:
                name, _, config = source.partition(":")
                _fail_fast(datasets, name)
                loaded = datasets.load_dataset(name, config or None)
        # datasets, huggingface_hub, httpx, fsspec and pyarrow each raise exceptions of their own here.
        except Exception as error:
            raise DataError(_explain(source, error, saved=saved)) from None
    used = [name for name in loaded if name in SPLIT_NAMES]
    if not used:
        raise DataError(f"{source}: none of its splits is train, dev or test ({', '.join(loaded)})")
    # Data without splits is called "train".
    has_splits = {SPLIT_NAMES[name] for name in used} != {"train"} or len(used) > 1
    parts = [(f"{source}/{name}", SPLIT_NAMES[name] if has_splits else None, _table(loaded[name])) for name in used]
    return parts, [f"{source}/{name}" for name in loaded if name not in used]


def _fail_fast(datasets: Any, name: str) -> None:
    """Raise at once what ``load_dataset`` would raise after half a minute of retries: no network, and no copy here."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=_TIMEOUT)
    except Exception as error:
        cached = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
        if _is_unreachable(error) and not cached.is_dir():
            raise


def _table(part: Any) -> Table:
    def batches(wanted: list[str]) -> Any:
        return part.select_columns(wanted).with_format("arrow").iter(BATCH)

    names = {name: feature.names for name, feature in part.features.items() if hasattr(feature, "names")}
    return arrow_table(list(part.column_names), batches, names)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Import ``datasets`` and keep it from drawing bars and logging: the command line has its own display."""
    import datasets
    from huggingface_hub import utils as hub

    levels = [(library, library.logging.get_verbosity()) for library in (datasets, hub)]
    bars = [(datasets, datasets.is_progress_bar_enabled()), (hub, not hub.are_progress_bars_disabled())]
    for library, _ in levels:
        library.logging.set_verbosity_error()
        library.disable_progress_bars()
    try:
        yield datasets
    finally:
        for library, level in levels:
            library.logging.set_verbosity(level)
        for library, enabled in bars:
            if enabled:
                library.enable_progress_bars()


def _explain(source: str, error: Exception, *, saved: bool) -> str:
    reason = " ".join(str(error).split())[:300]
    if saved:
        return f"{source}: this folder of save_to_disk cannot be loaded: {reason}"
    if type(error).__name__ == "DatasetNotFoundError":
        return f"{source}: no such file or folder here, and no such dataset on the hub (if private: hf auth login)"
    if _is_unreachable(error):
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"{source}: no such file or folder here, and the hub ({hub}) cannot be reached; check path and network"
    return f"{source}: the hub dataset cannot be loaded: {reason}"


def _is_unreachable(error: Exception) -> bool:
    return not _UNREACHABLE.isdisjoint(kind.__name__ for kind in type(error).__mro__)
