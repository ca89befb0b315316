"""What the desk sees of openings, alerts and symbols, and how its pages and the banner say it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from quantum_core.contracts.tables import MARKET_STATE, POSITION, RISK_PROPOSAL
from quantum_core.failure import Failure
from quantum_ops.desk import banner
from quantum_ops.desk import pages as desk_pages
from quantum_ops.desk.chart import Level, Mix, Point, price_chart
from quantum_ops.desk.history import History, read_history
from quantum_ops.desk.overview import DeskReader, read_faults, read_openings, read_rows, read_symbol
from quantum_ops.desk.rows import Faults, Row, _stop_last
from quantum_ops.desk.standing import ALERTS_UNREADABLE, WATCHER_SILENT, Alert, Openings, Standing, active_alerts
from quantum_ops.desk.webserver import DeskPages
from resources.governor.judge import judge
from resources.governor.plan import Plan
from resources.governor.switches import arm, disarm, kill
from resources.instance.dagster_internals import storage_id
from resources.store.failures import record_failures
from resources.store.lease import other_holder
from resources.store.redis_store import RedisStore
from tests.world import run_cycle, write_position, write_world

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
AT = 1_769_083_200.0


@pytest.fixture
def world(store: RedisStore, instance: dg.DagsterInstance) -> RedisStore:
    """Three symbols with a position each, after one cycle."""
    write_world(store)
    run_cycle(store, instance)
    store.client.set(store.keys.of("alerts_active"), "[]")
    return store


def rows_of(store: RedisStore) -> dict[str, Row]:
    return {row.symbol: row for row in read_rows(store, SYMBOLS, read_faults(store, SYMBOLS))}


def well(**changes: object) -> Standing:
    return Standing(**{"at": AT, "openings": Openings(), "fresh": 3, "symbols": 3, **changes})


def test_a_healthy_symbol_shows_its_position_stop_and_state(world) -> None:
    row = rows_of(world)["BTCUSDT"]
    published = {name.decode(): value.decode() for name, value in world.client.hgetall("quantum:risk:proposal:BTCUSDT").items()}
    assert (row.health, row.why, row.side, row.qty, row.blocked_by) == ("ok", "", "LONG", 2.0, "")
    assert row.stop == float(published["proposed_sl"])  # in full precision
    assert row.stop_distance == pytest.approx(1 - row.stop / row.price)
    assert row.regime in ("trend", "mr", "chop")
    assert row.action == world.client.hget("quantum:harvest:proposal:BTCUSDT", "harvest_action").decode()


def test_the_failing_symbol_comes_first_with_its_cause_and_since_when(world, clock) -> None:
    """A table of 566 symbols is read from above."""
    record_failures(world, "market_state", SYMBOLS, {"SOLUSDT": "candles_stale: 430 s > 420 s"}, "c")
    record_failures(world, "risk_proposal", SYMBOLS, {"SOLUSDT": "market_state_stale: 190 s > 180 s"}, "c")
    first = read_rows(world, SYMBOLS, read_faults(world, SYMBOLS))[0]
    assert (first.symbol, first.health, first.since) == ("SOLUSDT", "failed", clock.now.timestamp())
    assert first.why == "market state: no new candles (7 min 10 s old, limit 7 min)"
    assert DeskReader(world).standing().unfresh == ("SOLUSDT",)


def test_a_deployment_that_has_stopped_is_not_fresh(world, clock) -> None:
    """Old hashes stand for a while and look like numbers."""
    clock.advance(1000)
    standing = DeskReader(world).standing()
    assert (standing.fresh, standing.symbols) == (0, 3)
    assert {row.health for row in rows_of(world).values()} == {"stale"}
    assert rows_of(world)["BTCUSDT"].why.startswith("candles stale")  # the cause before what follows from it


def test_a_crossed_stop_and_an_edited_hash_are_named(world) -> None:
    world.client.hset("quantum:harvest:proposal:ETHUSDT", "R_net", "99")
    assert rows_of(world)["ETHUSDT"].why.startswith("harvest proposal unreadable (digest: ")
    assert DeskReader(world).standing().unfresh == ("ETHUSDT",)  # banner and table count alike
    key = "quantum:risk:proposal:BTCUSDT"
    texts = {name.decode(): text.decode() for name, text in world.client.hgetall(key).items()} | {"sl_breached": "1"}
    world.client.hset(key, mapping={"sl_breached": "1", "digest": RISK_PROPOSAL.digest(texts)})
    assert rows_of(world)["BTCUSDT"].health == "stop crossed"


def test_a_position_that_is_gone_leaves_no_stop_behind(world) -> None:
    """Its proposals stay in Redis for a while."""
    world.client.hset(world.keys.of(POSITION.key, "BTCUSDT"), "held", "0")
    row = rows_of(world)["BTCUSDT"]
    assert (row.held, row.side, row.stop, row.action) == (False, None, None, None)


def shown_of(store: RedisStore) -> Standing:
    return DeskReader(store).standing()


def test_example_data_is_labelled_as_long_as_it_is_shown_also_when_its_feed_is_dead(store, instance, clock) -> None:
    """A feed that hangs renews its label no more; its positions and stops are shown for an hour."""
    write_world(store)
    for symbol in SYMBOLS:
        write_position(store, symbol, source="example")
    run_cycle(store, instance)
    assert shown_of(store).notice.startswith("EXAMPLE DATA, not live; its feed has been silent")  # it says nothing at all
    store.client.set(store.keys.of("banner"), "EXAMPLE DATA, not live. Recorded candles.")
    assert shown_of(store).notice == "EXAMPLE DATA, not live. Recorded candles."
    clock.advance(130)
    for said in ("EXAMPLE DATA, not live. Recorded candles.", ""):
        store.client.set(store.keys.of("banner"), said)
        (part,) = [part for part in banner.parts(shown_of(store)) if part.link == "#data"]
        assert (part.level, part.text) == (
            "notice",
            "EXAMPLE DATA, not live; its feed has been silent for 2 min 10 s, since 12:00 UTC",
        )
    store.client.delete(store.keys.of("banner"), *(store.keys.of("harvest_proposal", symbol) for symbol in SYMBOLS))
    assert {row.source for row in rows_of(store).values()} == {"example"}
    assert "is labelled example" in shown_of(store).notice


def test_live_data_carries_no_label(world, clock) -> None:
    clock.advance(130)
    assert shown_of(world).notice == ""


def page_of(store: RedisStore, symbol: str = "BTCUSDT") -> str:
    return desk_pages.symbol_page(read_symbol(store, symbol), History(), well(at=store.clock().timestamp()), "", "n")


@pytest.mark.slow
def test_a_price_that_nobody_renews_is_old_however_lately_it_was_computed_with(world, clock, instance) -> None:
    """The execution side may be dead for minutes while every cycle computes with its last mark."""
    price = rows_of(world)["BTCUSDT"].price
    text = desk_pages.price_text(price)
    assert "<small>0 s old</small>" in desk_pages.overview(well(), [Row("X", price=price, mark_at=AT)], "", "n")
    clock.advance(50)
    run_cycle(world, instance)
    assert rows_of(world)["BTCUSDT"].health == "ok"
    clock.advance(30)
    run_cycle(world, instance)
    row = rows_of(world)["BTCUSDT"]
    assert (row.health, row.why) == ("warning", "the price is 1 min 20 s old: its source has not renewed it")
    assert f'<div class="value dim">{text}' in page_of(world)
    assert "all fresh, the price is old" in page_of(world)
    assert banner.parts(DeskReader(world).standing())[1][:2] == ("notice", "3 of 3 symbols fresh, 3 with an old price")
    assert f'<td class="n dim">{text}' in desk_pages.overview(well(at=clock.now.timestamp()), [row], "", "n")
    world.client.hdel(world.keys.of("raw_position", "BTCUSDT"), "ts_epoch")
    run_cycle(world, instance)
    assert rows_of(world)["BTCUSDT"].mark_at is None
    assert "age unknown" in page_of(world)


def test_the_last_stop_of_a_failing_symbol_stays_in_sight(world) -> None:
    """Its hash lives for 100 s; the position it protects, for longer."""
    stop = rows_of(world)["BTCUSDT"].stop
    assert rows_of(world)["BTCUSDT"].stop_last == ""
    record_failures(world, "risk_proposal", SYMBOLS, {"BTCUSDT": "market_state_stale: 190 s > 180 s"}, "c")
    assert (rows_of(world)["BTCUSDT"].stop, rows_of(world)["BTCUSDT"].stop_last) == (stop, "last, published 12:00 UTC")
    assert "<small>last, published 12:00 UTC</small>" in desk_pages.overview(well(), list(rows_of(world).values()), "", "n")
    key = world.keys.of(POSITION.key, "BTCUSDT")
    texts = {name.decode(): text.decode() for name, text in world.client.hgetall(key).items()} | {"current_sl": repr(stop)}
    world.client.hset(key, mapping={**texts, "digest": POSITION.digest(texts)})  # as the next cycle tracks it
    world.client.delete(world.keys.of(RISK_PROPOSAL.key, "BTCUSDT"))
    assert (rows_of(world)["BTCUSDT"].stop, rows_of(world)["BTCUSDT"].stop_last) == (stop, "last, published before 12:00 UTC")
    assert "last, published before 12:00 UTC; none is proposed now" in page_of(world)


def test_the_card_of_ages_is_whole_and_names_each_asset_once(world, clock) -> None:
    """It was cut at seven lines, and a failing asset was in it twice."""
    clock.advance(200)
    record_failures(world, "market_state", SYMBOLS, {"BTCUSDT": "candles_stale: 430 s > 420 s"}, "c")
    card = page_of(world).partition("Age of everything")[2].partition("</section>")[0]
    assert card.count("market state: ") == 1
    assert "governor permit: " in card
    assert '<section class="card whole"><h2>Age of everything' in page_of(world)


def test_what_blocks_an_opening_is_what_the_governor_says(world) -> None:
    """A second opinion would be a second truth."""
    kill(world, reason="prices are wrong", by="Ada")
    judged = {
        one.plan.symbol: one.reason
        for one in judge(world, [Plan("0-0", s, s, "OPEN", "EXECUTE") for s in SYMBOLS], world.clock())
    }
    assert {symbol: row.blocked_by for symbol, row in rows_of(world).items()} == judged
    assert set(judged.values()) == {"kill_switch_active"}
    arm(world, name="Ada", reason="prices are right")
    assert {row.blocked_by for row in rows_of(world).values()} == {""}


def test_candles_are_read_only_of_symbols_whose_market_state_does_not_vouch_for_them(world, clock) -> None:
    """The candles of 566 symbols cost as much as everything else on the page."""

    def scripts_run() -> int:
        counted = world.client.info("commandstats")
        return sum(counted.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval_ro", "evalsha_ro"))

    for newest_age_sec, read in ((None, 0), (1000, 1), (-1000, 1)):
        if newest_age_sec is not None:
            newest = int(clock.now.timestamp() - newest_age_sec)
            world.client.hset(world.keys.of(MARKET_STATE.key, "ETHUSDT"), "ts_timestamp", newest)
        before = scripts_run()
        faults = read_faults(world, SYMBOLS)
        assert scripts_run() - before == read
        assert not any(one.old for one in faults.values())


def test_asking_the_gates_alone_gives_the_same_reasons(world) -> None:
    plans = [Plan("0-0", symbol, symbol, "OPEN", "EXECUTE") for symbol in SYMBOLS]
    world.client.hset(world.keys.of(POSITION.key, "ETHUSDT"), "qty", "x")
    whole, asked = judge(world, plans, world.clock()), judge(world, plans, world.clock(), recorded=False)
    assert [(one.reason, one.reason_beyond) for one in asked] == [(one.reason, one.reason_beyond) for one in whole]
    assert [one.permit for one in asked] == [None] * len(plans)


def test_permits_used_up_block_openings_too(world, clock, instance) -> None:
    now = clock.now.timestamp()
    world.client.rpush(world.keys.of("permits_granted", "BTCUSDT"), *(now - 400 - back for back in range(3)))
    run_cycle(world, instance)
    rows = rows_of(world)
    assert (rows["BTCUSDT"].blocked_by, rows["ETHUSDT"].blocked_by) == ("hourly_limit_exceeded", "")


def test_armed_or_blocked_and_why(world, clock) -> None:
    assert read_openings(world) == Openings()
    kill(world, reason="prices are wrong", by="Ada")
    disarm(world, "burst")
    blocked = read_openings(world)
    assert blocked.blocked == ("kill switch: prices are wrong (set by Ada)", "governor disarmed: burst")
    assert "by Ada: prices are wrong" in blocked.details[0]
    arm(world, name="Ada", reason="over")
    expires = (clock.now + timedelta(hours=1)).isoformat()
    world.client.set(world.keys.of("guard_active", "DRAWDOWN"), json.dumps({"reason": "drawdown 12 %", "expires_at": expires}))
    assert read_openings(world).blocked == ("risk guard DRAWDOWN: drawdown 12 %",)
    world.client.delete(world.keys.of("guard_active", "DRAWDOWN"))
    clock.advance(1000)
    assert read_openings(world).blocked[0].startswith("unknown: risk_guard_stale")  # unknown means no


def test_a_silent_watcher_or_an_unreadable_list_is_an_alert() -> None:
    """An empty list means that all is well; no list means that nobody looks."""
    assert active_alerts(None) == [Alert(WATCHER_SILENT)]
    for broken in (b"{", b'{"title": 1}', b"[1]", b'[{"level": "x"}]', b"3"):
        assert active_alerts(broken) == [Alert(ALERTS_UNREADABLE)], broken
    told = {"alert": "symbol:X", "title": "X is stale", "since": AT, "symbols": ["X"], "severity": "warn", "kind": "symbol"}
    assert active_alerts(json.dumps([told]).encode()) == [Alert("X is stale", "warn", "symbol", AT, ("X",))]
    assert active_alerts(b'[{"title": "old watcher"}]') == [Alert("old watcher")]


def test_an_alert_that_is_well_again_is_on_the_page_alone(world: RedisStore) -> None:
    """For ten minutes after a fault the banner called it a page, and sent people to look for nothing."""
    ending = {"title": "ETHUSDT: well since 12:00 UTC", "severity": "info", "well_since": 1.0}
    world.client.set(world.keys.of("alerts_active"), json.dumps([ending]))
    standing = DeskReader(world).standing()
    assert ("ok", "no alert", "#alerts") in banner.parts(standing)
    card = desk_pages._alerts_card(standing, "")
    assert "none active, 1 ending" in card
    assert "well since" in card


def test_the_banner_says_how_things_stand_and_links_to_the_detail() -> None:
    said = banner.parts(well())
    assert [(part.level, part.text, part.link) for part in said] == [
        ("ok", "armed", "#openings"),
        ("ok", "3 of 3 symbols fresh", "#symbols"),
        ("ok", "no alert", "#alerts"),
    ]
    text = banner.document(said, "/prefix", "n")
    assert 'class="ok"' in text
    assert 'href="/prefix/desk#alerts"' in text
    played = banner.parts(well(notice="EXAMPLE DATA: replayed. The detail is long."))
    assert (played[-1].text, played[-1].link) == ("EXAMPLE DATA: replayed", "#data")
    assert 'body class="notice"' in banner.document(played, "", "n")


def test_what_was_published_in_the_minute_in_which_it_failed_was_published_before_the_next() -> None:
    """One stop "published 21:17", and later "published before 21:17", is two stories."""
    failure = Failure("BTCUSDT", "candles_stale", 1_769_083_200.0 + 17 * 60 + 12, 1_769_083_200.0, "c")
    assert _stop_last({}, Faults({"risk_proposal": failure}), position_known=True) == "last, published before 12:18 UTC"


def test_the_banner_turns_red_for_what_is_wrong() -> None:
    blocked = banner.parts(well(openings=Openings(("kill switch: x", "risk guard DRAWDOWN"))))
    assert blocked[0].text == "blocked: kill switch: x | and 1 more"
    assert banner.parts(well(fresh=2, unfresh=("ETHUSDT",)))[1].text == "2 of 3 symbols fresh, not ETHUSDT"
    alerts = tuple(Alert(f"alert {number}") for number in range(5))
    assert banner.parts(well(alerts=alerts))[2].text == "5 alerts: alert 0 | alert 1 | alert 2 | and 2 more"
    for standing in (well(openings=Openings(("x",))), well(fresh=2, unfresh=("ETHUSDT",)), well(alerts=alerts)):
        assert 'body class="wrong"' in banner.document(banner.parts(standing), "", "n")
    assert banner.parts(well(alerts=(Alert("x", "warn"),)))[2].level == "notice"


def test_the_alert_that_costs_money_is_named_first_and_a_kill_once() -> None:
    """It was behind "and 1 more"; the reason of the kill stood there twice instead."""
    kinds = ("symbol", "guard", "kill_switch", "stop_crossed", "close_refused")
    alerts = tuple(Alert("Kill switch set by ada: x" if kind == "kill_switch" else kind, kind=kind) for kind in kinds)
    said = banner.parts(well(openings=Openings(("kill switch: x (set by ada)",)), alerts=alerts))
    assert said[2].text == "5 alerts: close_refused | stop_crossed | symbol | and 2 more"
    assert banner.parts(well(alerts=alerts[2:3]))[2].text == "1 alert: kill switch set"


def test_a_redis_that_hangs_is_said_with_what_was_known_and_when(world, instance, make_store) -> None:
    """Before, "blocked: unknown" and the words of a program."""
    reader = DeskReader(world)
    client = Client(Starlette(routes=DeskPages(reader, lambda: instance).routes()))
    assert "armed" in client.get("/banner").text
    hung = DeskReader(make_store(redis_url="redis://127.0.0.1:1"))
    hung.last = reader.last
    client = Client(Starlette(routes=DeskPages(hung, lambda: instance).routes()))
    assert "Redis does not answer; last known, at 12:00:00 UTC: armed" in client.get("/banner").text
    page = client.get("/desk").text
    assert "Redis does not answer; last known, at 12:00:00 UTC: armed" in page
    assert "half-written" not in page
    assert "reading failures" not in page


def test_a_stack_that_stands_by_says_so_on_its_own_pages(world, instance) -> None:
    """Its pages show assets as never materialized while another stack publishes them."""
    client = client_of(world, instance)
    other_holder(world, storage_id(instance))
    assert "standing by" not in client.get("/banner").text
    world.client.set(world.keys.of("lease"), "desk-2:/srv/quantum:0a1b2c3d:4e5f6a7b")
    said = client.get("/banner").text
    assert "standing by: desk-2:/srv/quantum:0a1b2c3d:4e5f6a7b runs the loop; Dagster&#x27;s pages here show only" in said
    assert 'body class="notice"' in said
    assert world.client.get(world.keys.of("lease_rival")) is None  # looking asks for nothing


def test_the_stop_stands_since_it_last_moved() -> None:
    points = [Point(AT, 100, 98, 101), Point(AT + 10, 101, 99.0000001, 102), Point(AT + 20, 101, 99, 102)]
    row = Row("X", stop=99.0, stop_published=AT + 20)
    assert History(proposals=points).stop_since(row) == AT + 10
    assert History().stop_since(row) == AT + 20
    assert History(proposals=points).stop_since(Row("X")) is None


def test_the_path_of_the_stop_is_read_from_the_event_log(world, clock, instance) -> None:
    """No record of its own: what was published is a materialization with its stop."""
    clock.advance(70)
    run_cycle(world, instance)
    history = read_history(world, instance, "BTCUSDT")
    row = rows_of(world)["BTCUSDT"]
    assert len(history.proposals) == 2
    assert history.proposals[-1].stop == pytest.approx(row.stop, rel=1e-5)
    assert len(history.mixes) == 2
    assert sum(history.mixes[-1][1:]) == pytest.approx(1, abs=1e-5)
    assert len(history.prices) == 240


def test_a_chart_shows_path_levels_and_regimes_and_survives_anything() -> None:
    prices = [(AT + 60 * step, 100 + step % 5) for step in range(60)]
    points = [Point(AT, 100, 98, 104), Point(AT + 600, 101, None, None), Point(AT + 1200, 102, 99, 105)]
    levels = [Level("price", 101.0), Level("stop", 101.0001), Level("target", 101.3), Level("entry", 101.0)]
    drawn = price_chart(prices, points, [Mix(AT, 0.3, 0.2, 0.5)], levels, since=AT, until=AT + 3600)
    assert drawn.count('<polyline class="stop"') == 2  # a gap where there was none
    assert all(word in drawn for word in ("entry 101.00", "mean-reverting"))
    assert "nan" not in drawn
    assert price_chart([], points, [], levels, since=AT, until=AT + 1) == ""
    assert "<svg" in price_chart([(AT, 1e-9)], [], [], [], since=AT, until=AT + 1)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Headers
    text: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.text)


@dataclass(frozen=True)
class Client:
    """Asks the pages without a server."""

    app: Starlette

    def get(
        self, address: str, accept: str = "text/html", method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> Answer:
        path, _, query = address.partition("?")
        sent: list[dict[str, Any]] = []

        async def ask() -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b""}

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            told = [(b"host", b"localhost"), (b"accept", accept.encode()), *headers]
            scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": told}
            await self.app(scope, receive, send)

        asyncio.run(ask())
        body = b"".join(message.get("body", b"") for message in sent)
        return Answer(sent[0]["status"], Headers(raw=sent[0]["headers"]), body.decode(errors="replace"))


def client_of(store: RedisStore, instance: dg.DagsterInstance, prefix: str = "") -> Client:
    return Client(Starlette(routes=DeskPages(DeskReader(store), lambda: instance, prefix).routes()))


def test_pages_for_people_and_json_for_programs_under_one_address(world, instance) -> None:
    client = client_of(world, instance, "/q")
    for path in ("/q/desk", "/q/desk/BTCUSDT"):
        page = client.get(path, "text/html,application/json;q=0.9")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "'unsafe-inline'" not in page.headers["content-security-policy"]
        assert 'href="/q/desk' in page.text
        for answer in (client.get(path, "application/json"), client.get(f"{path}?format=json")):
            assert answer.headers["content-type"] == "application/json"
    row = {one["symbol"]: one for one in client.get("/q/desk?format=json").json["symbols"]}["BTCUSDT"]
    assert repr(row["stop"]) == world.client.hget("quantum:risk:proposal:BTCUSDT", "proposed_sl").decode()  # full precision
    assert client.get("/q/desk/BTCUSDT?format=json").json["stop_since"]
    assert client.get("/q/banner").text.count("<script") == 1
    assert client.get("/q/desk", method="POST").status == 405


def test_the_page_of_all_symbols_is_small(world, instance) -> None:
    """A browser on a phone loads 566 rows of it, every ten seconds."""
    answer = client_of(world, instance).get("/desk", headers=[(b"accept-encoding", b"gzip")])
    assert answer.headers["content-encoding"] == "gzip"
    row = client_of(world, instance).get("/desk").text.partition("data-live><tr>")[2].partition("<tr")[0]
    assert "BTCUSDT" in row
    assert len(row) < 600


def test_an_unknown_symbol_and_an_absent_redis_are_said(world, instance, make_store) -> None:
    hostile = "<script>window.pwned=1</script>"
    unknown = client_of(world, instance).get(f"/desk/{hostile}")
    assert unknown.status == 404
    assert hostile not in unknown.text
    away = client_of(make_store(redis_url="redis://127.0.0.1:1"), instance)
    assert away.get("/desk").status == 503
    assert "does not answer" in away.get("/banner").text
    assert "error" in away.get("/desk?format=json").json


def test_odd_names_are_links_that_lead_back_to_them() -> None:
    assert desk_pages.address("", "1000PEPE/USDT:LONG") == "/desk/1000PEPE%2FUSDT%3ALONG"
    page = desk_pages.overview(well(), [Row("A&B<i>", held=False)], "", "n")
    assert 'href="/desk/A%26B%3Ci%3E">A&amp;B&lt;i&gt;</a>' in page


def test_an_event_log_that_cannot_be_read_costs_the_path_only(world) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    history = read_history(world, SimpleNamespace(fetch_materializations=fail), "BTCUSDT")
    assert "event log cannot be read" in history.note
    assert len(history.prices) == 240
    found = read_symbol(world, "BTCUSDT")
    assert "<svg" in desk_pages.symbol_page(found, history, well(at=world.clock().timestamp()), "", "n")
