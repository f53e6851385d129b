"""Shards on disk: every row at its place whoever writes it, and nothing left of what could not be written."""

import json
import threading
import zlib

import numpy as np
import pytest

from hrkd_cli.distillation import cache_files
from hrkd_cli.distillation.cache_files import CacheFolder, Shard, ShardBuilder

SIZES = np.array([6, 2, 4])
ROWS = [np.arange(3, dtype=np.int16), np.array([7], dtype=np.int16), np.array([-1, 5], dtype=np.int16)]


def fill(writer):
    writer.put([2, 0], [[ROWS[2][:1], ROWS[2][1:]], [ROWS[0]]])  # in any order, in pieces
    writer.put([1], [[ROWS[1]]])
    return {"logits": np.ones((3, 2), dtype=np.float32)}


def make_folder(tmp_path):
    folder = CacheFolder(tmp_path / "cache", {"of": "nothing"})
    folder.prepare()
    return folder


def test_rows_stand_in_order_with_their_checksum(tmp_path):
    folder, shard = make_folder(tmp_path), Shard(0, "a", 0, 3)
    assert folder.missing([shard], {0: SIZES}) == [shard]
    with ShardBuilder(folder) as builder:
        builder.write(shard, SIZES, fill)
    states, small = folder.read(shard)
    assert states.tolist() == np.concatenate(ROWS).tolist()
    assert small["logits"].tolist() == [[1, 1]] * 3
    sums = np.array([zlib.crc32(row.tobytes()) for row in ROWS], dtype="<u4")
    assert json.loads((folder.path / "00000.json").read_text())["crc32"] == zlib.crc32(sums.tobytes())
    assert folder.missing([shard], {0: SIZES}) == []
    # The same bytes cut otherwise are other rows.
    assert folder.missing([shard], {0: np.array([2, 6, 4])}) == [shard]


def test_a_text_of_no_tokens_takes_no_bytes(tmp_path):
    folder, shard, sizes = make_folder(tmp_path), Shard(0, "a", 0, 2), np.array([0, 4])

    def fill(writer):
        writer.put([0, 1], [[np.zeros((0, 2), dtype=np.int16)], [np.ones((1, 2), dtype=np.int16)]])
        return {"logits": np.ones((2, 2), dtype=np.float32)}

    with ShardBuilder(folder) as builder:
        builder.write(shard, sizes, fill)
    assert folder.read(shard)[0].tolist() == [1, 1]
    assert folder.missing([shard], {0: sizes}) == []


def test_short_writes_and_files_with_one_position(tmp_path, monkeypatch):
    """A disk may take less than it is given; Windows has no pwrite."""
    import os

    write = os.write
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data[:1])))
    folder, shard = make_folder(tmp_path), Shard(0, "a", 0, 3)
    with ShardBuilder(folder) as builder:
        builder.write(shard, SIZES, fill)
    monkeypatch.undo()
    assert folder.read(shard)[0].tolist() == np.concatenate(ROWS).tolist()
    assert folder.missing([shard], {0: SIZES}) == []


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_a_shard_on_its_way_to_the_disk_is_raised(tmp_path, monkeypatch, which):
    """By the next shard, or at the end; shards before it stay, it leaves nothing."""
    import os

    calls, sync = [], os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) == which + 1:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = make_folder(tmp_path)

    def build():
        with ShardBuilder(folder) as builder:
            for number in range(2):
                builder.write(Shard(number, "a", 3 * number, 3), SIZES, fill)

    with pytest.raises(OSError, match="No space"):
        build()
    left = sorted(p.name for p in folder.path.iterdir())
    assert left == sorted(["cache.json"] + ["00000.bin", "00000.json", "00000.safetensors"] * which)


def test_a_row_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    folder = make_folder(tmp_path)
    done = threading.Event()

    def broken(self, row, pieces):
        done.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache_files.RowWriter, "_write", broken)
    with pytest.raises(OSError, match="Input/output"), ShardBuilder(folder) as builder:
        builder.write(Shard(0, "a", 0, 3), SIZES, fill)
    assert done.is_set()
    assert [p.name for p in folder.path.iterdir()] == ["cache.json"]


def test_an_interrupt_waits_for_the_writers(tmp_path, monkeypatch):
    """The file is closed once nobody writes into it any more."""
    import os

    folder, order = make_folder(tmp_path), []
    write, close, go = cache_files.RowWriter._write, os.close, threading.Event()

    def slow(self, row, pieces):
        go.wait(5)
        write(self, row, pieces)
        order.append("written")

    class Interrupted(list):
        """Rows that someone gets tired of."""

        def __iter__(self):
            yield self[0]
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    def interrupted(writer):
        writer.put(Interrupted([0, 1]), [[ROWS[0]], [ROWS[1]]])

    monkeypatch.setattr(cache_files.RowWriter, "_write", slow)
    monkeypatch.setattr(os, "close", lambda handle: (order.append("closed"), close(handle)))
    with pytest.raises(KeyboardInterrupt), ShardBuilder(folder) as builder:
        builder.write(Shard(0, "a", 0, 3), SIZES, interrupted)
    assert order == ["written", "closed"]
    assert [p.name for p in folder.path.iterdir()] == ["cache.json"]
