"""Evidence in words: sentences chosen by the figures, also where they say that a number is worth nothing.

Every sentence is a function of the document; none is written for one file or profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from quantum_lab.nulls import NULLS

REJECTED = 0.01  # p-value of Kupiec's, Christoffersen's and Wald's tests below which a hypothesis is rejected
DIFFERENT = 0.05  # p-value below which two losses differ, or a shifted series does not do as well
RARE = 0.05  # share of candles below which a regime hardly is
DWELL_BEYOND = 1.2  # times the dwell on returns without direction; less is nothing to speak of
CLUSTERS_FROM = 5  # exceedances without which nothing is said about clusters
EXPECTED_MIN = 5  # exceedances to be expected, below which Kupiec's test is no verdict
MAJORITY = 0.5  # share of files from which a finding is in the verdict
CHANCE = "no better than chance"

LIMITS = (
    "Each file is one stretch of one market; a calm month says nothing about a crash. What holds in all of them is "
    "worth more than what holds in one.",
    "Many tests are made here: of a hundred true hypotheses one is rejected at p < .01 all the same.",
    "The variance of one step is judged by a squared return, which is unbiased and very noisy: R² near 0 is expected there.",
    "Windows of the horizon overlap: shares count all of them, tests of coverage every one that does not overlap with the one "
    "before, comparisons of losses allow for the overlap.",
    "The base rate beside a Brier score is that of the very outcomes it is scored on: no forecast knows their frequency.",
    "An outcome is chop where the variance ratio of the next window is not significant at 5 %: a trend may be there unseen.",
)


def summary_of(content: Mapping[str, Any], profile: str) -> list[str]:
    """Say in plain words what the figures of one profile mean."""
    results = [one for one in content["results"] if one["profile"] == profile]
    judged = [one for one in results if one["states"]]
    if not judged:
        return ["Nothing can be said: no file has enough candles for a market state."]
    return [
        *_interval(content, profile),
        *_verdict(judged),
        *_sigma(judged),
        *_coverage(judged),
        *_regime(judged),
        *_stops([one["stops"] for one in judged if one["stops"] and one["stops"]["trades"]]),
    ]


def limitations_of(content: Mapping[str, Any]) -> list[str]:
    """Say what the document cannot say."""
    own = []
    samples = content["samples"]
    symbols = {one["symbol"] for one in samples}
    first, last = min(one["first"] for one in samples), max(one["last"] for one in samples)
    own.append(
        f"{_files(len(samples))} of {', '.join(sorted(symbols))} from {first[:10]} to {last[:10]}, "
        f"{sum(one['candles'] for one in samples):,} candles."
    )
    if short := [one["sample"] for one in content["results"] if not one["forecasts"]["horizon"]["windows"]]:
        own.append(f"Too few candles for a forecast to be judged over the horizon: {', '.join(dict.fromkeys(short))}.")
    missing = {why for one in content["results"] for span in one["forecasts"].values() for why in span["missing"].values()}
    own += [f"Not compared: {why}." for why in sorted(missing)]
    if not any(one["stops"] for one in content["results"]):
        own.append("Stops and harvest are not part of this document.")
    return [*own, *LIMITS]


def _interval(content: Mapping[str, Any], profile: str) -> Iterable[str]:
    meant = next(one["candle_interval_sec"] for one in content["profiles"] if one["name"] == profile)
    others = [one["name"] for one in content["samples"] if meant is not None and one["interval_sec"] != meant]
    if meant is None:
        yield "The profile does not say which candles it is meant for."
    if others:
        yield f"It is meant for candles of {meant} s, and judged on others here: {', '.join(others)}."


def _verdict(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Say in three sentences what most files show."""
    differences = [
        one["forecasts"][span]["models"]["sigma"]["against_ewma"]
        for one in results
        for span in one["forecasts"]
        if one["forecasts"][span]["windows"]
    ]
    if differences:
        worse = _most(one["mean_difference"] > 0 and one["p"] < DIFFERENT for one in differences)
        better = _most(one["mean_difference"] < 0 and one["p"] < DIFFERENT for one in differences)
        how = "a worse forecast than" if worse else "a better forecast than" if better else "about as good a forecast as"
        yield f"In short: sigma is {how} a plain EWMA(.94)."
    bands = [one for result in results for one in result["coverage"] if _enough(one)]
    if bands:
        often, seldom = _rejected(bands)
        yield (
            "Its tails are too thin: moves leave the band more often than it says, and so do prices reach a stop set by it."
            if often > MAJORITY * len(bands)
            else "Its tails are too wide: moves leave the band more seldom than it says."
            if seldom > MAJORITY * len(bands)
            else "Its tails hold: moves leave the band about as often as it says."
        )
        if not any(one["span"] == "horizon" for one in bands):
            yield "That is of the next candle: over the horizon too few windows were tested to know."
    tests = [one["regime"][key] for one in results for key in ("brier", "trend_and_size_in_sigmas")]
    tests = [one for one in tests if one["p"] is not None]
    if tests:
        predicts = _most(map(_follows, tests))
        yield (
            "The regime has something to do with what follows; how much, the scores below say."
            if predicts
            else f"The regime does not predict what follows: {CHANCE}."
        )


def _most(found: Iterable[bool]) -> bool:
    counted = list(found)
    return sum(counted) > MAJORITY * len(counted)


def _enough(band: Mapping[str, Any]) -> bool:
    """Say whether a band was tested often enough for a verdict."""
    return bool(band["nominal"] * band["windows"] >= EXPECTED_MIN)


def _sigma(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for span, words in (("one step", "next candle"), ("horizon", "horizon")):
        models = [one["forecasts"][span]["models"] for one in results if one["forecasts"][span]["windows"]]
        if not models:
            continue
        differences = [one["sigma"]["against_ewma"] for one in models]
        worse = sum(one["mean_difference"] > 0 and one["p"] < DIFFERENT for one in differences)
        better = sum(one["mean_difference"] < 0 and one["p"] < DIFFERENT for one in differences)
        span_text = _range([one["mean_difference"] for one in differences], "+.3f")
        yield (
            f"sigma beside EWMA(.94), {words}: QLIKE differs by {span_text} (above 0 is worse); significantly worse in {worse} "
            f"of {_files(len(models))}, better in {better}."
        )
        for rival, name in (("garch", "GARCH(1,1)"), ("har", "HAR")):
            lower = [one[rival]["qlike"] < one["sigma"]["qlike"] for one in models if rival in one]
            if lower:
                yield f"{name} has the lower QLIKE in {sum(lower)} of {_files(len(lower))}, {words}."
        regressions = [one["sigma"]["mincer_zarnowitz"] for one in models]
        biased = sum(one["p_unbiased"] < REJECTED for one in regressions)
        yield (
            f"Variance forecast by sigma, {words}: slope {_range([one['slope'] for one in regressions], '.2f')} (1 is unbiased); "
            f"biased in {biased} of {_files(len(models))} (Mincer-Zarnowitz, p < .01)."
        )


def _coverage(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    bands = {(one["span"], one["nominal"]) for result in results for one in result["coverage"]}
    for span, nominal in sorted(bands, key=lambda one: (one[0] != "one step", -one[1])):
        found = [one for result in results for one in result["coverage"] if (one["span"], one["nominal"]) == (span, nominal)]
        found = [one for one in found if one["share"] is not None]
        if not found:
            continue
        words = "the next return" if span == "one step" else "the move over the horizon"
        clustered, judged = _clusters(found)
        yield (
            f"Beyond the {nominal:.0%} band was {words} in {_range([one['share'] for one in found], '.1%')} of cases: "
            f"{_coverage_verdict(list(filter(_enough, found)))}; "
            + (f"in clusters in {clustered} of {_files(judged)}." if judged else "too few for a word about clusters.")
        )


def _rejected(found: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    rejected = [one for one in found if one["kupiec"]["p"] is not None and one["kupiec"]["p"] < REJECTED]
    often = sum(one["exceedances"] > one["nominal"] * one["windows"] for one in rejected)
    return often, len(rejected) - often


def _clusters(found: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    enough = [one for one in found if one["exceedances"] >= CLUSTERS_FROM and one["independence"]["p"] is not None]
    return sum(one["independence"]["p"] < REJECTED for one in enough), len(enough)


def _coverage_verdict(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return "too few windows for a verdict"
    often, seldom = _rejected(found)
    if not often and not seldom:
        return f"as often as stated in {len(found)} of {_files(len(found))} (Kupiec, p < .01)"
    counts = {"too often": often, "too seldom": seldom}
    said = [f"{how} in {count} of {_files(len(found))}" for how, count in counts.items() if count]
    return f"{', '.join(said)} (Kupiec, p < .01)"


def _regime(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    regimes = [one["regime"] for one in results]
    for number, name in enumerate(regimes[0]["names"]):
        shares = [one["persistence"]["shares"][number] for one in regimes]
        if rare := sum(share < RARE for share in shares):
            yield f"Regime {name} is below {RARE:.0%} of candles in {rare} of {_files(len(shares))}: {_range(shares, '.1%')}."
    yield from _dwell(regimes)
    yield from _brier(regimes)
    yield from _size(regimes, "trend_and_size", "the size of the move over the horizon")
    yield from _size(regimes, "trend_and_size_in_sigmas", "that size in sigmas")


def _stops(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not found:
        return
    means = [one["expectancy_R"]["mean"] for one in found]
    yield f"Positions of the standard grid make {_range(means, '+.2f')} R on average, after costs."
    for name in NULLS:
        compared = [one["nulls"][name] for one in found if name in (one["nulls"] or {})]
        judged = [one for one in compared if one["p_holm"] is not None]
        if not judged:
            continue
        better = sum(one["p_holm"] < DIFFERENT and one["difference_R"]["mean"] > 0 for one in judged)
        worse = sum(one["p_holm"] < DIFFERENT and one["difference_R"]["mean"] < 0 for one in judged)
        differs = f"better in {better}, worse in {worse} of {_files(len(judged))} (p < .05)"
        verdict = differs if better or worse else f"{CHANCE} in {len(judged)} of {_files(len(judged))}"
        yield f"Stops and harvest beside {NULLS[name]}: {verdict}."


def _dwell(regimes: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for number, name in enumerate(regimes[0]["names"]):
        pairs = [
            (one["persistence"]["dwell"][number], one["without_direction"]["dwell"][number])
            for one in regimes
            if one["persistence"]["dwell"][number] is not None and one["without_direction"]["dwell"][number] is not None
        ]
        if not pairs:
            continue
        longer = sum(dwell > DWELL_BEYOND * null for dwell, null in pairs)
        verdict = f"longer in {longer} of {_files(len(pairs))}" if longer else f"{CHANCE}, overlapping windows are all there is"
        yield (
            f"Regime {name} lasts {_range([dwell for dwell, _ in pairs], '.0f')} candles, and "
            f"{_range([null for _, null in pairs], '.0f')} on the same returns with signs of a coin: {verdict}."
        )


def _brier(regimes: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    found = [one["brier"] for one in regimes if one["brier"]["skill"] is not None]
    if not found:
        yield "Whether the regime predicts the next window cannot be said: too few candles, or one outcome only."
        return
    worse = sum(one["skill"] <= 0 for one in found)
    yield (
        f"Regime probabilities beside the base rate of the next window's variance ratio: Brier skill "
        f"{_range([one['skill'] for one in found], '+.2f')}; worse than quoting the base rate in {worse} of {_files(len(found))}."
    )
    yield _chance("They follow the outcomes", found, _follows)


def _size(regimes: Sequence[Mapping[str, Any]], key: str, words: str) -> Iterable[str]:
    found = [one[key] for one in regimes if one[key]["rho"] is not None]
    if found:
        rhos = _range([one["rho"] for one in found], "+.2f")
        yield f"Rank correlation of p_trend with {words}: {rhos}. " + _chance("It is beyond chance", found, _follows)


def _follows(one: Mapping[str, Any]) -> bool:
    return bool(one["p"] < DIFFERENT)


def _chance(claim: str, found: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> str:
    """Say in how many files a claim is beyond what shifted series give."""
    judged = [one for one in found if one["p"] is not None]
    if not judged:
        return "Too few candles to test it against chance."
    count = sum(map(holds, judged))
    if not count:
        return f"In none of {_files(len(judged))} beyond chance (circular shifts, p < .05): {CHANCE}."
    rest = "" if count == len(judged) else f"; elsewhere {CHANCE}"
    return f"{claim} in {count} of {_files(len(judged))} (circular shifts, p < .05){rest}."


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
