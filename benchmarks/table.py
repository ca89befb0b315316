"""README.md out of the result files, so that table and figures cannot differ: ``python -m benchmarks.table``."""

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import arguments, folder

WIDTH = 128
TABLES_SHOWN = 6  # of an archive
INTRODUCTION = """
`make bench` measures everything but the several hosts, the chaos trial, the detection and telling of faults, the day on record
and the hour with dead symbols in one run (about 100 minutes; let nothing else run meanwhile) and writes `results/*.json` and this
page, which is generated from them. `python -m benchmarks --help` names the parts. The machine is small and shared: ratios tell
more than absolute numbers.
"""
NAMES = {
    "stock": "stock Dagster: default launcher, multiprocess executor",
    "stock in-process": "stock launcher, in-process executor",
    "product": "**this product**",
}
Figures = dict[str, Any]


def paragraph(text: str) -> str:
    """Break a text into lines."""
    return "\n" + textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """Format a number, from 100 on without decimals; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits if abs(value) < 100 else 0}f}"


def mb(size: float) -> str:
    """Format bytes as MB."""
    return f"{size / 1e6:,.0f}"


def of(spread: dict[str, float], *names: str, digits: int = 2) -> str:
    """Format some values of a spread."""
    return " / ".join(number(spread.get(name), digits) for name in names)


def cycle(figures: Figures) -> str:
    """Render the configurations side by side, the cadence and the growth."""
    done = [case for case in figures["configurations"] if case["cycles"]]
    ours = sorted((case for case in done if case["configuration"] == "product"), key=lambda case: int(case["symbols"]))
    side_by_side = [
        [
            NAMES[case["configuration"]],
            case["symbols"],
            case["cycles"],
            of(case["latency_sec"], "p50", "p95", "max"),
            of(case["run_end_sec"], "p50"),
            number(case["cpu_sec_per_cycle"]),
            number(case["peak_pss_mb"], 0),
            number(case["materializations_per_cycle"], 0),
            number(case["events_per_cycle"], 0),
            number(case["kb_per_cycle"], 0),
        ]
        for case in done
        if case["symbols"] in (3, 566)
    ]
    cadence = [
        [
            case["symbols"],
            case["cycles"],
            of(case["gap_sec"], "p50", "p99", "max"),
            *(case[name] for name in ("late_gaps", "ticks_without_run", "failed_runs", "skipped_symbols")),
        ]
        for case in ours
        if case["symbols"] in (3, 566)
    ]
    growth = [
        [
            case["symbols"],
            of(case["latency_sec"], "p50", "max"),
            number(case["cpu_sec_per_cycle"]),
            number(case["peak_pss_mb"], 0),
        ]
        for case in ours
    ]
    last = ["CPU, s per cycle", "memory, MB"]
    counts = ["materializations per cycle", "events per cycle", "kB stored per cycle"]
    latency = "tick to last materialization, s: p50 / p95 / max"
    return (
        "## A whole cycle, sensor tick to last materialization (`benchmarks.cycle`)\n"
        + paragraph("""
            The same assets on the same data; prices move so that every symbol's proposals are due in every cycle. CPU and
            memory (the greatest sum of proportional shares) are of all processes and the Redis server, idle time included.
            Stock Dagster is asked for a cycle every 10 s, too, and starts the next one when the previous one has ended; it
            computes the market state in each, and after more than a minute publishes everything anew, as the age limit wants.""")
        + table(["", "symbols", "cycles", latency, "to the end of the run, s: p50", *last, *counts], side_by_side)
        + "\n### Cadence of this product: a cycle every 10 s\n"
        + paragraph("""
            A gap of more than 11 s is late. A symbol is skipped when a cycle has not materialized all of its position, risk
            proposal, capital efficiency and allocation target.""")
        + table(
            ["symbols", "cycles", "gap, s: p50 / p99 / max", "late", "ticks without a run", "failed runs", "skipped symbols"],
            cadence,
        )
        + "\n### Growth of this product's cost\n"
        + table(["symbols", "tick to last materialization, s: p50 / max", *last], growth)
        + (linear(figures["growth"]) if figures["growth"] else "")
    )


def linear(growth: Figures) -> str:
    """Say how the cost has grown from 566 to 2000 symbols."""
    verdict = "no worse than linear" if growth["no_worse_than_linear"] else "**worse than linear**"
    return paragraph(
        f"From 566 to 2000 symbols, {growth['symbols_factor']} times as many: latency times {growth['latency_factor']}, CPU times"
        f" {growth['cpu_factor']}; {verdict}."
    )


def path(figures: Figures) -> str:
    """Render the way of one value."""
    rows = [
        [stage.replace("_", " "), *(of(split[name], "p50", "p95") for name in ("total", "wait", "work"))]
        for stage, split in figures["seconds"].items()
    ]
    return (
        "## The way of one value (`benchmarks.path`)\n"
        + paragraph(f"""
            {figures["values"]} closed candles, written at random moments for one of 3 symbols, each followed to the permit of
            a plan written when the harvest proposal appears. Wait ends with the sensor tick of the run that took the value,
            work with the publication. {figures["decided_in_the_same_cycle"]} plans were decided in the same cycle;
            {figures["permits"]} got a permit.""")
        + table(["published", *(f"{name}, s: p50 / p95" for name in ("end to end", "wait", "work"))], rows)
    )


def disk(figures: Figures) -> str:
    """Render the files' sizes and the streams' lengths."""
    columns = ("total", "event_log", "runs", "schedules")
    sizes = [[point["hours"], *(mb(point[name]) for name in columns)] for point in figures["bytes"]]
    streams = [
        [f"`{key}`", *(f"{counts[name]:,}" for name in ("cap", "appended", "left"))] for key, counts in figures["streams"].items()
    ]
    return (
        f"## Disk, {figures['symbols']} symbols, {figures['kept_hours']} h kept (`benchmarks.disk`)\n"
        + paragraph(f"""
            {figures["recorded_sec"]:.0f} s of the live product, stored again and again as {figures["simulated_hours"]} hours
            ({figures["events_stored"]:,} events), and pruned every ten simulated minutes. Peak {mb(figures["peak_bytes"])}
            MB, {"within" if figures["within_limit"] else "**beyond**"} the limit of {mb(figures["limit_bytes"])} MB; pruned
            to {figures["in_the_end"]["kept_hours"]:.0f} h in the end: {mb(figures["in_the_end"]["bytes"])} MB.""")
        + table(["hours", *(f"{name.replace('_', ' ')}, MB" for name in columns)], sizes)
        + table(["stream", "cap, approximate", "entries appended", "entries left"], streams)
    )


def event_log(figures: Figures) -> str:
    """Render the event logs."""
    seconds = figures["seconds"]
    rows = []
    for task, by_name in seconds.items():
        medians = [values["median"] for values in by_name.values()]
        rows.append([task, *(f"{number(1e3 * one, 0)} ({one / by_name['ours']['median']:.1f})" for one in medians)])
    return (
        "## Event log (`benchmarks.event_log`)\n"
        + paragraph("Median milliseconds, and in brackets how many times ours.")
        + table(["", *next(iter(seconds.values()))], rows)
    )


def kernels(figures: Figures) -> str:
    """Render the kernels."""
    ratio = figures["theil_sen_speedup"]
    return (
        f"## Kernels, {figures['symbols']} symbols, {figures['window']} closes each (`benchmarks.kernels`)\n"
        + table(["", "median, ms"], [[name, number(1e3 * one["median"])] for name, one in figures["seconds"].items()])
        + paragraph(f"""
            Theil-Sen is {ratio["median"]:.1f} times as fast as the loop over scipy in the same process ({ratio["min"]:.1f} to
            {ratio["max"]:.1f}); largest difference {figures["theil_sen_largest_difference"]:.1e}.""")
    )


def chaos(figures: Figures) -> str:
    """Render the chaos trial."""
    violations = figures.get("remark") or f"Violations: {len(figures['violations'])}."
    rows = [
        [part, *(of(row[name], "p50", "p95", "max", digits=1) for name in ("back", "resume", "resumed", "gap"))]
        for part, row in figures["summary"].items()
    ]
    return (
        f"## kill -9 of every part, {figures['symbols']} symbols (`benchmarks.chaos`)\n"
        + paragraph(f"""
            {len(figures["kills"])} kills at random moments, {figures["within_a_cycle"]} of them within a cycle.
            {violations} Slow resumptions: {len(figures["slow"])}. Seconds, p50 / p95 / max.""")
        + table(["part", "kill to back", "back to resumed", "kill to resumed", "success to success"], rows)
    )


def beside_proofs(figures: Figures) -> str:
    """Render the product with the pack beside it, its growth, and what the pack costs."""
    ours, pack = figures["configurations"], figures["pack"]
    rows = [
        [
            one["symbols"],
            one["cycles"],
            of(one["latency_sec"], "p50", "p95", "max"),
            of(one["gap_sec"], "p50", "p99", "max"),
            *(one[name] for name in ("late_gaps", "failed_runs", "skipped_symbols")),
            number(one["cpu_sec_per_cycle"]),
            number(one["peak_pss_mb"], 0),
        ]
        for one in ours
    ]
    head = [
        "symbols",
        "cycles",
        "tick to last materialization, s: p50 / p95 / max",
        "gap, s: p50 / p99 / max",
        "late",
        "failed runs",
    ]
    return (
        "## With the proof pack beside the loop, up to 2000 symbols (`benchmarks.growth`)\n"
        + paragraph(
            "As above, in a later run of a later commit. The pack runs every minute on a spare worker; CPU and memory include it."
        )
        + table([*head, "skipped symbols", "CPU, s per cycle", "memory, MB"], rows)
        + (linear(figures["growth"]) if figures["growth"] else "")
        + paragraph(f"""
            The pack itself, {pack["proofs"]} proofs over {pack["symbols"]} symbols with two looks, in one process:
            {of(pack["wall_sec"], "p50", "max")} s (p50 / max), {of(pack["cpu_sec"], "p50")} s of CPU.""")
    )


def detection(figures: Figures) -> str:
    """Render how soon faults are alerted."""
    rows = [
        [
            fault,
            one["trials"],
            *(of(one[name], "p50", "max", digits=1) for name in ("to_alert_sec", "late_sec", "to_clear_sec")),
            "yes" if one["exactly_one_raise_and_clear"] else "**no**",
        ]
        for fault, one in figures["faults"].items()
    ]
    head = ["fault", "trials", "fault to alert", "limit to alert", "mended to cleared", "one raise and one clear at each sink"]
    return (
        "## Detection of faults (`benchmarks.detection`)\n"
        + paragraph(f"""
            Real processes stopped, alerts received by an HTTP and an SMTP sink; seconds, p50 / max. Promised: at most
            {figures["promised_sec"]:.0f} s after the limit of the thing that stopped; latest {figures["latest_sec"]:.1f} s.
            Alerts before any fault: {len(figures["alerts_before_any_fault"])}.""")
        + table(head, rows)
    )


def governor(figures: Figures) -> str:
    """Render decisions per second, and how soon a plan has its permit."""
    rate, delay = figures["throughput"], figures["latency"]["seconds"]
    head = ["", "p50", "p95", "max"]
    rows = [[name, *(number(delay[name][one]) for one in ("p50", "p95", "max"))] for name in ("total", "wait", "work")]
    return (
        "## Decisions of the governor (`benchmarks.governor`)\n"
        + paragraph(f"""
            One governor on a real server, batches of {rate["plans_per_batch"]} plans for {rate["symbols"]} symbols, all
            judged by every gate and permitted: {number(rate["plans_per_sec"]["p50"])} plans per second, at least
            {number(rate["plans_per_sec"]["min"])}. From a plan written to its permit readable in the running product,
            seconds, for {figures["latency"]["plans"]} plans at random moments; wait is until the tick that took it:""")
        + table(head, rows)
    )


def scrape(figures: Figures) -> str:
    """Render what a scrape costs."""
    series = figures["series"]
    return "## Scrape of the exporter (`benchmarks.scrape`)\n" + paragraph(f"""
        {figures["symbols"]} symbols, beside the running loop, each a look of its own:
        {of(figures["scrape_sec"], "p50", "p95", "max", digits=3)} s (p50 / p95 / max); the second port, within a second of the
        first, {of(figures["second_port_sec"], "p50", "p95", digits=3)} s. {number(figures["cpu_sec_per_pair"], 3)} s of CPU for
        both, {series["allocation"]:,} and {series["governor"]:,} series, {figures["memory_mb"]} MB.""")


def scale_out(figures: Figures) -> str:
    """Render the cadence per shard, and what a host that was cut off meant."""
    cut, found = figures["cut"], figures["publications"]
    rows = [
        [shard, of(one["gap_sec"], "p50", "p99", "max"), of(one["tick_to_end_sec"], "p50", "p99"), sum(one["runs"].values())]
        for shard, one in enumerate(figures["shards"])
    ]
    used = figures["cpu_percent_of_a_core"]
    processes = [[name, number(used[name], 1), f"{mb:,.0f}"] for name, mb in figures["memory_mb"].items()]
    return (
        "## Several hosts, one cut off (`benchmarks.scale_out`)\n"
        + paragraph(f"""
            {figures["symbols"]:,} symbols on {len(figures["shards"])} worker hosts (network namespaces of one machine) with
            PostgreSQL and Redis on a fifth; seconds.""")
        + table(["shard", "gap, p50 / p99 / max", "request to end, p50 / p99", "cycles"], rows)
        + table(["process", "CPU, % of a core", "memory, MB"], processes)
        + paragraph(f"""
            One host cut off for {cut["cut_sec"]} s in the middle of a cycle: first alert after {cut["first_alert_after_sec"]} s,
            {cut["symbols_alerted"]} of its {cut["symbols"]} symbols alerted, {cut["symbols_of_others_alerted"]} of the others;
            caught up {cut["caught_up_sec"]} s after it was back. {found["entries"]:,} entries,
            {found["market_states_twice_in_a_cycle"]} twice in a cycle, {found["entries_without_materialization"]} without their
            record (published by the host that was cut off before it could record), {found["materializations_without_entry"]}
            records without their entry.""")
    )


def split_brain(figures: Figures) -> str:
    """Render what two stacks on one Redis did."""
    return "## Two stacks on one Redis (`benchmarks.split_brain`)\n" + paragraph(f"""
        {figures["cycles"]} cycles and {figures.get("event_cycles", 0)} event cycles, {figures["entries"]} entries of streams,
        {figures["doubled"]} doubled; gaps {of(figures["gap_sec"], "p50", "p99", "max")} s (p50 / p99 / max);
        {figures["runs_of_the_second_stack"]} runs of the second stack. It published {figures["taken_over_sec"]} s after the first
        one was killed.""")


def dead_symbols(figures: Figures) -> str:
    """Render the stack with dead symbols beside the healthy one."""
    rows = [
        [
            name,
            one["cycles"],
            number(one["stored_events_per_cycle"], 0),
            one["check_evaluations"],
            one["failed_partitions_recorded"],
            of(one["latency_sec"], "p50", "p95", "max"),
            number(one["cpu_sec_per_cycle"]),
        ]
        for name, one in (("all healthy", figures["healthy"]), (f"{figures['dead']} dead", figures["with_dead"]))
    ]
    ratio = figures["latency_ratio"]
    return (
        f"## {figures['dead']} dead symbols of {figures['symbols']} (`benchmarks.dead_symbols`)\n"
        + paragraph("""
            Two stacks at the same time on the same machine, each with its own Redis server; of one the candles of some symbols
            are deleted and written no more. Events are all that Dagster's log takes: those of the runs, of failed partitions,
            of checks and of observed inputs. A failed partition is recorded once per asset and change.""")
        + table(
            [
                "",
                "cycles",
                "events stored per cycle",
                "check evaluations",
                "failed partitions recorded",
                "tick to last materialization, s: p50 / p95 / max",
                "CPU, s per cycle",
            ],
            rows,
        )
        + paragraph(f"Ratios: events {figures['events_ratio']}, latency {ratio['p50']} at p50 and {ratio['p95']} at p95.")
    )


def told(figures: Figures) -> str:
    """Render how soon a dead symbol is shown, and how soon what happens to trading is said."""
    dead, names = figures["dead_symbol"], list(dict.fromkeys(one["event"] for one in figures["events"]))
    trials = {name: [one for one in figures["events"] if one["event"] == name] for name in names}

    def range_of(name: str, what: str) -> str:
        values = [one[what] for one in trials[name]]
        return f"{min(values):.1f} to {max(values):.1f}"

    return (
        "## How soon it is said (`benchmarks.told`)\n"
        + paragraph("""
            Three symbols. Seconds from the deletion of one symbol's candles until its web page shows it, and from their return
            until it shows that: checks and inputs get better at most once a minute, so the fault lasts a minute and a half.""")
        + table(["shown", "s"], [[name, number(sec, 1)] for name, sec in dead["shown_sec"].items()])
        + table(["back to green", "s"], [[name, number(sec, 1)] for name, sec in dead["back_sec"].items()])
        + "\nAn event, and the seconds until its alert has arrived and the banner names it:\n"
        + table(
            ["event", "trials", "alert, s", "banner, s"],
            [[name, len(trials[name]), range_of(name, "alert_sec"), range_of(name, "banner_sec")] for name in names],
        )
    )


def plain(figures: Figures) -> str:
    """Render what plain Dagster did, each way it is started."""
    rows = [
        [way, one["first_cycle_sec"], of(one["click_sec"], "p50", "max"), sum(one["runs"].values()), one["red"]]
        for way, one in figures["ways"].items()
    ]
    return (
        "## Plain Dagster (`benchmarks.plain`)\n"
        + paragraph(f"""
            Each way for {figures["lasts_sec"] / 60:.0f} minutes, one after the other, with the stock launcher, the example and
            Chromium beside it. A click is Materialize of one asset for one symbol, until its run has ended.""")
        + table(["started as", "first green cycle, s", "click, s: p50 / max", "runs", "red runs"], rows)
    )


def profile_changes(figures: Figures) -> str:
    """Render how soon another profile is in force."""
    cycles = figures["cycles_until_in_force"]
    counted = ", ".join(f"{cycles.count(number)} x {number}" for number in sorted(set(cycles)))
    return (
        f"## {figures['changes']} changes of the profile, {figures['symbols']} symbols (`benchmarks.profile_changes`)\n"
        + paragraph(f"""
            Cycles from `quantum profile use` to the first complete one with the new parameters: {counted};
            {of(figures["seconds_until_in_force"], "p50", "p95", "max")} s (p50 / p95 / max). Workers killed with SIGKILL in
            between: {figures["workers_killed"]}. Cycles that mix two profiles: {figures["cycles_that_mix_two"]}, in
            {figures["rows_looked_at"]:,} rows read in {figures["looks"]} looks.""")
    )


def naked(figures: Figures) -> str:
    """Render the product beside the plain process."""
    rows = [
        [
            case["symbols"],
            name,
            case[name]["cycles"],
            of(case[name]["latency_sec"], "p50", "p95", "max", digits=3),
            number(case[name]["cpu_sec_per_cycle"], 3),
            number(case[name]["peak_pss_mb"], 0),
        ]
        for case in figures["cases"]
        for name in ("product", "naked")
    ]
    names = ("latency_p50", "latency_p95", "latency_p50_of_same_assets", "cpu", "memory")
    ratios = [[case["symbols"], *(number(case["ratio"][name], 1) for name in names)] for case in figures["cases"]]
    compared = "; ".join(
        f"{count} symbols: {case['hashes']:,} hashes, {case['fields']:,} fields, {case['entries']:,} stream entries"
        for count, case in figures["compared"].items()
    )
    return (
        "## The price of lineage (`benchmarks.naked`)\n"
        + paragraph(f"""
            One plain asyncio process (`naked`) that reads the same inputs, calls the same kernels and publishes the same
            position, market state, risk and harvest proposal, allocation target and position size, in turn with the product in
            one run. For the same inputs both publish the same in every field and stream entry ({compared}). Latency is from
            the start of reading to the last write, of the product from the tick to the last materialization; CPU and memory are
            of all processes and the server, of the product idle time, intents, governor, guard, proofs and alerts included.""")
        + table(["symbols", "", "cycles", "latency, s: p50 / p95 / max", "CPU, s per cycle", "memory, MB"], rows)
        + "\nTimes the plain process:\n"
        + table(["symbols", "latency p50", "latency p95", "latency p50, same assets only", "CPU", "memory"], ratios)
    )


def reaction(figures: Figures) -> str:
    """Render how soon events are answered."""
    few, many = figures["few"], figures["many"]
    symbols = figures["symbols"]
    rows = [
        ["plan", symbols[0], few["plan_sec"]],
        ["plan", symbols[1], many["plan_sec"]],
        ["closed candle, both proposals", symbols[0], few["candle_sec"]],
        ["position that turns, both proposals", symbols[0], few["flip_sec"]],
        ["plan, bell silent", symbols[0], few["bell_silent"]["plan_sec"]],
    ]
    burst, candles, cadence, idle = few["burst"], many["candle_burst"], many["cadence_beside_events"], figures["idle"]
    return (
        "## How soon events are answered (`benchmarks.reaction`)\n"
        + table(
            ["event", "symbols", "times", "answered after, s: p50 / p95 / max"],
            [[name, count, took["count"], of(took, "p50", "p95", "max", digits=3)] for name, count, took in rows],
        )
        + paragraph(f"""
            {burst["plans"]:,} plans at once: all answered after {number(burst["seconds"], 1)} s. A candle of each of
            {candles["symbols"]} symbols within 3 s: all proposals {number(candles["seconds"], 1)} s after the last one, in
            {candles["runs"]} runs. Beside {cadence["events"]} random events ({cadence["event_cycles"]} event cycles),
            {cadence["cycles"]} cycles of {symbols[1]} symbols were {of(cadence["gap_sec"], "p50", "p99", "max")} s apart
            (p50 / p99 / max). Idle, daemon and code server took {number(idle["cpu_ratio"], 2)} times the CPU of EVENTS=off
            in {idle["seconds"]} s, with {idle["ticks"]["on"]} ticks for {idle["ticks"]["off"]}. With the bell silent, the
            doctor said: {few["bell_silent"]["named_by_the_doctor"]}.""")
    )


def recorder(figures: Figures) -> str:
    """Render the product with and without the flight recorder, and what the archive gives."""
    rows = [
        [
            case["symbols"],
            name,
            of(case[name], "latency_p50_sec", "latency_p95_sec", digits=3),
            *(number(case[name][which], 3) for which in ("cpu_sec_per_cycle", "recorder_cpu_sec_per_cycle")),
            number(case[name]["peak_pss_mb"], 0),
        ]
        for case in figures["cases"]
        for name in ("without", "with")
    ]
    ratios = [
        [case["symbols"], *(number(case["ratio"][which], 3) for which in ("latency_p50_sec", "cpu_sec_per_cycle"))]
        for case in figures["cases"]
    ]
    archives = [
        [
            case["symbols"],
            number(case["archive"]["mb_per_day"], 1),
            ", ".join(f"{table} {number(size, 1)}" for table, size in case["archive"]["largest_mb_per_day"].items()),
            *(f"{case['rerun'][which]:,}" for which in ("rows", "differing", "left_out")),
            number(case["rerun"]["times_as_fast_one_process"], 1),
        ]
        for case in figures["cases"]
    ]
    return (
        "## The flight recorder (`benchmarks.recorder`)\n"
        + paragraph("""
            The product with the recorder and without it, deployments in turns; the medians of all turns. CPU is of all processes
            and the server, that of the recorder's own process is a part of it. Every price moves every 5 s, which is more than
            markets do. Sizes are reckoned to a day from some minutes, sorted and compressed as a compacted day is.""")
        + table(["symbols", "recorder", "latency, s: p50 / p95", "CPU, s per cycle", "of it the recorder's", "memory, MB"], rows)
        + "\nTimes without:\n"
        + table(["symbols", "latency p50", "CPU"], ratios)
        + "\nWhat was recorded, computed again by one process:\n"
        + table(
            ["symbols", "MB per day", "largest tables, MB per day", "rows", "differing", "left out", "times as fast as it was"],
            archives,
        )
    )


def recorded_day(figures: Figures) -> str:
    """Render what whole hours and days on record take, and what recording them costs."""
    recorded = figures["recorded"]
    archives = [
        [
            one["symbols"],
            f"{one['cycles']:,}",
            f"{one['open_day']['files']:,}",
            mb(one["open_day"]["bytes"]),
            *(number(one["day"][name] / scale, digits) for name, scale, digits in (("files", 1, 0), ("bytes", 1e6, 1))),
            number(one["sizes"]["mb_per_day"], 1),
            f"{one['sizes']['mb_per_day_at_5000']:,}",
        ]
        for one in recorded
    ]
    largest = [
        [one["symbols"], ", ".join(f"{name} {number(of_table['mb_per_day'], 2)}" for name, of_table in tables[:TABLES_SHOWN])]
        for one in recorded
        for tables in [sorted(one["sizes"]["tables"].items(), key=lambda pair: -pair[1]["mb_per_day"])]
    ]
    costs = [
        [
            one["symbols"],
            number(1e3 * one["cpu_sec"]["cycles"] / one["cycles"], 1),
            number(sum(one["recording_cpu_ms_per_cycle"].values()), 1),
            number(1e3 * one["cpu_sec"]["recorder"] / one["cycles"], 1),
            number(one["cpu_sec"]["compaction"], 1),
            ", ".join(
                f"{name} {number(each, 1)}" for name, each in list(one["recording_cpu_ms_per_cycle"].items())[:TABLES_SHOWN]
            ),
        ]
        for one in recorded
    ]
    again = [
        [
            one["symbols"],
            *(f"{one['rerun'][name]:,}" for name in ("steps", "rows", "differing", "left_out")),
            "{compared:,} / {differing:,}".format(**one["rerun"]["decisions"]),
            *(number(one["rerun"][name], 1) for name in ("seconds", "cpu_sec", "times_real_time")),
        ]
        for one in recorded
    ]
    beside = [
        [
            one["symbols"],
            one["pairs"],
            *(of(one[side][what], "p50", digits=3) for what in ("cpu_sec", "latency_sec") for side in ("without", "with")),
            *(number(one["ratio"][name]["of_medians"], 3) for name in ("cpu_of_cycle", "latency")),
            number(one["recorder_cpu_sec_per_cycle"], 3),
        ]
        for one in figures["beside"]
    ]
    sides = [f"{what} {side}" for what in ("CPU, s:", "latency, s:") for side in ("without", "with")]
    reruns = ["steps", "rows", "differing", "left out", "decisions compared / differing", "s", "CPU, s", "times real time"]
    return (
        "## A day on record (`benchmarks.recorded_day`)\n"
        + paragraph("""
            Cycles on a virtual clock, recorded and compacted by the recorder, with a file per table and minute until then. 3
            symbols are the bundled replay with marks that move in every cycle; of 566 every proposal is due in every cycle, which
            is the most that can be recorded. Sizes per day leave out the first minute, in which all is recorded in full.""")
        + table(["symbols", "cycles", "files, open", "MB, open", "files", "MB", "MB per day", "MB per day of 5,000"], archives)
        + "\nLargest tables, MB per day:\n"
        + table(["symbols", ""], largest)
        + "\nMilliseconds of CPU per cycle, without Dagster:\n"
        + table(["symbols", "cycle", "of it records", "recorder", "compaction, s", "records of"], costs)
        + "\n`quantum rerun` of all of it, a process per core:\n"
        + table(["symbols", *reruns], again)
        + "\nCycles with and without the recorder in turns, in one process with Dagster; the recorder's own CPU beside:\n"
        + table(["symbols", "pairs", *sides, "ratio CPU", "ratio latency", "recorder, CPU s per cycle"], beside)
    )


def peers(figures: Figures) -> str:
    """Render the product beside its peers."""
    ran = {name: peer for name, peer in figures["peers"].items() if "not_run" not in peer}
    named = {name: f"{name} ({peer['package'].partition('==')[2]})" if peer["package"] else name for name, peer in ran.items()}
    costs = ("cpu_sec_per_minute", "memory_mb")
    rows, kills = [], []
    for name, peer in ran.items():
        beside, ratio = peer["product_meanwhile"], peer["ratio_to_product"]
        times = [f"{of(peer['candle_sec'], which, digits=3)} ({number(ratio[which])})" for which in ("p50", "p95")]
        rest = [f"{number(peer[which], 1)} ({number(ratio[which])})" for which in costs]
        against = of(beside["candle_sec"], "p50", "p95", digits=3)
        rows.append([named[name], peer["trigger"], peer["candle_sec"]["count"], *times, *rest, against])
    for name, peer in {"**this product**": figures["product"], **ran}.items():
        for what, kill in peer.get("kills", {}).items():
            kept = f"{kill['with_a_state_of_their_own']} of {kill['candles_meanwhile']}"
            on = "goes on" if kill["goes_on_alone"] else "stays dead until started again"
            kills.append([named.get(name, name), what, on, kill["caught_up_sec"], kept, kill["states_written_twice"]])
    leaves = [
        [
            named.get(name, name),
            peer["leaves"],
            ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in peer["left"].items()),
        ]
        for name, peer in {"**this product**": figures["product"], **ran}.items()
    ]
    faster = [name for name, peer in ran.items() if peer["ratio_to_product"]["p50"] < 1]
    cheaper = [name for name, peer in ran.items() if all(peer["ratio_to_product"][which] < 1 for which in costs)]
    again = [f"{name}: {peer['states_written_twice']}" for name, peer in ran.items() if peer["states_written_twice"]]
    absent = {**{name: peer["not_run"] for name, peer in figures["peers"].items() if name not in ran}, **figures["left_out"]}
    return (
        "## Beside other schedulers and stream engines (`benchmarks.peers`)\n"
        + paragraph(f"""
            {figures["symbols"]} symbols. Each peer is a program of a few lines that calls the plain process of
            `benchmarks/naked_process.py` at its trigger, beside the running product; candles were written to the two in turn at
            random moments. Seconds from a closed candle to a harvest proposal computed from it; CPU and memory of all
            processes without Redis; in brackets how many times the product's of the same minutes. What no peer does, the
            product pays for here: governor, guard, intents, proofs, alerts, web pages, and events and records of each run.""")
        + table(
            ["", "trigger", "candles", "p50, s", "p95, s", "CPU, s per minute", "memory, MB", "product meanwhile, s: p50 / p95"],
            rows,
        )
        + paragraph(f"""
            Faster than the product at p50: {", ".join(faster) or "none"}. Cheaper in CPU and memory:
            {", ".join(cheaper) or "none"}. States written twice while nothing was killed: {"; ".join(again) or "none"}.""")
        + "\n### kill -9\n"
        + paragraph("""
            Up to 4 s after an answer, nobody helping for 25 s; what stays dead is started again by its own command, as an
            operator or a service manager would. Caught up: seconds to the proposals on the newest of two candles written
            meanwhile, from that candle, or from the second start; they rest on the missed ones, too, as all candles stand in
            Redis. Written twice: market states that say again what the symbol's last entry said less than a
            minute before.""")
        + table(["", "killed", "then", "caught up, s", "missed candles with a state of their own", "written twice"], kills)
        + "\n### What is left of the lineage\n"
        + table(["", "leaves", "counted after the candles"], leaves)
        + paragraph("Not run: " + "; ".join(f"{name}: {why}" for name, why in absent.items()) + ".")
    )


PARTS: dict[str, Callable[[Figures], str]] = {
    "cycle": cycle,
    "growth": beside_proofs,
    "naked": naked,
    "recorder": recorder,
    "path": path,
    "disk": disk,
    "event_log": event_log,
    "kernels": kernels,
    "governor": governor,
    "scrape": scrape,
    "split_brain": split_brain,
    "peers": peers,
}
SECTIONS = {
    **PARTS,
    "scale_out": scale_out,
    "chaos": chaos,
    "detection": detection,
    "dead_symbols": dead_symbols,
    "told": told,
    "reaction": reaction,
    "recorded_day": recorded_day,
    "profile_changes": profile_changes,
    "plain": plain,
}


def page(results: Path) -> str:
    """Render the page from all result files there are."""
    parts = {part: json.loads(file.read_text()) for part in SECTIONS if (file := results / f"{part}.json").exists()}
    setups = [
        "{cpus} cores, {architecture}, {memory_gb} GB; ".format(**result["machine"])
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        for result in parts.values()
    ]
    sections = [
        SECTIONS[part](result)
        + ("\n**Short run: worth nothing as a measurement.**\n" if result.get("short") else "")
        + f"\nMeasured {result['date'][:16].replace('T', ' ')} UTC, load average before {result['machine']['load_before']}.\n"
        for part, result in parts.items()
    ]
    machines = "".join(paragraph(f"{setup}.") for setup in dict.fromkeys(setups))
    return "\n".join(["# Benchmarks\n" + paragraph(INTRODUCTION) + machines, *sections])


def write(results: Path) -> Path:
    """Write the page beside the folder of the results."""
    target = results.parent / "README.md"
    target.write_text(page(results))
    return target


if __name__ == "__main__":
    print(write(folder(arguments(__doc__).parse_args())))
