"""Domain and split in the names of files and folders: ``books_test.csv`` holds the test rows of books."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hrkd_cli.data.sources.row_reader import SourceFile
from hrkd_cli.data.sources.values import SPLIT_ALIASES
from hrkd_cli.errors import DataError
from hrkd_cli.events import Note, OnEvent
from hrkd_cli.formatting import join_names

_SEPARATOR = r"[\s._-]"
_WORDS = "|".join(sorted(SPLIT_ALIASES, key=len, reverse=True)).replace("_", _SEPARATOR)
_SHARD = rf"(?:{_SEPARATOR}*(?:part|shard)?{_SEPARATOR}*\d+(?:-of-\d+)?$)"
_SHARD_SUFFIX = re.compile(r"-\d+-of-\d+$")
_SPLIT_WORD = re.compile(
    rf"(?:^|{_SEPARATOR}+)({_WORDS})(?:{_SEPARATOR}*(?:data|dataset|set|split))?{_SHARD}?(?=$|{_SEPARATOR})",
    re.IGNORECASE,
)
# Also within words and without separators; two domains that differ only in these are splits of one.
_ANY_SPLIT_WORD = re.compile(
    r"train(ing)?|trn|dev(elopment)?|val(id(ation)?)?|test(ing)?|tst|eval(uation)?|h(e|o)ld.?out"
)
_COPY = re.compile(
    rf"^copy of |\s*\(\d+\)$|{_SEPARATOR}+(copy|kopie|copie|copia|old|bak|backup|orig|original)(\W*\d+\W?)?$",
    re.IGNORECASE,
)


def parse_names(stem: str, folder: str) -> tuple[str | None, str | None]:
    """Return domain and split by the names of a file (without suffix) and its folder ("" if it is the source itself).

    Raises:
        DataError: a name has the words of two splits.
    """
    domain, split = _parse_name(_SHARD_SUFFIX.sub("", stem))
    if not folder:
        return domain, split
    folder_domain, folder_split = _parse_name(folder)
    if split not in (None, folder_split):
        folder_domain, folder_split = folder_domain and folder, None  # game-dev/train.csv
    return folder_domain or domain, split or folder_split


def _parse_name(name: str) -> tuple[str | None, str | None]:
    splits = {SPLIT_ALIASES[re.sub(_SEPARATOR, "_", match[1].lower())] for match in _SPLIT_WORD.finditer(name)}
    if not splits:
        return name or None, None
    if len(splits) > 1:
        raise DataError(f"{name}: a name of two splits ({', '.join(sorted(splits))}); rename it, as in books.test.csv")
    rest = re.sub(rf"^{_SEPARATOR}+|{_SEPARATOR}+$", "", _SPLIT_WORD.sub("", name))
    return rest if any(map(str.isalpha, rest)) else None, splits.pop()


def check_names(files: Sequence[SourceFile], source: str, on_event: OnEvent) -> None:
    """Check the domains that names give: splits and copies of a file are not domains of their own.

    Raises:
        DataError: two domains differ only by the name of a split, or one is the name of a split.
    """
    paths: dict[str, str] = {}
    splits: dict[str, set[str | None]] = {}
    for file in files:
        if file.domain is not None:
            paths.setdefault(file.domain, file.relative_path)
            splits.setdefault(file.domain, set()).add(file.split)
    by_key: dict[str, str] = {}
    for domain, path in sorted(paths.items(), key=lambda item: bool(_ANY_SPLIT_WORD.search(item[0].casefold()))):
        key = re.sub(_SEPARATOR, "", _ANY_SPLIT_WORD.sub("", domain.casefold()))
        if not key and any(file.split is not None for file in files):
            raise DataError(f"{source}: {path} is named like a split, but not train, dev or test; rename it")
        other = by_key.setdefault(key, domain)
        if other != domain and _ANY_SPLIT_WORD.search(domain.casefold()):
            raise DataError(
                f"{source}: {paths[other]} and {path} look like splits of one domain; name them as in books.train.csv "
                "and books.test.csv"
            )
    if None in set().union(*splits.values()):
        lone = [path for domain, path in paths.items() if splits[domain] in ({"train"}, {"dev"}, {"test"})]
        _warn(on_event, f"{source}: split words in these names give their only split (rename to avoid it)", lone)
    copies = [path for domain, path in paths.items() if _COPY.sub("", domain) in paths.keys() - {domain}]
    _warn(on_event, f"{source}: read as other domains, but named like copies of a file", copies)


def _warn(on_event: OnEvent, text: str, names: Sequence[str]) -> None:
    if names:
        on_event(Note(f"{text}: {join_names(names)}", warning=True))
