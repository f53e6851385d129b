"""Writing one split of one domain from the spool: a Parquet file, row group by row group, and its fingerprint lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hrkd_cli.data.dataset import fingerprint_lines
from hrkd_cli.data.spool import read_batches

# A row group ends at whichever comes first; the bytes are looked at batch by batch.
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 16 << 20


def write_split(
    domain: str,
    split: str,
    place: int,
    places: str,
    pieces: list[tuple[str, int, list[int]]],
    pair: bool,
    out: str,
    lines: str,
) -> int:
    """Write the rows of a split.

    Args:
        domain: name of the domain.
        split: name of the split.
        place: its number in ``places``.
        places: file with the place of every row of all pieces.
        pieces: of each piece that has rows of the domain: path of its files without suffix, number of its first row,
            its batches of the domain.
        pair: whether rows have two texts.
        out: the Parquet file to write.
        lines: the file to write the fingerprint's lines to.

    Returns:
        The number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["text", "text_pair"] if pair else ["text"]
    schema = pa.schema([(name, pa.string()) for name in (*texts, "label", "domain")])
    count = 0
    # Texts seldom repeat, so a dictionary of them would only be tried and given up.
    options = {"compression": "zstd", "use_dictionary": ["label", "domain"]}
    with Path(lines).open("wb") as digest, pq.ParquetWriter(out, schema, **options) as writer:
        for group in _groups(place, np.load(places, mmap_mode="r", allow_pickle=False), pieces):
            columns = [group.column(name).combine_chunks() for name in (*texts, "label")]
            same = pa.repeat(pa.scalar(domain, pa.string()), len(group))
            writer.write_table(pa.table([*columns, same], schema=schema), row_group_size=len(group))
            values = [column.to_pylist() for column in columns]
            digest.writelines(fingerprint_lines(domain, split, values[0], values[1] if pair else None, values[-1]))
            count += len(group)
    return count


def _groups(place: int, places: Any, pieces: list[tuple[str, int, list[int]]]) -> Iterator[Any]:
    """Yield tables of a row group each; where they end depends on rows and pieces, not on who reads them."""
    import pyarrow as pa

    held: list[Any] = []
    rows = size = 0
    for stem, first, batches in pieces:
        for batch in read_batches(stem, batches):
            here = places[first + batch.column("row").to_numpy()] == place
            part = batch.filter(pa.array(here))
            while len(part):
                taken = part.slice(0, _GROUP_ROWS - rows)
                part = part.slice(len(taken))
                held.append(taken)
                rows += len(taken)
                size += taken.nbytes
                if rows == _GROUP_ROWS or size >= _GROUP_BYTES:
                    yield pa.Table.from_batches(held)
                    held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)
