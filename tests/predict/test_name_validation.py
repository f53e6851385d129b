import re

import pytest

from hrkd_cli.errors import DataError, ModelError
from hrkd_cli.predict.name_validation import validate_names


@pytest.mark.parametrize(
    ("domain", "label", "message"),
    [
        ("", "x", "domain name '' is empty; rename it"),
        ("../a", "x", "domain name '../a' contains a slash; rename it"),
        ("..", "x", "domain name '..' starts with a dot; rename it"),
        ("\ud800", "x", r"domain name '\\ud800' contains a control character; rename it"),
        ("a\0b", "x", r"domain name 'a\\x00b' contains a control character; rename it"),
        ("é" * 128, "x", "domain name 'é*' is longer than 255 bytes; rename it"),
        ("BOOKS", "x", "domain names 'BOOKS' and 'books' differ only in case; rename one"),
        ("b\u200boOks", "x", r"domain names 'books' and 'b\\u200boOks' .U.200B. look equal; rename one"),
        ("\u200b\u3164", "x", r"domain name '.*' has no visible character .U.200B U.3164.; rename it"),
        ("dvd", "\u2060", r"label '\\u2060' has no visible character .U.2060.; rename it"),
        ("dvd", "l\u0007m", r"label 'l\\x07m' contains a control character; rename it"),
    ],
)
@pytest.mark.parametrize("error", [DataError, ModelError])
def test_a_name_that_cannot_be_a_folder_or_printed_is_an_error(domain, label, message, error):
    validate_names(["books", "a b", "lang=en"], ["<b>", "1"], "here")
    with pytest.raises(error, match=f"^here: {message}$"):
        validate_names(["books", domain], ["x", label], "here", error)


def test_all_domains_with_the_same_problem_are_named():
    message = "here: domain name 'Home/Garden' contains a slash (also 'TV/Audio', 'a/b'); rename them"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        validate_names(["TV/Audio", "books", "a/b", "a\0b", "Home/Garden"], [], "here")
