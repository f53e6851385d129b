"""Synthetic texts, mixed from the train texts if these are few.

With few rows, a student sees too few texts to learn its teacher's function. Mixed ones need not be good prose, because
the teacher answers for each of them. This is the idea of TinyBERT's data augmentation (section 4.2), here without a
language model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from hrkd_cli.choices import Graph, Split
from hrkd_cli.data.dataset import Dataset, TextRows, compute_fingerprint
from hrkd_cli.data.unlabeled import UnlabeledTexts, read_unlabeled
from hrkd_cli.distillation.prerequisites import warn_of_unused_options
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.plan import FEW_ROWS

MAX_PER_ROW = 10
"""Most synthetic texts for each train row, unless ``--augment`` says otherwise."""
ENOUGH_TEXTS = 4000
"""Texts, with the train rows, up to which synthetic ones are added to few rows unless ``--augment`` says otherwise."""

SPLICE = 0.5
"""Fraction of the texts that are the start of one text and the end of another of the same domain."""
DROP, REPLACE = 0.1, 0.15
"""Fractions of the words that are dropped, and replaced by a random word of any domain's texts."""

# A word with the space before it, or one character of a script without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\s*[^\s\u3040-\u30ff\u3400-\u9fff]+")
_Words = list[str]


def more_texts(dataset: Dataset, whole: Dataset, settings: DistillSettings, on_event: OnEvent) -> UnlabeledTexts | None:
    """Return the unlabeled texts of the settings, or else synthetic ones if there are few train rows.

    ``whole`` is the data before domains were selected.

    Raises:
        DataError: the unlabeled texts cannot be used, see ``read_unlabeled``.
    """
    if settings.unlabelled is not None:
        need_all = settings.extend is None
        return read_unlabeled(settings.unlabelled, dataset, whole=whole, need_all=need_all, on_event=on_event)
    rows, factor = dataset.count(Split.TRAIN), settings.augment
    if factor is None:
        is_useful = rows <= FEW_ROWS and settings.can_augment
        factor = min(MAX_PER_ROW, ENOUGH_TEXTS // rows - 1) if is_useful else 0
        if rows <= FEW_ROWS and settings.graph is Graph.LEARNED:
            on_event(Note("no texts are mixed from the train rows, some of which --graph learned holds back"))
    if factor == 0:
        warn_of_unused_options(settings, ["unlabelled_share"], "there are no unlabeled or mixed texts", on_event)
        return None
    texts = augment(dataset, factor, seed=settings.seed)
    made = sum(map(len, (part.texts for part in texts.rows.values())))
    on_event(Note(f"the teacher also answers for {made:,} texts mixed from the {rows:,} train rows (--augment)"))
    return texts


def augment(dataset: Dataset, factor: int, *, seed: int) -> UnlabeledTexts:
    """Return about ``factor`` synthetic texts, or pairs, for each train row; fewer if some come out alike."""
    generator = random.Random(seed)
    train = {domain: dataset.split(domain, Split.TRAIN) for domain in dataset.domains}
    texts = [text for rows in train.values() for text in (*rows.texts, *(rows.pairs or ()))]
    vocabulary = [word for text in texts for word in _split(text)]

    def mix(own: str, other: str) -> str:
        return "".join(_replace_words(_splice(_split(own), _split(other), generator), vocabulary, generator)).strip()

    made = {domain: _make(rows, factor, mix, generator) for domain, rows in train.items() if len(rows)}
    rows = {domain: own for domain, own in made.items() if len(own.texts)}
    fingerprint = compute_fingerprint({domain: {"": part} for domain, part in rows.items()})
    return UnlabeledTexts(rows, {}, fingerprint, synthetic=True)


def _make(rows: TextRows, factor: int, mix: Callable[[str, str], str], generator: random.Random) -> TextRows:
    """Return synthetic rows of one domain, without duplicates and train rows."""
    inputs = list(zip(rows.texts, rows.pairs or [""] * len(rows.texts), strict=True))
    found: dict[tuple[str, str], None] = {}
    for own in inputs * factor:
        other = generator.choice(inputs)
        row = mix(own[0], other[0]), mix(own[1], other[1])
        if all(row[: 1 if rows.pairs is None else 2]):
            found[row] = None
    known = set(inputs)
    made = [row for row in found if row not in known]
    pairs = None if rows.pairs is None else [pair for _, pair in made]
    return TextRows([text for text, _ in made], pairs, labels=[])


def _split(text: str) -> _Words:
    return _WORD.findall(f" {text}")


def _splice(own: _Words, other: _Words, generator: random.Random) -> _Words:
    """Return the start of one text and the end of another, half of the time; else the first text."""
    if generator.random() >= SPLICE or len(own) < 2 or len(other) < 2:
        return own
    return own[: generator.randrange(1, len(own))] + other[generator.randrange(1, len(other)) :]


def _replace_words(words: _Words, vocabulary: _Words, generator: random.Random) -> _Words:
    """Return words without some of them, and with others replaced."""
    kept = [word for word in words if generator.random() >= DROP] or words
    return [generator.choice(vocabulary) if generator.random() < REPLACE else word for word in kept]
