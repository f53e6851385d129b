"""A ``tokenizer.json`` with fewer tokens, numbered anew without gaps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from hrkd_cli.errors import ModelError
from hrkd_cli.onnx_export.vocab_rules import Rules, make_rules


@dataclass(frozen=True, slots=True)
class Description:
    """A tokenizer taken apart.

    Attributes:
        content: its ``tokenizer.json``.
        rules: of its model.
        special: the added tokens, which always stay, with their ids.
    """

    content: dict[str, Any]
    rules: Rules
    special: dict[str, int]


def describe(tokenizer: Tokenizer) -> Description:
    """Take a tokenizer apart.

    Raises:
        ModelError: a kind of tokenizer that cannot be trimmed.
    """
    content = json.loads(tokenizer.to_str())
    special = {str(entry["content"]): int(entry["id"]) for entry in content.get("added_tokens") or ()}
    return Description(content, make_rules(content["model"]), special)


def number(description: Description, kept: set[str], *, pinned: int | None) -> dict[str, int]:
    """Give the kept tokens new ids, in the order of the old ones.

    Tokens of the model come first and added tokens that it lacks after them, which is how ``tokenizers`` numbers them
    when it reads the file.

    Args:
        description: the tokenizer.
        kept: its tokens that stay.
        pinned: old id of a token that keeps it where there is room (padding, which some models count positions from).
    """
    ids = description.rules.tokens()
    model = sorted((token for token in kept if token in ids), key=lambda token: ids[token])
    fixed = next((token for token in model if ids[token] == pinned), None)
    if fixed is not None and pinned is not None and pinned < len(model):
        model.remove(fixed)
        model.insert(pinned, fixed)
    added = sorted((t for t in description.special if t not in ids), key=lambda token: description.special[token])
    return {token: index for index, token in enumerate((*model, *added))}


def rebuild(description: Description, numbers: Mapping[str, int]) -> Tokenizer:
    """Make the smaller tokenizer.

    Args:
        description: the old tokenizer.
        numbers: new ids of the tokens that stay.

    Raises:
        ModelError: the ``tokenizers`` library numbers the tokens otherwise.
    """
    content = dict(description.content)
    ids = description.rules.tokens()
    content["model"] = description.rules.rewritten({token: n for token, n in numbers.items() if token in ids})
    content["added_tokens"] = sorted(
        ({**entry, "id": numbers[entry["content"]]} for entry in content.get("added_tokens") or ()),
        key=lambda entry: int(entry["id"]),
    )
    content["post_processor"] = _renumbered(content.get("post_processor"), numbers)
    content["padding"] = content["truncation"] = None
    try:
        smaller = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    # tokenizers raises plain Exception for a file that it cannot parse.
    except Exception as error:
        raise ModelError(f"the trimmed tokenizer cannot be read back ({str(error).splitlines()[0][:200]})") from error
    wrong = [token for token, n in numbers.items() if smaller.token_to_id(token) != n]
    if wrong or smaller.get_vocab_size() != len(numbers):
        raise ModelError(
            f"the trimmed tokenizer numbers {len(wrong)} tokens otherwise than its vocabulary; not written"
        )
    return smaller


def _renumbered(processor: Any, numbers: Mapping[str, int]) -> Any:
    """Return a post-processor with the new ids of its special tokens."""
    if isinstance(processor, Sequence) and not isinstance(processor, str):
        return [_renumbered(item, numbers) for item in processor]
    if not isinstance(processor, dict):
        return processor
    found = dict(processor)
    if found.get("type") == "Sequence":
        found["processors"] = _renumbered(found["processors"], numbers)
    if found.get("type") == "TemplateProcessing":
        found["special_tokens"] = {
            name: {**entry, "ids": [numbers[token] for token in entry["tokens"]]}
            for name, entry in found["special_tokens"].items()
        }
    for name in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: a token and its id
        if isinstance(found.get(name), list):
            found[name] = [found[name][0], numbers[found[name][0]]]
    return found


def special_names(description: Description) -> set[str]:
    """Return the tokens that the tokenizer itself names: added ones, the unknown one, those it puts around a text."""
    names = set(description.special)
    model = description.content["model"]
    if isinstance(model.get("unk_token"), str):
        names.add(model["unk_token"])
    pending = [description.content.get("post_processor")]
    while pending:
        processor = pending.pop()
        if not isinstance(processor, dict):
            continue
        pending += processor.get("processors") or []
        specials = processor.get("special_tokens")
        entries = specials.values() if isinstance(specials, dict) else ()
        names |= {token for entry in entries for token in entry["tokens"]}
        names |= {processor[name][0] for name in ("sep", "cls") if isinstance(processor.get(name), list)}
    return names
