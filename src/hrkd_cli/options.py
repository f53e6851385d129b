"""Options: fields of settings classes from which the command line, TOML, environment and help pages are generated.

A field has a name, a type and a default; ``option`` adds the help text, the bounds and how the help page shows it. This
module imports nothing heavy because ``hrkd --help`` reads it.
"""

from __future__ import annotations

import math
import reprlib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Self

from hrkd_cli.errors import UsageError, did_you_mean

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}
_INT_LIMIT = 2**63  # larger numbers do not fit into the types that they are computed with
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from ``low`` to ``high``; the flags exclude an end itself."""

    low: float
    high: float = math.inf
    exclude_low: bool = False
    exclude_high: bool = False

    def __contains__(self, number: float) -> bool:
        is_above = number > self.low if self.exclude_low else number >= self.low
        is_below = number < self.high if self.exclude_high else number <= self.high
        return is_above and is_below and math.isfinite(number)

    def __str__(self) -> str:
        low = f"{'above' if self.exclude_low else 'at least'} {self.low}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.exclude_high else 'at most'} {self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Definition of an option.

    Attributes:
        kind: type of the value; ``list`` for a list of strings.
        optional: None is allowed.
        default: default value; MISSING for a required argument.
        panel: section of the help page; None for the last section, the shared options.
        metavar: placeholder for the value on the help page.
        bounds: allowed numbers.
        keyword: a string allowed in place of a number.
        default_text: what the help page shows instead of the default value; empty to show nothing.
        argument: a positional argument instead of an option.
        repeatable: a list option that is given once per item, so that items may contain commas.
        affects_result: the trained weights depend on it (beyond rounding).
    """

    help: str
    name: str = ""
    kind: type = str
    optional: bool = False
    default: Any = None
    panel: str | None = "Options"
    metavar: str | None = None
    bounds: Range | None = None
    keyword: str | None = None
    default_text: str | None = None
    short: str | None = None
    argument: bool = False
    repeatable: bool = False
    affects_result: bool = True

    @property
    def required(self) -> bool:
        """Whether the command line must have it."""
        return self.default is MISSING

    @property
    def shown_default(self) -> str:
        """The default on the help page; empty for none."""
        if self.default_text is not None:
            return self.default_text
        if self.default in (None, MISSING):
            return ""
        if self.kind is bool:
            return "yes" if self.default else ""
        return str(self.default)

    @property
    def flag(self) -> str:
        """The option's name in error messages."""
        return str(self.metavar) if self.argument else option_name(self.name)

    def parse(self, text: str) -> Any:
        """Convert a string from the command line or the environment; one that does not parse is returned unchanged."""
        if self.kind is bool:
            return _BOOLEANS.get(text.lower(), text)
        try:
            return self.kind(text) if self.kind in (int, float) else text
        except ValueError:
            return text

    def validate(self, value: Any, where: str = "") -> Any:
        """Return a value in the option's type.

        Raises:
            UsageError: the value is not allowed. The message starts with ``where``, by default the option's name.
        """
        try:
            return self._convert(value)
        except ValueError as error:
            raise UsageError(f"{where or self.flag}: {error}") from None

    def _convert(self, value: Any) -> Any:
        if (value is None and self.optional) or (self.keyword is not None and value == self.keyword):
            return value
        if issubclass(self.kind, StrEnum):
            if value not in list(self.kind):
                suggestion = did_you_mean(str(value), self.kind)
                raise ValueError(f"{value!r} is not one of {', '.join(self.kind)}{suggestion}")
            return self.kind(value)
        if self.kind in (int, float):
            return self._convert_number(value)
        if self.kind is list:
            return self._convert_list(value)
        if isinstance(value, list | tuple) and self.kind is str and all(isinstance(item, str) for item in value):
            return ",".join(value)  # domains = ["books", "dvd"] is the same as --domains books,dvd
        if not isinstance(value, bool if self.kind is bool else str | PathLike):
            raise ValueError(f"{reprlib.repr(value)} is not {_TYPE_NAMES.get(self.kind, 'text in quotes')}")
        kind: Any = self.kind
        return kind(value)

    def _convert_number(self, value: Any) -> int | float:
        alternative = f", or {self.keyword}" if self.keyword else ""
        if isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real):
            raise ValueError(f"{reprlib.repr(value)} is not {_TYPE_NAMES[self.kind]}{alternative}")
        if isinstance(value, Integral) and abs(int(value)) >= _INT_LIMIT:
            raise ValueError("the number is too large")
        number: int | float = self.kind(value)
        if not math.isfinite(number) or (self.bounds is not None and number not in self.bounds):
            raise ValueError(f"{value} is not {self.bounds or 'a finite number'}{alternative}")
        return number

    def _convert_list(self, value: Any) -> list[str]:
        """Return a list of strings from a list, a single item, or an option's value with commas."""
        has_items = self.argument or self.repeatable
        if isinstance(value, str | PathLike):
            value = [value] if has_items else str(value).split(",")
        if not isinstance(value, list | tuple):
            raise ValueError(f"{reprlib.repr(value)} is not a list of texts")
        items = [str(item).strip() for item in value]
        if not has_items and not (items and all(items)):
            raise ValueError(f"{','.join(items)!r} has an empty name; separate the names by commas")
        return items


def option(default: Any, help: str, **attributes: Any) -> Any:
    """Return a dataclass field that is an option; ``attributes`` are those of ``Option``."""
    return field(default=default, metadata={"option": Option(help=help, default=default, **attributes)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings classes. Creating one validates every value, then their combination with ``check``."""

    def __post_init__(self) -> None:
        for name, definition in options_of(type(self)).items():
            object.__setattr__(self, name, definition.validate(getattr(self, name)))  # the class is frozen
        self.check()

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Create settings from explicit options and the defaults of a recipe among them."""
        return cls(**cls.recipe_defaults(options), **options)

    @classmethod
    def recipe_defaults(cls, _options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults that a recipe sets for options that are not given."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return all options as plain values."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    def options_affecting_result(self) -> dict[str, Any]:
        """Return the options that the trained weights depend on, as plain values."""
        definitions = options_of(type(self))
        return {name: value for name, value in self.to_json().items() if definitions[name].affects_result}


def options_of(settings: type[Settings]) -> dict[str, Option]:
    """Return the options of a settings class by name."""
    hints, options = typing.get_type_hints(settings), {}
    for each in fields(settings):
        hint = hints[each.name]
        kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kind = typing.get_origin(kinds[0]) or kinds[0]
        options[each.name] = replace(each.metadata["option"], name=each.name, kind=kind, optional=NoneType in kinds)
    return options


def option_name(name: str, value: Any = None) -> str:
    """Return the command-line spelling of an option, for error messages; ``--no-NAME`` for the value False."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")
