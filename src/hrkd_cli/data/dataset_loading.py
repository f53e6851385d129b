"""Loading data for the stages after ``prepare``, from a prepared folder or directly from a raw source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrkd_cli.choices import Split
from hrkd_cli.command_settings import PrepareSettings
from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.data.dataset_folder import is_prepared, open_dataset, read_manifest
from hrkd_cli.data.ingest import compute_checksums, ingest
from hrkd_cli.data.prepare import content_options, describe_dropped, prepare_files
from hrkd_cli.data.row_store import RowStore, open_row_store
from hrkd_cli.data.sources.discover import find_source_files
from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, OnEvent, ignore
from hrkd_cli.layout import DATASET_OUT, DatasetFiles
from hrkd_cli.outputs import check_output

_USABLE_ROWS = """
WITH usable_rows AS (SELECT *, rowid AS id FROM rows WHERE drop_reason IS NULL)
SELECT domain, coalesce(split, CASE WHEN (SELECT count(split) FROM usable_rows) > 0 THEN 'train' ELSE ? END),
  list(text ORDER BY id), list(text_pair ORDER BY id), list(label ORDER BY id), list(location ORDER BY id)
FROM usable_rows GROUP BY ALL
"""


def load_for_training(
    data: str | Path | Dataset, *, out: Path = DATASET_OUT, force: bool = False, on_event: OnEvent = ignore
) -> Dataset:
    """Return data to train on: read from a prepared folder, or prepared from a raw source with default options.

    An earlier dataset from the same files and options is reused. The split's seed is always the default one, so that
    the seed of a training run never changes the test split.

    ``data`` is a dataset in memory, a prepared folder, or a raw source, which is prepared into ``out``; with
    ``force``, another dataset there is replaced.

    Raises:
        DataError: something is wrong with the data.
        OutputError: ``out`` contains something else.
    """
    if isinstance(data, Dataset):
        return data
    if is_prepared(Path(data)):
        return open_dataset(data)
    files = find_source_files(data, on_event=on_event)
    settings = PrepareSettings(source=str(data), out=out, force=force)
    if is_prepared(out):
        difference = _find_difference(files, settings)
        if difference is None:
            on_event(Note(f"using {out}, prepared before from {data}"))
            return open_dataset(out)
        if not force:
            raise OutputError(f"{out} exists and {difference}; use it with --data {out}, or replace it with --force")
    on_event(Note(f"preparing {data} into {out}"))
    check_output(out, kind="dataset", is_ours=is_prepared, written=DatasetFiles.written, force=force)
    prepare_files(files, settings, on_event)
    return open_dataset(out)


def load_for_evaluation(data: str | Path, split: Split = Split.TEST, *, on_event: OnEvent = ignore) -> Dataset:
    """Return data to evaluate on, with all usable rows; nothing is written.

    ``data`` is a prepared folder or a raw source. If a raw source has no splits, all its rows are in ``split``.

    Raises:
        DataError: something is wrong with the data.
    """
    if is_prepared(Path(data)):
        dataset = open_dataset(data, with_locations=True)
    else:
        with open_row_store(str(data)) as store:
            files = find_source_files(data, on_event=on_event)
            ingest(store, files, PrepareSettings(source=str(data)), on_event)
            for reason, (count, locations) in store.count_dropped().items():
                on_event(Note(describe_dropped(reason, count, locations), warning=True))
            dataset = Dataset.from_rows(_read_usable_rows(store, split), has_pairs=bool(store.has_pairs))
    return dataset


def _read_usable_rows(store: RowStore, default_split: Split) -> dict[str, dict[str, TextRows]]:
    """Return all usable rows by domain and split; if no row has a split, all are in the default split."""
    default = Split.TEST if default_split == Split.ALL else default_split  # for "all" any split will do
    rows: dict[str, dict[str, TextRows]] = {}
    for domain, name, texts, pairs, *others in store.fetch(_USABLE_ROWS, [str(default)]):
        rows.setdefault(domain, {})[name] = TextRows(texts, pairs if store.has_pairs else None, *others)
    return rows


def _find_difference(files: Sequence[SourceFile], settings: PrepareSettings) -> str | None:
    """Return how the dataset at the output differs from one prepared from the files; None if it does not."""
    manifest = read_manifest(settings.out)
    with open_row_store(settings.source) as store:
        if files[0].path is None:  # a source without files: compare its rows
            ingest(store, files, settings, ignore)
        checksums = compute_checksums(files, store)
    if manifest.get("sources") != checksums:
        return "was made from other data"
    existing = {**manifest.get("options", {}), "seed": manifest.get("seed")}
    required = {**content_options(settings), "seed": settings.seed}
    changed = [name for name, value in required.items() if existing.get(name) != value]
    return f"was prepared with other options ({', '.join(changed)})" if changed else None
