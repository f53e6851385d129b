"""The parts of the page that show a run over its steps. A part whose numbers were not recorded is empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hrkd_cli.reporting import html
from hrkd_cli.reporting.axis import Axis, fit, spans_decades
from hrkd_cli.reporting.chart import NEUTRAL, Chart, Line
from hrkd_cli.reporting.facts import best_scores
from hrkd_cli.reporting.metrics import TOTAL, DevScore, Place
from hrkd_cli.reporting.run import Run
from hrkd_cli.reporting.series import (
    SMOOTHED_SHARE,
    Points,
    Series,
    bin_means,
    places,
    smooth,
    thin,
    usual_range,
    window,
)

MOST_POINTS = 600
"""Points of a line."""
PAGE_POINTS = 40_000
"""Points of all lines of a page together, which keeps it below a megabyte."""
LEAST_POINTS = 24
TABLE_ROWS = 12
DEV_SCORES = 100
"""Dev scores that are drawn, where there are more of them."""

RATIOS_SHARE = 0.06
"""Of the steps, that a smoothed ratio is the mean of: a frozen graph's flicker from step to step."""

SMALL = 220
RATES = {
    "learning_rate": ("Learning rate", "learning rate"),
    "gradient_norm": ("Gradient norm, before clipping", "norm"),
    "examples_per_second": ("Speed, over 20 steps", "examples/s"),
}


class Curves:
    """Draws the curves of one run.

    Args:
        run: see Run.
        ident: prefix of the ids of its charts, used once a page.
        lines: lines that the page will hold, of all its runs.
    """

    def __init__(self, run: Run, ident: str, lines: int) -> None:
        self.run = run
        self.ident = ident
        self.points = max(LEAST_POINTS, min(MOST_POINTS, PAGE_POINTS // max(1, lines)))
        self.count = 0
        self.domains = run.metrics.domains
        self.x = _steps_axis(run)

    def losses(self) -> str:
        """Total loss and its parts, each on a scale of its own."""
        found = self.run.metrics.losses
        kinds = sorted(found, key=lambda kind: kind != TOTAL)  # the total first, the rest as recorded
        figures = [self._single(found[kind], f"Loss: {kind}", "loss", n) for n, kind in enumerate(kinds)]
        parts = " Weighted as in the total; each on a scale of its own." if figures[1:] else ""
        note = self._smoothing() + parts
        return html.section("Losses", html.grid(figures), note=note) if figures else ""

    def rates(self) -> str:
        """Learning rate, gradient norm, speed."""
        found = self.run.metrics.rates
        there = [kind for kind in RATES if len(found.get(kind, ()))]
        figures = [
            self._single(found[kind], *RATES[kind], NEUTRAL, smoothed=kind == "gradient_norm", height=SMALL)
            for kind in there
        ]
        return html.section("Optimisation", html.grid(figures, small=True)) if figures else ""

    def dev(self) -> str:
        """Dev scores by domain and on average."""
        if not self.run.metrics.dev:
            return ""
        wanted = ["accuracy"] + (["macro_f1"] if self.run.metric == "macro_f1" else [])
        names = [("average", NEUTRAL), *_numbered(self.domains)]
        figures = [self._dev(key) for key in wanted] + [best_scores(self.run)]
        count = len(self.run.metrics.dev)
        shown = f", {len(shown_scores(self.run))} of them shown" if count > DEV_SCORES else ""
        plural = "s" if count > 1 else ""
        note = f"{count:,} dev score{plural}{shown}; the vertical line marks the step whose weights are kept."
        return html.section("Dev scores", html.legend(names) + html.grid(figures), note=note)

    def ratios(self) -> str:
        """Domain ratios, a chart a student layer."""
        found = self.run.metrics.ratios
        if not found:
            return ""
        count = 1 + max(domain for _, domain in found)
        named = self.domains if len(self.domains) == count else tuple(f"domain {n + 1}" for n in range(count))
        level = (1 / count, f"1/{count}")
        figures = self._multiples(found, named, lambda _layer: level)
        note = f"How much each domain counts in a student layer's loss. {self._smoothing(RATIOS_SHARE)}"
        key = html.legend(_numbered(named), mark=f"1/{count}, all domains alike")
        return html.section("Domain ratios by layer", key + html.grid(figures, small=True), note=note)

    def layer_ratios(self) -> str:
        """Layer ratios, a chart a student layer."""
        found = self.run.metrics.layer_ratios
        if not found:
            return ""
        named = tuple(map(layer_name, range(1 + max(mixed for _, mixed in found))))
        figures = self._multiples(found, named, lambda layer: (1 / (layer + 1), f"1/{layer + 1}"), own_scale=True)
        note = f"What each layer's prototypes are mixed from, mean over domains. {self._smoothing(RATIOS_SHARE)}"
        key = html.legend(_numbered(named), mark="all layers alike")
        return html.section("Layer ratios", key + html.grid(figures, small=True), note=note)

    def _dev(self, key: str) -> str:
        scores = shown_scores(self.run)
        label = "accuracy, %" if key == "accuracy" else "macro-F1, %"

        def points(name: str | None) -> Points:
            rows = ((s.step, s.average if name is None else s.domains.get(name, {})) for s in scores)
            return [(float(step), 100.0 * row[key]) for step, row in rows if key in row]

        lines = [Line(name, points(name), n, dots=True) for n, name in enumerate(self.domains)]
        lines.append(Line("average", points(None), NEUTRAL, dots=True, strong=True))
        best = self.run.best
        chart = Chart(
            f"Dev {label.partition(',')[0]} by domain",
            "step",
            label,
            lines,
            height=280,
            x_axis=self.x,
            moment=(float(best.step), f"best: step {best.step:,}") if best else None,
        )
        values = html.values_table("step", [line.name for line in lines], [line.points for line in lines])
        return html.figure(chart, self._next(), values)

    def _multiples(
        self,
        found: dict[Place, Series],
        names: Sequence[str],
        level: Callable[[int], tuple[float, str]],
        *,
        own_scale: bool = False,
    ) -> list[str]:
        """Draw a chart a layer, on one scale unless each has its own."""
        layers = sorted({layer for layer, _ in found})
        drawn = {place: self._line(series, names[place[1]], place[1], RATIOS_SHARE) for place, series in found.items()}
        figures = []
        for layer in layers:
            lines = [line for (own, _), line in drawn.items() if own == layer]
            tables = [bin_means(series, TABLE_ROWS) for (own, _), series in found.items() if own == layer]
            title = "Embedding" if layer == 0 else f"Layer {layer}"
            shown = lines if own_scale else drawn.values()
            scale = fit([level(layer)[0], *(y for line in shown for y in _range(line))])
            chart = Chart(title, "step", "ratio", lines, SMALL, self.x, scale, level=level(layer))
            values = html.values_table("to step (mean)", [line.name for line in lines], tables)
            figures.append(html.figure(chart, self._next(), values))
        return figures

    def _single(
        self, series: Series, title: str, label: str, colour: int, *, smoothed: bool = True, height: int = 240
    ) -> str:
        line = self._line(series, title, colour) if smoothed else Line(title, thin(series, self.points), colour)
        log = spans_decades(y for _, y in line.points)
        scale = fit(_range(line), log=log)
        label = f"{label}, log scale" if log else label
        chart = Chart(title, "step", label, [line], height, self.x, scale)
        values = html.values_table("to step (mean)", [label], [bin_means(series, TABLE_ROWS)])
        return html.figure(chart, self._next(), values)

    def _line(self, series: Series, name: str, colour: int, share: float = SMOOTHED_SHARE) -> Line:
        width = window(len(series), share)
        if width == 1:
            return Line(name, thin(series, self.points), colour)
        # The faint line needs two points a bin, the smooth one is as even with a third as many.
        smoothed = smooth(series, max(12, self.points // 3), width)
        return Line(name, smoothed, colour, faint=thin(series, self.points))

    def _smoothing(self, share: float = SMOOTHED_SHARE) -> str:
        width = window(self.run.metrics.steps, share)
        return f"Line: mean over {width} steps; faint: each step." if width > 1 else "Each step is shown."

    def _next(self) -> str:
        self.count += 1
        return f"{self.ident}-{self.count}"


def count_lines(run: Run) -> int:
    """Return how many lines a run's curves have."""
    found = run.metrics
    numbers = len(found.losses) + len(found.rates) + len(found.ratios) + len(found.layer_ratios)
    return numbers + len(found.domains)


def _range(line: Line) -> list[float]:
    """Return what the y axis must hold: all of the line, and its values before smoothing but for the farthest."""
    return [*(y for _, y in line.points), *usual_range(line.faint)]


def shown_scores(run: Run) -> list[DevScore]:
    """Return a run's dev scores, or some of them where there are very many: the first, the last and the best too."""
    scores = run.metrics.dev
    chosen, best = set(places(len(scores), DEV_SCORES)), run.best
    return [score for index, score in enumerate(scores) if index in chosen or score is best]


def layer_name(layer: int) -> str:
    """Name a student layer."""
    return "embedding" if layer == 0 else f"layer {layer}"


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, index) for index, name in enumerate(names)]


def _steps_axis(run: Run) -> Axis:
    """Return one range of steps for all of a run's charts."""
    return Axis(0.0, float(max(1, run.metrics.last_step)))
