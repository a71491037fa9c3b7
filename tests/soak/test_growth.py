"""The comparison at the end of a soak, which itself runs in `make soak`."""

import pytest

from tests.soak.growth import ALLOWANCES, growths

FIGURES = {
    "API": {"descriptors": 40.0, "threads": 12.0, "memory MB": 150.0},
    "installation": {"temporary files": 0.0, "processes": 9.0},
}


def grown(process: str, name: str, by: float) -> dict[str, dict[str, float]]:
    """Return `FIGURES` with one larger figure."""
    return FIGURES | {process: FIGURES[process] | {name: FIGURES[process][name] + by}}


def test_equal_and_smaller_figures_are_flat() -> None:
    assert growths(FIGURES, FIGURES) == []
    assert growths(grown("API", "descriptors", 500), FIGURES) == []


@pytest.mark.parametrize(
    ("process", "name", "flat", "grows"),
    [
        ("API", "descriptors", 10, 11),
        ("API", "threads", 8, 9),
        ("API", "memory MB", 25, 26),
        ("installation", "temporary files", 0, 1),
        ("installation", "processes", 0, 1),
    ],
)
def test_growth_names_process_and_figure(process: str, name: str, flat: float, grows: float) -> None:
    assert growths(FIGURES, grown(process, name, flat)) == []
    before = FIGURES[process][name]
    assert growths(FIGURES, grown(process, name, grows)) == [
        f"{process}: {name} grew from {before:g} after the warm-up to {before + grows:g}; "
        f"up to {before + flat:g} counts as flat."
    ]


def test_process_must_run_at_both_times() -> None:
    rest = {"installation": FIGURES["installation"]}
    assert growths(FIGURES, rest) == ["API does not run at the end."]
    assert growths(rest, FIGURES) == ["API did not run after the warm-up."]


def test_unknown_figure_is_an_error() -> None:
    with pytest.raises(KeyError):
        growths({"API": {"sockets": 1.0}}, {"API": {"sockets": 1.0}})
    assert all(allowance.limit(0.0) >= 0 for allowance in ALLOWANCES.values())
