"""``quantum profile``: parameters of all kernels under one name; what there is, what differs, what is in force and since when."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from quantum_core.contracts.reading import printable
from quantum_core.exit_codes import EXIT_FAILED, EXIT_USAGE
from quantum_core.settings import LOCKED, Settings, load_settings
from quantum_ops.cli.history.profile_trial import try_profiles

if TYPE_CHECKING:
    from quantum_core.profiles.profile import Profile
    from quantum_core.profiles.safety import Difference
    from resources.store.profiles import InForce, Use
    from resources.store.redis_store import RedisStore

IN_FORCE = "in-force"
UNSET = "not set"


@click.group()
def profile() -> None:
    """List, show, compare and check profiles; put one in force; list who did so before.

    NAME is a shipped profile, the path of a file, or `in-force`: what is in force now, with what the environment sets.

    \b
    quantum profile show in-force
    quantum profile check desk.toml
    quantum profile diff in-force desk.toml
    quantum profile use desk.toml --name "Ada Lovelace" --reason "for minutes"
    """


@profile.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def list_profiles(*, as_json: bool) -> None:
    """List the shipped profiles, and the one PROFILE names.

    Exit codes: 0 listed; 2 wrong usage or settings.
    """
    from quantum_core.profiles.files import load, shipped

    settings = load_settings()
    names = list(dict.fromkeys((*shipped(), settings.profile or LOCKED)))
    listed = [(name, load(name, settings.symbols)) for name in names]
    if as_json:
        rows = [
            {"given_as": name, "of_settings": name == (settings.profile or LOCKED), **_head(loaded)} for name, loaded in listed
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    from quantum_ops.cli.layout import Column, console, records

    out = console()
    columns = (
        Column("name"),
        Column("version", labelled=True),
        Column("fingerprint"),
        Column("candles"),
        Column(""),
        Column("note"),
    )
    shown = [
        (
            name,
            loaded.version,
            loaded.fingerprint,
            f"{loaded.candle_interval_sec} s" if loaded.candle_interval_sec else "any",
            "PROFILE" if name == (settings.profile or LOCKED) else "",
            loaded.note,
        )
        for name, loaded in listed
    ]
    out.print(records(out, columns, shown))


@profile.command()
@click.argument("name", metavar="NAME")
@click.option("--symbol", default="", help="With the parameters of this symbol.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole profile as JSON on stdout.")
def show(name: str, symbol: str, *, as_json: bool) -> None:
    """Show every parameter: its value, that of locked-v1 where it differs, what is accepted, and what it means.

    \b
    quantum profile show crypto-1m
    quantum profile show in-force --symbol BTCUSDT
    quantum profile show crypto-1m --json | jq .parameters.stops

    In JSON each section has the shape that `quantum calc` takes as theta_override.

    Exit codes: 0 shown; 1 what is in force is unknown; 2 no such profile, or wrong settings; 3 Redis away (`in-force` only).
    """
    from quantum_core.contracts.schema import ACCOUNT

    settings = _settings_for(name)
    chosen = _profile_named(name, settings)
    symbol = symbol.strip() or ACCOUNT
    if symbol not in (ACCOUNT, *settings.symbols, *settings.markets):
        msg = f"--symbol {symbol}: not one of SYMBOLS"
        raise click.UsageError(msg)
    if as_json:
        evidence = {"evidence": dict(chosen.evidence)}
        body = {**_head(chosen), **evidence, "parameters": chosen.parameters(symbol), "symbols": chosen.body()["symbols"]}
        click.echo(json.dumps(body, indent=2))
        return
    _print_parameters(chosen, symbol)


@profile.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def diff(before: str, after: str, *, as_json: bool) -> None:
    """Show what differs between two profiles, for all symbols and for single ones, and which safety limits B loosens.

    \b
    quantum profile diff locked-v1 crypto-1m
    quantum profile diff in-force desk.toml

    Exit codes: 0 compared; 1 what is in force is unknown; 2 no such profile, or wrong settings; 3 Redis away (`in-force` only).
    """
    from quantum_core.profiles.safety import differences

    settings = _settings_for(before, after)
    first, second = _profile_named(before, settings), _profile_named(after, settings)
    changes = differences(first, second)
    if as_json:
        report = {"a": _head(first), "b": _head(second), "differences": [_as_json(each) for each in changes]}
        click.echo(json.dumps(report, indent=2))
        return
    _print_differences(changes, f"{first.name} {first.fingerprint}", f"{second.name} {second.fingerprint}")


@profile.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def check(file: str, *, as_json: bool) -> None:
    """Say whether a file can be used under the settings of this shell, and name every mistake in it by line.

    \b
    quantum profile check desk.toml

    Exit codes: 0 it can be used (warnings are named); 2 it cannot, or wrong settings.
    """
    from quantum_core.profiles.files import ProfileFileError, load
    from quantum_core.profiles.in_force import DoesNotFitError, in_force, warnings_of

    settings = load_settings(profile="locked-v1")  # PROFILE may be the file that is checked
    mistakes: list[tuple[int, str]] = []
    warnings: list[str] = []
    loaded = None
    try:
        loaded = load(file, settings.symbols)
        warnings = warnings_of(loaded, settings)
        in_force(loaded, settings)
    except ProfileFileError as error:
        mistakes = list(error.mistakes)
    except DoesNotFitError as error:
        mistakes = [(0, str(error))]
    if as_json:
        report = {
            "file": file,
            "usable": not mistakes,
            **({} if loaded is None else {"profile": _head(loaded)}),
            "mistakes": [{"line": line or None, "text": text} for line, text in mistakes],
            "warnings": warnings,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        from quantum_ops.cli.layout import say

        for line, text in mistakes:
            say(f"{file}:{line}: {text}" if line else text)
        for text in warnings:
            say(f"warning: {text}")
        if not mistakes and loaded is not None:
            say(f"{file} can be used: profile {loaded.name}, version {loaded.version}, {loaded.fingerprint}")
    if mistakes:
        sys.exit(EXIT_USAGE)


@profile.command()
@click.argument("name", metavar="NAME")
@click.option("--name", "by", required=True, help="Who answers for it; recorded.")
@click.option("--reason", required=True, help="Why; recorded.")
@click.option("--at-start", is_flag=True, help="Take effect when the daemon is started anew, not with the next cycle.")
@click.option("--loosen", is_flag=True, help="Accept that it loosens the safety limits that are named.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def use(name: str, by: str, reason: str, *, at_start: bool, loosen: bool, as_json: bool) -> None:
    """Put a profile in force: show what changes, record it whole with who and why, and let the next cycle take it.

    \b
    quantum profile use desk.toml --name "Ada Lovelace" --reason "own limits"
    quantum profile use locked-v1 --name "Ada Lovelace" --reason "back"

    Refused without --loosen: a profile that loosens a safety limit of what is in force. NAME `in-force` records anew what is
    in force, when the record has lost it. Needs Redis under the operator's user.

    Exit codes: 0 recorded; 1 refused, nothing was changed; 2 it cannot be used, no name or reason, or wrong settings; 3 Redis
    away: `quantum profile history` shows whether it was recorded.
    """
    from quantum_core.profiles.files import ProfileFileError, load
    from quantum_core.profiles.in_force import DoesNotFitError, in_force, warnings_of
    from quantum_core.profiles.safety import differences
    from quantum_ops.cli.desk.switches import in_words
    from resources.store.profiles import NotRecordedError, OvertakenUseError, as_put_in_force, newest_entry, profile_now
    from resources.store.profiles import use as put_in_force
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    settings, newest = store.settings, newest_entry(store)
    current = profile_now(store)
    try:
        chosen = as_put_in_force(current, settings) if name == IN_FORCE else load(name, settings.symbols)
        resulting = in_force(chosen, settings)
    except (ProfileFileError, DoesNotFitError) as error:
        _stop(str(error), EXIT_USAGE)
    changes = differences(current.profile, resulting)
    loosened = [change for change in changes if change.loosened]
    if not as_json:
        _print_differences(
            changes,
            f"in force: {current.profile.name} {current.profile.fingerprint}",
            f"{resulting.name} {resulting.fingerprint}",
        )
    for text in warnings_of(resulting, settings):
        click.echo(printable(f"warning: {text}"), err=True)
    if loosened and not loosen:
        _refuse_loosened(loosened, as_json=as_json)
    try:
        used = in_words(lambda: put_in_force(store, chosen, by=by, reason=reason, at_start=at_start, compared=newest))
    except (NotRecordedError, OvertakenUseError) as error:
        _stop(printable(str(error)), EXIT_FAILED)
    waits = at_start or settings.profile_changes == "restart"
    if as_json:
        report = {
            "used": {"name": resulting.name, "fingerprint": resulting.fingerprint, "entry": used.entry, "at_start": waits},
            "differences": [_as_json(change) for change in changes],
        }
        click.echo(json.dumps(report, indent=2))
        return
    from quantum_ops.cli.layout import say

    when = "when the daemon is started anew" if waits else _with_the_next_cycle(settings)
    say(f"Recorded: {resulting.name} {resulting.fingerprint}, by {used.by}. It takes effect {when}.")
    click.echo("See: quantum profile history, quantum status")


def _refuse_loosened(loosened: Sequence[Difference], *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"used": None, "loosens": [_as_json(change) for change in loosened]}, indent=2))
    limits = ", ".join(_path(change) for change in loosened)
    _stop(f"Nothing was changed: it loosens {limits}. If that is meant, add --loosen.", EXIT_FAILED)


def _with_the_next_cycle(settings: Settings) -> str:
    return f"with the next cycle of every shard, within {settings.publish_interval_sec} s"


@profile.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON on stdout.")
def history(*, as_json: bool) -> None:
    """List who put which profile in force, when and why, newest first; which can be used, and which is in force.

    Exit codes: 0 listed; 1 a profile on record cannot be used or the record is broken, and why; 2 wrong settings; 3 Redis away.
    """
    from resources.store.profiles import history as uses_of
    from resources.store.profiles import profile_now
    from resources.store.redis_store import RedisStore

    store = RedisStore(load_settings())
    now, uses = profile_now(store), [] if _is_unreadable(store) else uses_of(store)
    rows = [(record, _why_not(record, store.settings), _state(record, now)) for record in uses]
    if as_json:
        listed = [
            {
                **{field: getattr(record, field) for field in ("entry", "at", "name", "fingerprint", "by", "reason", "at_start")},
                "usable": not why,
                "why": why,
                "in_force": state == IN_FORCE,
                "waiting": state == "waits",
            }
            for record, why, state in rows
        ]
        in_force = {**_head(now.profile), "entry": now.use.entry if now.use else None}
        click.echo(json.dumps({"in_force": in_force, "trouble": now.trouble, "uses": listed}, indent=2))
    else:
        _print_history(rows, now, store.settings)
    if now.trouble:
        sys.exit(EXIT_FAILED)


# --- what is named --------------------------------------------------------------------------------------------------------------


def _settings_for(*names: str) -> Settings:
    """Read the settings; PROFILE may be broken where it does not count."""
    return load_settings() if IN_FORCE in names else load_settings(profile="locked-v1")


def _profile_named(name: str, settings: Settings) -> Profile:
    from quantum_core.profiles.files import ProfileFileError, load

    if name == IN_FORCE:
        from resources.store.profiles import profile_now
        from resources.store.redis_store import RedisStore

        now = profile_now(RedisStore(settings))
        if now.trouble:
            click.echo(printable(now.trouble), err=True)
        return now.profile
    try:
        return load(name, settings.symbols)
    except ProfileFileError as error:
        _stop(str(error), EXIT_USAGE)


def _is_unreadable(store: RedisStore) -> bool:
    (kind,) = store.run("looking at the record of profiles", [("TYPE", store.keys.of("profiles"))])
    return kind not in (b"stream", b"none")


def _why_not(one: Use, settings: Settings) -> str:
    """Say why a use cannot take effect; empty when it can."""
    from quantum_core.profiles.in_force import in_force

    try:
        in_force(one.profile(), settings)
    except ValueError as error:
        return str(error)
    return ""


def _state(one: Use, now: InForce) -> str:
    if now.use is not None and one.entry == now.use.entry:
        return IN_FORCE
    return "waits" if now.waiting is not None and one.entry == now.waiting.entry else ""


# --- what is printed ------------------------------------------------------------------------------------------------------------


def _head(one: Profile) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": one.version,
        "fingerprint": one.fingerprint,
        "note": one.note,
        "candle_interval_sec": one.candle_interval_sec,
    }


def _as_json(one: Difference) -> dict[str, Any]:
    return {"symbol": one.symbol or None, "parameter": one.path, "a": one.before, "b": one.after, "loosened": one.loosened}


def _path(one: Difference) -> str:
    return f"{one.path} of {one.symbol}" if one.symbol else one.path


def value_text(value: Any) -> str:
    """Write a parameter's value as a file has it."""
    if value is None:
        return UNSET
    return json.dumps(value) if isinstance(value, bool | str | list) else f"{value:.10g}"


def range_text(metadata: Mapping[str, Any]) -> str:
    """Say which values of a parameter are accepted, from its declaration."""
    from quantum_core.kernels.governor.limits import LEAST

    if metadata["choices"]:
        return " or ".join(json.dumps(choice) for choice in metadata["choices"])
    if metadata["kind"] is bool:
        return "true or false"
    low, high = metadata["low"], metadata["high"]
    bounds = [
        "" if low < -1e300 else "> 0" if low == LEAST else f">= {low:g}",
        "" if high > 1e300 else f"<= {high:g}",
    ]
    return ", ".join(filter(None, bounds)) or "any"


def _print_parameters(chosen: Profile, symbol: str) -> None:
    from quantum_core.contracts.schema import ACCOUNT
    from quantum_core.profiles.profile import LOCKED, flat_parameters, leaves
    from quantum_ops.cli.layout import Column, console, paragraph, records

    out = console()
    of = "" if symbol == ACCOUNT else f" for {symbol}: {chosen.fingerprint_of(symbol)}"
    out.print(paragraph(out, f"{chosen.name}, version {chosen.version}, fingerprint {chosen.fingerprint}{of}", "bold"))
    meant = f"Candles of {chosen.candle_interval_sec} s. " if chosen.candle_interval_sec else ""
    if text := f"{meant}{chosen.note}".strip():
        out.print(paragraph(out, text))
    values, locked = flat_parameters(chosen, symbol), flat_parameters(LOCKED)
    columns = (
        Column("parameter"),
        Column("value", right=True),
        Column("locked-v1", right=True, labelled=True),
        Column("accepted"),
        Column("meaning"),
    )
    for section, theta in chosen.sections.items():
        rows = []
        for leaf, field in leaves(theta).items():
            value, locked_value = values.get(f"{section}.{leaf}"), locked.get(f"{section}.{leaf}")
            differs = value_text(locked_value) if locked_value != value else ""
            rows.append((leaf, value_text(value), differs, range_text(field.metadata), field.metadata["meaning"]))
        out.print(records(out, columns, rows, title=section))
    _print_evidence(chosen)
    if symbol == ACCOUNT and chosen.symbols:
        out.print(paragraph(out, f"Symbols with parameters of their own: {', '.join(sorted(chosen.symbols))}. See: --symbol"))


def _print_evidence(chosen: Profile) -> None:
    from quantum_core.profiles.profile import flattened
    from quantum_ops.cli.layout import Column, console, records

    if rows := [(name, one if isinstance(one, str) else json.dumps(one)) for name, one in flattened(chosen.evidence)]:
        out = console()
        out.print(records(out, (Column("of"), Column("value")), rows, title="evidence"))


def _print_differences(changes: Sequence[Difference], label_a: str, label_b: str) -> None:
    from quantum_ops.cli.layout import Column, console, paragraph, records

    out = console()
    if not changes:
        out.print(paragraph(out, f"No parameter differs: {label_a}; {label_b}"))
        return
    columns = (
        Column("symbol"),
        Column("parameter"),
        Column("A", right=True, labelled=True),
        Column("B", right=True, labelled=True),
        Column("", colours={"LOOSENED": "bold red"}),
    )
    rows = [
        (one.symbol or "all", one.path, value_text(one.before), value_text(one.after), "LOOSENED" if one.loosened else "")
        for one in changes
    ]
    out.print(paragraph(out, f"A {label_a}"))
    out.print(paragraph(out, f"B {label_b}"))
    out.print(records(out, columns, rows))
    if loosened := [_path(one) for one in changes if one.loosened]:
        out.print(paragraph(out, f"B loosens safety limits: {', '.join(loosened)}", "bold red"))


def _print_history(rows: Sequence[tuple[Use, str, str]], now: InForce, settings: Settings) -> None:
    from quantum_core.display import moment_text
    from quantum_ops.cli.layout import Column, console, paragraph, records

    out = console()
    by = f"by {now.use.by}" if now.use is not None else f"PROFILE={settings.profile} of the settings"
    out.print(paragraph(out, f"In force: {now.profile.name} {now.profile.fingerprint}, {by}", "bold"))
    if now.trouble:
        out.print(paragraph(out, now.trouble, "bold red"))
    if not rows:
        out.print(paragraph(out, "No use is on record."))
        return
    columns = (
        Column("when"),
        Column("profile"),
        Column("fingerprint"),
        Column("", colours={IN_FORCE: "green", "cannot be used": "red"}),
        Column("by", labelled=True),
        Column("reason"),
        Column("why", labelled=True),
    )
    shown = [
        (moment_text(one.at), one.name, one.fingerprint, "cannot be used" if why else state, one.by, one.reason, why)
        for one, why, state in rows
    ]
    out.print(records(out, columns, shown))


def _stop(text: str, code: int) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)


profile.add_command(try_profiles)
