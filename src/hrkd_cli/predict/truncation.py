"""Which tokens of a text that is too long are read: the first, the last, or both ends.

Special tokens always stay. Of a pair, the longer text is cut first, whatever is cut from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

HEAD = "head"
TAIL = "tail"
HEAD_TAIL = "head-tail"
TRUNCATE = (HEAD, TAIL, HEAD_TAIL)


class Cutter:
    """A tokenizer that cuts to a length, in batches.

    Args:
        tokenizer: the caller's to give away: its padding and truncation settings are replaced.
        max_length: tokens of an example at most, special ones included.
        truncate: ``head`` keeps the first tokens of a text, ``tail`` the last, ``head-tail`` the first half and the
            last half of the places that it has, the odd one in the first.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, truncate: str = HEAD) -> None:
        self.max_length = max_length
        self.truncate = truncate
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        # The library cuts at one end only, so both ends are cut here, from the whole text.
        if truncate == HEAD_TAIL:
            tokenizer.no_truncation()
        else:
            direction = "left" if truncate == TAIL else "right"
            tokenizer.enable_truncation(max_length, strategy="longest_first", direction=direction)

    def encode(self, examples: Sequence[Any]) -> Iterator[tuple[list[int], list[int]]]:
        """Yield token ids and segment ids of texts, or of (text, text) pairs, in order."""
        for encoding in self._tokenizer.encode_batch(list(examples)):
            ids, types = encoding.ids, encoding.type_ids
            # Left as it is where the library has cut it.
            if len(ids) > self.max_length:
                kept = kept_positions(encoding.sequence_ids, self.max_length)
                ids, types = [ids[n] for n in kept], [types[n] for n in kept]
            yield ids, types


def kept_positions(sequences: Sequence[int | None], max_length: int) -> list[int]:
    """Return the positions of an example that ``head-tail`` keeps, in order.

    Args:
        sequences: of every token, which text it is of (0 or 1); None for a special token.
        max_length: how many may stay.
    """
    lengths = sequences.count(0), sequences.count(1)
    places = shared_places(*lengths, max(0, max_length - sequences.count(None)))
    seen = [0, 0]
    kept = []
    for position, sequence in enumerate(sequences):
        if sequence is not None:
            number, own = seen[sequence], places[sequence]
            seen[sequence] += 1
            if (own + 1) // 2 <= number < lengths[sequence] - own // 2:
                continue
        kept.append(position)
    return kept


def shared_places(first: int, second: int, places: int) -> tuple[int, int]:
    """Return how many tokens each text of a pair keeps, as the ``tokenizers`` library's ``longest_first`` has it.

    The shorter one stays whole where the longer one can be cut to what is left; else both get half, the longer one (the
    second of equal ones) the odd token.

    Args:
        first: tokens of the first text.
        second: tokens of the second text; 0 where there is none.
        places: tokens that may stay.
    """
    if first + second <= places:
        return first, second
    if first > second:
        return shared_places(second, first, places)[::-1]
    if first + max(first, places - first) > places:
        return places // 2, places - places // 2
    return first, places - first
