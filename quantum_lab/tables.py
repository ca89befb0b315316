"""Evidence as headings, sentences and tables, whatever they are written in: markdown here, HTML where pages are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantum_lab.findings import REJECTED

MODELS = {"sigma": "sigma", "ewma": "EWMA(.94)", "garch": "GARCH(1,1)", "har": "HAR"}
SPAN_WORDS = {"one step": "next candle", "horizon": "horizon"}
NONE = "–"


@dataclass(frozen=True)
class Table:
    """Cells of text; those of the first column are names."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """A heading, sentences shown as a list, and tables below them."""

    title: str
    level: int = 2
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()


def sections_of(document: Mapping[str, Any]) -> Iterator[Section]:
    """Lay a document out, the summary in plain words first."""
    content = document["content"]
    for name, sentences in content["summary"].items():
        yield Section(f"What it says of {name}", sentences=sentences)
    yield Section("What it cannot say", sentences=content["limitations"])
    for profile in content["profiles"]:
        results = [one for one in content["results"] if one["profile"] == profile["name"]]
        yield Section(f"Figures of {profile['name']}")
        yield Section("Coverage of sigma", 3, sentences=[COVERAGE_LEGEND], tables=[_coverage(results)])
        yield Section("Forecasts of variance", 3, sentences=[QLIKE_LEGEND], tables=[_forecasts(results)])
        yield Section("Regimes", 3, sentences=[REGIME_LEGEND], tables=[_regimes(results), _transitions(results)])
        yield Section("What regimes predict", 3, sentences=[PREDICTION_LEGEND], tables=[_predictions(results)])
        yield Section("Stops and harvest", 3, sentences=[STOPS_LEGEND], tables=[_stops(results), _nulls(results)])
        yield Section("Years", 3, sentences=[YEARS_LEGEND], tables=[_years(results)])
    yield Section("Data", tables=[_samples(content)])
    yield Section("Made with", tables=[_made_with(document)])


COVERAGE_LEGEND = (
    "Share of moves beyond the band, up or down; wanted is the band's. Sigmas: half its width in sigmas of the move, median. "
    "Kupiec: p-value of the stated share. Christoffersen: of independence, and of both at once. "
    f"Bold: rejected at p < {REJECTED:g}."
)
QLIKE_LEGEND = (
    "QLIKE: smaller is better, only differences mean something; p: two-sided, Diebold-Mariano against EWMA(.94). Slope and R² of "
    "Mincer-Zarnowitz; unbiased: p-value of intercept 0 and slope 1. All models on the same candles. GARCH and HAR are fitted on "
    "the first 30 % of the returns, and anew on all so far after each fifth."
)
REGIME_LEGEND = (
    "Share of candles, and mean length of a run in candles: of the file, on its first 10,000 returns with signs of a coin (same "
    "sizes, no direction), and if every candle drew its regime anew."
)
PREDICTION_LEGEND = (
    "Outcome: the variance ratio of the next window of the regime, significant at 5 % or not. Skill: above 0 is better than the "
    "base rate. rho: rank correlation of p_trend with the size of the move over the horizon, and with that size in sigmas. "
    "p: share of circular shifts that do as well."
)
STOPS_LEGEND = (
    "A long and a short position each horizon, closed after four horizons at the latest, 5 bps of fees and 2 bps of slippage for "
    "each fill. R: profit after costs in units of the first stop's distance. Too early: of the stopped, a new best within 60 "
    "candles. Below: the mean of what other exits made of the same positions, and what the profile made more or less than that."
)
YEARS_LEGEND = "Share beyond the band by calendar year; years with few candles have no row."


INTRO = (
    "What sigma, regimes, stops and harvest of a profile were worth on recorded candles, and what they were not. This page is "
    "made by `quantum evidence FILE... --out evidence.md`; equal files, profiles and libraries give equal pages."
)


def markdown(document: Mapping[str, Any]) -> str:
    """Write a document as a page of markdown."""
    lines = ["# Evidence", "", INTRO, ""]
    for section in sections_of(document):
        lines += [f"{'#' * section.level} {section.title}", ""]
        lines += [*(f"- {sentence}" for sentence in section.sentences), ""] if len(section.sentences) > 1 else []
        lines += [section.sentences[0], ""] if len(section.sentences) == 1 else []
        for table in section.tables:
            lines += [*_markdown_rows(table), ""] if table.rows else ["Too few candles.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(table: Table) -> Iterator[str]:
    yield _markdown_row(table.headings)
    yield _markdown_row(("---",) * len(table.headings))
    for row in table.rows:
        yield _markdown_row(row)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _coverage(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        for one in result["coverage"]:
            tests = (_p(one[name]["p"], REJECTED) for name in ("kupiec", "independence", "conditional"))
            counted = f"{one['exceedances']:,} of {one['windows']:,}"
            band = f"{one['nominal']:.0%}, {SPAN_WORDS[one['span']]}"
            rows.append((result["sample"], band, _number(one["sigmas"], ".2f"), _share(one["share"]), counted, *tests))
    return Table(("file", "band", "sigmas", "beyond it", "tested", "Kupiec", "independence", "both"), rows)


def _forecasts(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        for span, found in result["forecasts"].items():
            for name, words in MODELS.items():
                if name in found["models"]:
                    rows.append((result["sample"], SPAN_WORDS[span], words, *_model(found["models"][name])))
                elif name in found["missing"]:
                    rows.append((result["sample"], SPAN_WORDS[span], words, *(NONE,) * 6))
    return Table(("file", "of", "model", "QLIKE", "beside EWMA", "p", "slope", "R²", "unbiased"), rows)


def _model(one: Mapping[str, Any]) -> tuple[str, ...]:
    regression, against = one["mincer_zarnowitz"], one["against_ewma"]
    beside = (f"{against['mean_difference']:+.4f}", _p(against["p"])) if against else (NONE, NONE)
    slope = f"{regression['slope']:.2f} ± {regression['slope_error']:.2f}"
    return f"{one['qlike']:.4f}", *beside, slope, f"{regression['r_squared']:.3f}", _p(regression["p_unbiased"], REJECTED)


def _regimes(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        regime = result["regime"]
        own, null = regime["persistence"], regime["without_direction"]
        for number, name in enumerate(regime["names"]):
            dwells = (own["dwell"][number], null["dwell"][number], own["dwell_independent"][number])
            shares = (_share(own["shares"][number]), _share(null["shares"][number]))
            rows.append((result["sample"], name, *shares, *(_number(one, ".1f") for one in dwells)))
    return Table(("file", "regime", "share", "share, coin", "dwell", "dwell, coin", "dwell, drawn anew"), rows)


def _transitions(results: Sequence[Mapping[str, Any]]) -> Table:
    names = results[0]["regime"]["names"] if results else ()
    rows = [
        (result["sample"], name, *(_number(one, ".3f") for one in result["regime"]["persistence"]["transitions"][number]))
        for result in results
        for number, name in enumerate(names)
    ]
    return Table(("file", "from", *(f"to {name}" for name in names)), rows)


def _predictions(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        regime = result["regime"]
        brier, size, scaled = regime["brier"], regime["trend_and_size"], regime["trend_and_size_in_sigmas"]
        outcomes = " / ".join(_share(one) for one in brier["outcome_shares"])
        scores = (_number(brier["score"], ".3f"), _number(brier["base"], ".3f"), _number(brier["skill"], "+.2f"), _p(brier["p"]))
        pairs = [(_number(one["rho"], "+.3f"), _p(one["p"])) for one in (size, scaled)]
        rows.append((result["sample"], outcomes, *scores, *pairs[0], *pairs[1]))
    headings = ("file", "outcomes trend / mr / chop", "Brier", "base rate", "skill", "p")
    return Table((*headings, "rho, size", "p", "rho, in sigmas", "p"), rows)


def _stops(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        if (one := result["stops"]) is None or not one["trades"]:
            continue
        rows.append(
            (
                result["sample"],
                f"{one['trades']:,}",
                _interval(one["expectancy_R"]),
                _number(one["before_costs_R"], "+.3f"),
                _share(one["win_rate"]),
                _share(one["stop_out_rate"]),
                _share(one["stopped_then_new_extreme"]),
                "–" if one["median_risk_pct"] is None else f"{one['median_risk_pct']:.2%}",
                _share(one["at_stop_floor"]),
                _share(one["actions"].get("FULL_CLOSE_PROPOSED")),
            )
        )
    headings = (
        "file",
        "positions",
        "mean R, 95 %",
        "before costs",
        "won",
        "stopped",
        "too early",
        "stop, median",
        "at its floor",
    )
    return Table((*headings, "all to be closed"), rows)


def _nulls(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in results:
        for name, one in ((result["stops"] or {}).get("nulls") or {}).items():
            rows.append(
                (
                    result["sample"],
                    name.replace("_", " "),
                    _number(one["mean_R"], "+.3f"),
                    _interval(one["difference_R"]),
                    _p(one["p_holm"], 0.05),
                )
            )
    return Table(("file", "other exit", "its mean R", "profile minus it, 95 %", "p, Holm"), rows)


def _years(results: Sequence[Mapping[str, Any]]) -> Table:
    levels = sorted({one["nominal"] for result in results for one in result["coverage"]}, reverse=True)
    bands = [(span, level) for span in SPAN_WORDS for level in levels]
    rows = []
    for result in results:
        by_band = {(one["span"], one["nominal"]): one["by_year"] for one in result["coverage"]}
        for year in sorted({year for found in by_band.values() for year in found}):
            shares = [by_band[band].get(year, {}).get("share") for band in bands]
            rows.append((result["sample"], year, *(_share(one) for one in shares)))
    return Table(("file", "year", *(f"{level:.0%}, {SPAN_WORDS[span]}" for span, level in bands)), rows)


def _samples(content: Mapping[str, Any]) -> Table:
    rows = [
        (
            one["name"],
            one["symbol"],
            f"{one['interval_sec']:g} s",
            one["first"],
            one["last"],
            f"{one['candles']:,}",
            f"{one['missing']:,}",
            f"`{one['digest']}`",
        )
        for one in content["samples"]
    ]
    return Table(("file", "symbol", "candles of", "first", "last", "candles", "missing", "digest"), rows)


def _made_with(document: Mapping[str, Any]) -> Table:
    content = document["content"]
    rows = [
        ("horizon", f"{content['horizon_sec']:g} s"),
        *((f"profile {one['name']}", f"version {one['version']}, `{one['fingerprint']}`") for one in content["profiles"]),
        *content["versions"].items(),
        ("SHA-256 of the content", f"`{document['sha256']}`"),
    ]
    return Table(("what", "value"), rows)


def _interval(one: Mapping[str, Any]) -> str:
    return f"{_number(one['mean'], '+.3f')} ({_number(one['low'], '+.3f')} to {_number(one['high'], '+.3f')})"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _p(value: float | None, rejected: float = 0.0) -> str:
    """Write a p-value; one below a level at which something is rejected is marked."""
    if value is None:
        return NONE
    text = f"{value:.3f}" if value >= 0.001 else "<.001"
    return f"**{text}**" if value < rejected else text
