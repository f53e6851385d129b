"""Datasets on the Hugging Face hub (or the server that ``HF_ENDPOINT`` names)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrkd_cli.data.sources.discover import DATA_SUFFIXES
from hrkd_cli.data.sources.parquet import decode_classes
from hrkd_cli.data.sources.records import Row, Table
from hrkd_cli.data.sources.values import SPLIT_NAMES
from hrkd_cli.errors import DataError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
_BATCH = 1000
_TIMEOUT = 20
# By name: they come from huggingface_hub, httpx, requests and Python, and their homes differ between versions.
_UNREACHABLE = frozenset(
    {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException", "LocalEntryNotFoundError"}
)


def could_be_id(source: str) -> bool:
    """Tell whether a source that is no file here could be a hub id: ``name``, ``owner/name`` or ``owner/name:config``.

    What ends like a data file, or lies in a folder that is here, is a mistyped path.
    """
    if not _ID.fullmatch(source) or Path(source).suffix.lower() in DATA_SUFFIXES:
        return False
    return "/" not in source or not Path(source.split("/", maxsplit=1)[0]).is_dir()


def load_hub(source: str) -> tuple[list[tuple[str, str | None, Table]], list[str]]:
    """Load a hub dataset.

    Args:
        source: ``owner/name``, with ``:config`` where the dataset has several.

    Returns:
        (name of the part, split, its table) for each split that is used, and the names of the others. The split of
        data that has no splits is None.

    Raises:
        DataError: it is not there, cannot be reached, or cannot be read.
    """
    name, _, config = source.partition(":")
    with _quiet() as datasets:
        try:
            _fail_fast(datasets, name)
            loaded = datasets.load_dataset(name, config or None)
        # datasets, huggingface_hub, httpx, fsspec and pyarrow each raise exceptions of their own here.
        except Exception as error:
            raise DataError(_explain(source, error)) from None
    used: list[tuple[str, str | None, Table]] = []
    others = []
    for split, part in loaded.items():
        if split in SPLIT_NAMES:
            used.append((f"{source}/{split}", SPLIT_NAMES[split], _table(part)))
        else:
            others.append(f"{source}/{split}")
    if not used:
        raise DataError(f"{source}: none of its splits is train, dev or test ({', '.join(loaded)})")
    if [split for _, split, _ in used] == ["train"]:
        # The hub calls data without splits "train".
        used = [(part, None, table) for part, _, table in used]
    return used, others


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
    columns = list(part.column_names)
    names = {name: getattr(part.features[name], "names", None) for name in columns}

    def rows(wanted: Sequence[int]) -> Iterator[Row]:
        chosen = [columns[i] for i in wanted]
        number = 0
        for batch in part.select_columns(list(dict.fromkeys(chosen))).with_format("arrow").iter(_BATCH):
            lists = [decode_classes(batch.column(name).to_pylist(), names[name]) for name in chosen]
            for values in zip(*lists, strict=True):
                number += 1
                yield number, values

    return Table(columns, rows)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Import ``datasets`` and keep it from drawing bars and logging: the command line has its own display."""
    import datasets
    from huggingface_hub import utils as hub

    levels = datasets.logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = datasets.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(levels[0])
        hub.logging.set_verbosity(levels[1])
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()


def _explain(source: str, error: Exception) -> str:
    if type(error).__name__ == "DatasetNotFoundError":
        return f"{source}: no such file or folder here, and no such dataset on the hub (if private: hf auth login)"
    if _is_unreachable(error):
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"{source}: no such file or folder here, and the hub ({hub}) cannot be reached; check path and network"
    return f"{source}: the hub dataset cannot be loaded: {' '.join(str(error).split())[:300]}"


def _is_unreachable(error: Exception) -> bool:
    return not _UNREACHABLE.isdisjoint(kind.__name__ for kind in type(error).__mro__)
