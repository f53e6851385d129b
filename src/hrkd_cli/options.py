"""An option is defined once, as a field of a settings class; the command line, files, environment and docs follow it.

The field has name, type and default; ``option`` adds the help text, the bounds and how the help page shows it. Nothing
heavy is imported here: the command line reads this module to start.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Self

from hrkd_cli.errors import UsageError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from ``low`` to ``high``; ``above`` and ``below`` exclude the end itself."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        low = number > self.low if self.above else number >= self.low
        high = number < self.high if self.below else number <= self.high
        return low and high and math.isfinite(number)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low}"
        return low if self.high == math.inf else f"{low} and {'below' if self.below else 'at most'} {self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of an option.

    Attributes:
        kind: type of a value; ``list`` for several texts.
        default: value where none is given; MISSING where one has to be.
        panel: section of the help page; None for the last one, which all commands share.
        metavar: what stands for the value on the help page.
        within: numbers that are allowed.
        word: a word that is allowed beside numbers.
        shown: what the help page gives as the default instead of the value; empty for nothing.
        argument: whether it is given by its place on the command line.
        affects_result: whether the result of a run depends on it, beyond the last digits of a weight.
    """

    help: str
    name: str = ""
    kind: type = str
    optional: bool = False
    default: Any = None
    panel: str | None = "Options"
    metavar: str | None = None
    within: Range | None = None
    word: str | None = None
    shown: str | None = None
    short: str | None = None
    argument: bool = False
    affects_result: bool = True

    @property
    def required(self) -> bool:
        """Whether the command line must have it."""
        return self.default is MISSING

    @property
    def shown_default(self) -> str:
        """The default on the help page; empty for none."""
        if self.shown is not None or self.default in (None, MISSING):
            return self.shown or ""
        return str(self.default) if self.kind is not bool else "yes" if self.default else ""

    @property
    def flag(self) -> str:
        """The option as errors name it."""
        return str(self.metavar) if self.argument else option_name(self.name)

    def parse(self, text: str) -> Any:
        """Return what a word of the command line or of the environment stands for; ``validate`` checks it."""
        if self.kind is bool:
            return _WORDS.get(text.lower(), text)
        try:
            return self.kind(text) if self.kind in (int, float) else text
        except ValueError:
            return text

    def validate(self, value: Any, where: str = "") -> Any:
        """Return a value in the option's type.

        Raises:
            UsageError: what is wrong with it; the text begins with ``where``, the option's name unless told otherwise.
        """
        try:
            return self._value(value)
        except ValueError as error:
            raise UsageError(f"{where or self.flag}: {error}") from None

    def _value(self, value: Any) -> Any:
        if (value is None and self.optional) or (self.word is not None and value == self.word):
            return value
        if issubclass(self.kind, StrEnum):
            if value not in list(self.kind):
                near = did_you_mean(str(value), self.kind)
                raise ValueError(f"{value!r} is not one of {', '.join(self.kind)}{near}")
            return self.kind(value)
        if self.kind in (int, float):
            return self._number(value)
        if self.kind is list:
            return self._texts(value)
        if isinstance(value, list | tuple) and self.kind is str and all(isinstance(item, str) for item in value):
            return ",".join(value)  # domains = ["books", "dvd"] reads like --domains books,dvd
        if not isinstance(value, bool if self.kind is bool else str | PathLike):
            raise ValueError(f"{value!r} is not {_KINDS.get(self.kind, 'text in quotes')}")
        kind: Any = self.kind
        return kind(value)

    def _number(self, value: Any) -> int | float:
        other = f", or {self.word}" if self.word else ""
        if isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real):
            raise ValueError(f"{value!r} is not {_KINDS[self.kind]}{other}")
        number: int | float = self.kind(value)
        if not math.isfinite(number) or (self.within is not None and number not in self.within):
            raise ValueError(f"{value} is not {self.within or 'a finite number'}{other}")
        return number

    def _texts(self, value: Any) -> list[str]:
        """Return several texts: those of a list, a lone argument, or an option's word with commas between."""
        if isinstance(value, str | PathLike):
            value = [value] if self.argument else str(value).split(",")
        texts = [str(item).strip() for item in value]
        if not self.argument and not (texts and all(texts)):
            raise ValueError(f"{','.join(texts)!r} has an empty name; give names with commas between")
        return texts


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field that is an option; ``more`` are attributes of Option."""
    return field(default=default, metadata={"option": Option(help=help, default=default, **more)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that belong together; making one checks every value, and then ``check`` the values together."""

    def __post_init__(self) -> None:
        for known in options_of(type(self)).values():
            object.__setattr__(self, known.name, known.validate(getattr(self, known.name)))  # frozen for everybody else
        self.check()

    def check(self) -> None:
        """Refuse options that contradict each other with a UsageError."""

    @classmethod
    def from_options(cls, **given: Any) -> Self:
        """Make settings from the options that were given, and those that they bring along."""
        return cls(**cls.recipe_defaults(given), **given)

    @classmethod
    def recipe_defaults(cls, _given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options that were not given, but that one which was given sets: a recipe."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return all options as plain values."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    def options_affecting_result(self) -> dict[str, Any]:
        """Return the options that a run's result depends on, as plain values."""
        known = options_of(type(self))
        return {name: value for name, value in self.to_json().items() if known[name].affects_result}


def options_of(kind: type[Settings]) -> dict[str, Option]:
    """Return the options of a settings class by name."""
    hints, found = typing.get_type_hints(kind), {}
    for each in fields(kind):
        hint = hints[each.name]
        kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
        own = typing.get_origin(kinds[0]) or kinds[0]
        found[each.name] = replace(each.metadata["option"], name=each.name, kind=own, optional=NoneType in kinds)
    return found


def option_name(name: str) -> str:
    """Return the command-line spelling of an option, for error messages."""
    return "--" + name.replace("_", "-")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or nothing when no known word is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
