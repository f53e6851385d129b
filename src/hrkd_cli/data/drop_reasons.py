"""Reasons why a row of a source is not in the dataset."""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    """Why a row is not used. The values are keys of ``dropped`` in results, except for the last two."""

    FIELD_COUNT = "wrong number of fields"
    NOT_TEXT = "not text"
    INVALID_UNICODE = "not valid Unicode"
    EMPTY_TEXT = "empty text"
    EMPTY_PAIR = "empty second text"
    NO_LABEL = "no label"
    NOT_ONE_LABEL = "not one label"
    REJECTED = "rejected annotation"
    NO_DOMAIN = "no domain"
    UNKNOWN_SPLIT = "unknown split"
    IN_TEST = "text also in test"
    IN_DEV = "text also in dev"
    DUPLICATE = "duplicate"
    CONFLICTING_DUPLICATE = "duplicate with another label"
    # Requested by the user, so not reported.
    OTHER_DOMAIN = "other domain"
    FEW_SHOT = "few-shot"
