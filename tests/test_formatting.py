"""Human-readable numbers."""

from hrkd_cli import formatting


def test_durations_sizes_and_plurals_are_readable():
    assert [formatting.duration(s) for s in (0.04, 9, 45, 100, 754, 7500)] == [
        "0.0 s",
        "9.0 s",
        "45 s",
        "2 min",
        "13 min",
        "2 h 05 min",
    ]
    assert [formatting.byte_size(n) for n in (512, 14_486_363, 437_958_648, 2.5e12)] == [
        "512 B",
        "14.5 MB",
        "438 MB",
        "2.5 TB",
    ]
    assert formatting.plural(1, "row") == "1 row"
    assert formatting.plural(1200, "row") == "1,200 rows"
