"""The built-in sample: product review sentences of four categories (CC BY 4.0, see LICENSE.md)."""

from __future__ import annotations

from pathlib import Path

NAME = "sample"  # name of the sample as a source: ``--data sample``

FOLDER = Path(__file__).parent
