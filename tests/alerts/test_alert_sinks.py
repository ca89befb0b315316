"""Alert sinks: a real HTTP server and a real mail server on loopback get every message once, in order, however late."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from aiosmtpd.controller import Controller
from apprise.plugins.ntfy import NotifyNtfy
from apprise.plugins.slack import NotifySlack
from pydantic import SecretStr

from quantum_ops.alerts.answers import REFUSED_TRIES
from quantum_ops.alerts.outbox import Outbox
from quantum_ops.alerts.sinks import (
    AppriseSink,
    DeliveryError,
    StreamSink,
    WrongAlertUrlError,
    from_json,
    hide,
    sinks,
    to_json,
)
from quantum_ops.alerts.words import Message
from tests.servers import free_port

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # Apprise imports it where Python still has it
PASSWORD = "hunter2secret"  # noqa: S105 - the tests' own


class HttpSink:
    """An HTTP server that keeps what is posted to it, and refuses as often as it is told to."""

    def __init__(self) -> None:
        self.posted: list[dict[str, str]] = []
        self.refusals = 0
        self.attempts = 0
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.attempts += 1
                refused = sink.attempts <= sink.refusals
                if not refused:
                    sink.posted.append(body)
                self.send_response(503 if refused else 200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = SecretStr(f"json://watch:{PASSWORD}@127.0.0.1:{self.server.server_port}/hook")
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


class Topics(HttpSink):
    """An ntfy server, the plugin is the real one: each recipient is a topic, and answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.asked: list[tuple[str, float]] = []
        self.answer: dict[str, list[tuple[int, dict[str, str]]]] = {}  # by topic: the next answers, the last one for ever
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                topic = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["topic"]
                sink.asked.append((topic, time.monotonic()))
                answers = sink.answer.get(topic, [(200, {})])
                status, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                if status == 200:
                    sink.got.append(topic)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "2"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def sinks(self, *topics: str) -> list[AppriseSink]:
        return AppriseSink(SecretStr(f"ntfy://127.0.0.1:{self.server.server_port}/{'/'.join(topics)}"), 1).recipients()


@pytest.fixture
def topics(monkeypatch) -> Iterator[Topics]:
    monkeypatch.setattr(NotifyNtfy, "request_rate_per_sec", 0)  # Apprise's own pause of 5.5 s
    sink = Topics()
    yield sink
    sink.server.shutdown()
    sink.server.server_close()


class MailBox:
    """What arrived at the mail server."""

    def __init__(self) -> None:
        self.received: list[str] = []

    async def handle_RCPT(self, server, session, envelope, address: str, options) -> str:  # noqa: ARG002, N802
        if address.startswith("gone"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: object, session: object, envelope: object) -> str:  # noqa: ARG002, N802
        self.received.append(envelope.content.decode())
        return "250 OK"


@pytest.fixture
def http_sink() -> Iterator[HttpSink]:
    sink = HttpSink()
    yield sink
    sink.server.shutdown()
    sink.server.server_close()


@pytest.fixture
def mail() -> Iterator[tuple[MailBox, SecretStr]]:
    box = MailBox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    url = f"mailto://127.0.0.1:{controller.port}/?smtp=127.0.0.1&mode=insecure&from=watch@example.com&to=ops@example.com"
    yield box, SecretStr(url)
    controller.stop()


@pytest.fixture
def outbox(clock) -> Iterator[Callable[..., Outbox]]:
    """Start outboxes that hardly pause, and stop them."""
    started: list[Outbox] = []

    def start(sink, pending=(), **options) -> Outbox:
        box = Outbox(sink, clock, pending, **{"first_pause_sec": 0.01, **options})
        started.append(box)
        box.start()
        return box

    yield start
    for box in started:
        box.stop(5)


def message(clock, number: int = 1, *, event: str = "raised", age_sec: float = 0) -> Message:
    at = clock.now.timestamp() - age_sec
    return Message(
        event,
        "symbol:BTCUSDT",
        "failure",
        f"number {number}",
        "Since: then\nLook: here",
        ("BTCUSDT",),
        at,
        "60 s",
        at,
        kind="symbol",
    )


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_message_arrives_at_an_http_sink_with_title_text_and_level(http_sink, clock):
    """What on-call tools show and sort by."""
    AppriseSink(http_sink.url, 1).deliver(message(clock))
    (posted,) = http_sink.posted
    assert posted["title"] == "[quantum] raised: number 1"
    assert posted["message"] == "Since: then\nLook: here"
    assert posted["type"] == "failure"


def test_the_end_of_an_alert_is_good_news(http_sink, clock):
    """A tool that opens a ticket on failure closes it on success."""
    AppriseSink(http_sink.url, 1).deliver(message(clock, event="cleared"))
    assert http_sink.posted[0]["type"] == "success"


def test_a_message_arrives_by_mail(mail, clock, outbox):
    """The sink everybody has."""
    box, url = mail
    outbox(AppriseSink(url, 1)).put([message(clock)])
    assert within(5, lambda: box.received)
    assert "[quantum] raised: number 1" in box.received[0]
    assert "To: ops@example.com" in box.received[0].replace('"ops@example.com" <ops@example.com>', "ops@example.com")
    assert len(box.received) == 1


HOSTILE = "<script>x()</script> & <!channel> *b* [x](http://evil)\r\nBcc: evil@example.com\n\n<b>y"


def test_hostile_text_is_only_text_in_a_mail(mail, clock):
    """No markup, no header and no recipient comes out of what somebody wrote into Redis."""
    box, url = mail
    AppriseSink(url, 1).deliver(replace(message(clock), title=HOSTILE, text=HOSTILE))
    (sent,) = map(message_from_string, box.received)
    assert sent.get_content_type() == "text/plain"
    assert not sent.is_multipart()
    assert "Bcc" not in sent
    assert "evil" not in sent["To"]
    assert sent.get_payload(decode=True).decode().splitlines()[:2] == HOSTILE.splitlines()[:2]


def test_hostile_text_is_only_text_in_a_chat(http_sink, clock, monkeypatch):
    """The chat service is ours for once, its plugin is the real one: nobody is called, nothing is a link."""
    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{http_sink.server.server_port}/services")
    AppriseSink(SecretStr("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"), 1).deliver(
        replace(message(clock), title=HOSTILE, text=HOSTILE)
    )
    (posted,) = http_sink.posted
    (shown,) = posted["attachments"]
    assert posted["mrkdwn"] is False
    for text in (shown["title"], shown["text"]):
        assert "&lt;!channel&gt;" in text
        assert "<" not in text


def test_a_sink_that_fails_first_gets_every_message_once_and_in_order(http_sink, clock, outbox):
    """A raise that overtakes its clear leaves an alarm on for ever."""
    http_sink.refusals = 3
    box = outbox(AppriseSink(http_sink.url, 1))
    box.put([message(clock, number) for number in range(5)])
    assert within(5, lambda: len(http_sink.posted) == 5)
    assert [posted["title"][-1] for posted in http_sink.posted] == list("01234")
    assert within(1, lambda: box.state().delivered == 5)
    assert (box.state().pending, box.state().failures, box.state().last_error) == (0, 3, "")


def test_a_sink_that_is_away_is_visible_and_tells_no_secret(clock, outbox):
    """Who looks at the health of the watcher must not learn the password, and must learn what is wrong."""
    box = outbox(AppriseSink(SecretStr(f"json://watch:{PASSWORD}@127.0.0.1:{free_port()}/hook"), 2))
    box.put([message(clock)])
    assert within(5, lambda: box.state().failures)
    state = box.state()
    assert (state.name, state.pending, state.delivered) == ("2:json", 1, 0)
    assert "Connection error" in state.last_error
    assert PASSWORD not in state.last_error


def test_one_slow_sink_holds_up_no_other(http_sink, clock, outbox):
    """The mail server that hangs must not keep the pager silent."""
    release = threading.Event()

    class Hanging:
        name = identity = "hanging"
        severities = frozenset({"page"})

        def prepare(self) -> None:
            pass

        def deliver(self, _: Message) -> None:
            release.wait(10)

    hanging, quick = outbox(Hanging()), outbox(AppriseSink(http_sink.url, 2))
    for box in (hanging, quick):
        box.put([message(clock)])
    assert within(5, lambda: http_sink.posted)
    assert hanging.state().pending == 1
    release.set()


def test_pauses_between_attempts_grow(clock, outbox):
    """A service that is down is not helped by being asked a hundred times a second."""
    attempts: list[float] = []

    class Refusing:
        name = identity = "refusing"
        severities = frozenset({"page"})

        def prepare(self) -> None:
            pass

        def deliver(self, _: Message) -> None:
            attempts.append(time.monotonic())
            text = "no"
            raise DeliveryError(text)

    box = outbox(Refusing(), first_pause_sec=0.05)
    box.put([message(clock)])
    assert within(5, lambda: len(attempts) == 4)
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


def test_a_message_a_service_refuses_holds_up_no_other_alert(clock, outbox):
    """One text too long for a pager once kept every later alert waiting for a day; what belongs together stays in order."""
    taken: list[tuple[str, str]] = []

    class Picky:
        name = identity = "picky"
        severities = frozenset({"page"})

        def prepare(self) -> None:
            pass

        def deliver(self, one: Message) -> None:
            if one.alert == "refused":
                text = "too long"
                raise DeliveryError(text)
            taken.append((one.alert, one.event))

    box = outbox(Picky(), first_pause_sec=0.01)
    refused = [replace(message(clock, event=event), alert="refused") for event in ("raised", "cleared")]
    others = [replace(message(clock, event=event), alert="other") for event in ("raised", "cleared")]
    box.put([refused[0], others[0], refused[1], others[1]])
    assert within(5, lambda: len(taken) == 2)
    assert taken == [("other", "raised"), ("other", "cleared")]
    assert [one.event for one in box.undelivered()] == ["raised", "cleared"]


def test_a_message_that_could_not_be_delivered_within_a_day_is_given_up_and_counted(http_sink, clock, outbox):
    """Yesterday's alarms, all at once, would bury today's."""
    box = outbox(AppriseSink(http_sink.url, 1))
    box.put([message(clock, 1, age_sec=86401), message(clock, 2)])
    assert within(5, lambda: box.state().pending == 0)
    assert [posted["title"][-1] for posted in http_sink.posted] == ["2"]
    assert (box.state().given_up, box.state().delivered) == (1, 1)


def test_what_was_not_delivered_survives_a_restart(http_sink, clock, outbox):
    """The watcher is restarted just when things go wrong."""
    http_sink.refusals = 10**6
    first = outbox(AppriseSink(http_sink.url, 1))
    first.put([message(clock, number) for number in range(3)])
    assert within(5, lambda: http_sink.attempts)
    first.stop(5)
    kept = [from_json(json.loads(json.dumps(to_json(one)))) for one in first.undelivered()]
    assert kept == [message(clock, number) for number in range(3)]
    http_sink.refusals = 0
    outbox(AppriseSink(http_sink.url, 1), kept)
    assert within(5, lambda: len(http_sink.posted) == 3)


def test_the_stream_gets_every_field(store, clock):
    """Other programs act on alerts, too."""
    StreamSink(store).deliver(message(clock))
    ((_, fields),) = store.client.xrange("quantum:stream:alerts")
    assert {name.decode(): value.decode() for name, value in fields.items()} == {
        "event": "raised", "alert": "symbol:BTCUSDT", "level": "failure", "title": "number 1", "symbols": "BTCUSDT",
        "kind": "symbol", "severity": "page",
        "text": "Since: then\nLook: here", "since": "1769083200", "limit": "60 s", "timestamp": "1769083200",
        "profile": store.settings.own_profile.fingerprint,
    }  # fmt: skip


def test_the_stream_that_is_away_or_something_else_keeps_the_message(make_store, clock):
    """It is delivered when the server is back; that Redis was away is news for the stream, too."""
    store = make_store()
    store.client.set("quantum:stream:alerts", "x")
    with pytest.raises(DeliveryError, match="cannot be used as a stream"):
        StreamSink(store).deliver(message(clock))
    with pytest.raises(DeliveryError, match=r"127\.0\.0\.1:1"):
        StreamSink(make_store(redis_url="redis://127.0.0.1:1")).deliver(message(clock))


@pytest.mark.parametrize("url", ["nosuchservice://token/hunter2secret", "mailto://", "just words"])
def test_an_entry_that_is_no_apprise_url_is_named_by_its_place(clock, url):
    """Settings are mended by their owner, who knows what stands there."""
    with pytest.raises(WrongAlertUrlError, match="entry 3:") as caught:
        AppriseSink(SecretStr(url), 3).deliver(message(clock))
    assert "hunter2secret" not in str(caught.value)


def test_every_part_of_a_url_is_taken_out_of_a_text():
    """Tokens are user, password, host, path or parameter, as each service likes it."""
    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnl%2Fazk?footer=p%20wd"
    text = "posting to T1JJ3T3L2 with A1BRTD4JD, TIiajkdnl/azk and p wd failed: 403 Forbidden"
    hidden = hide(text, url)
    assert not any(secret in hidden for secret in ("T1JJ", "A1BR", "azk", "p wd"))
    assert hidden.endswith("failed: 403 Forbidden")


def test_the_sinks_are_the_stream_and_every_url_in_order(make_store, clock):
    """The names in the health report are places in ALERT_URLS."""
    store = make_store(alert_urls="json://127.0.0.1:1, mailto://user:pw@example.com")
    assert [sink.name for sink in sinks(store.settings, clock)] == ["redis stream", "1:json", "2:mailto"]


def test_each_severity_has_its_addresses(make_store):
    """ALERT_URLS takes warnings too until they have a list of their own; notices go to nobody unless somebody asks for them."""
    pages, warns, infos = ("json://127.0.0.1/pages", "json://127.0.0.1/warns", "json://127.0.0.1/infos")

    def routes(**lists: str) -> dict[str, set[str]]:
        settings = make_store(**lists).settings
        return {sink.name: set(sink.severities) for sink in sinks(settings, lambda: None)[1:]}

    assert routes(alert_urls=pages) == {"1:json": {"page", "warn"}}
    assert routes(alert_urls=pages, alert_urls_warn=warns) == {"1:json": {"page"}, "warn 1:json": {"warn"}}
    assert routes(alert_urls=pages, alert_urls_info=f"{infos},{pages}") == {
        "1:json": {"page", "warn", "info"},
        "info 1:json": {"info"},
    }


def test_a_sink_takes_its_severities_and_the_end_of_what_it_heard_begin(clock, http_sink):
    """A warning that became a failure was raised to both, and is over for both."""
    box = Outbox(AppriseSink(http_sink.url, 1, "ALERT_URLS_WARN", {"warn"}), clock)
    page = message(clock)
    warn = replace(page, severity="warn", routes=("warn",))
    both = replace(page, event="cleared", severity="page", routes=("warn", "page"))
    assert box.taken([page, warn, both]) == [warn, both]


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_who_got_a_message_does_not_get_it_again_because_another_recipient_is_gone(topics, clock, outbox, status):
    """One of two chats was deleted: the other one was sent the same alert with every attempt, for ever."""
    topics.answer["gone"] = [(status, {})]
    boxes = [outbox(sink) for sink in topics.sinks("desk", "gone", "night")]
    assert [box.sink.name for box in boxes] == ["1:ntfy/1", "1:ntfy/2", "1:ntfy/3"]
    for number in range(2):
        for box in boxes:
            box.put([replace(message(clock, number), alert=f"number {number}")])
    assert within(5, lambda: sum(topic == "gone" for topic, _ in topics.asked) > 3)
    assert within(5, lambda: len(topics.got) == 4)
    assert sorted(topics.got) == ["desk", "desk", "night", "night"]
    assert all("gone" not in str(box.state()) for box in boxes)


def test_a_mail_to_two_of_whom_one_is_gone_reaches_the_other_once(mail, clock, outbox):
    """Mail is refused by recipient, too; a copy to a third goes with the first one only."""
    box, url = mail
    both = url.get_secret_value().replace("to=ops@example.com", "to=gone@example.com,ops@example.com&cc=chief@example.com")
    found = AppriseSink(SecretStr(both), 1).recipients()
    assert len(found) == 2
    for sink in found:
        sink._service.request_rate_per_sec = 0  # Apprise's own pause of 5.5 s
    boxes = [outbox(sink) for sink in found]
    for one in boxes:
        one.put([message(clock)])
    assert within(5, lambda: sum(one.state().failures for one in boxes) > 3 and box.received)
    assert sum("To: ops@example.com" in sent or "<ops@example.com>" in sent for sent in box.received) == 1


def test_a_service_that_says_no_is_asked_a_dozen_times_and_what_it_missed_is_named(topics, clock, outbox):
    """A chat that was deleted is asked for half an hour, not for ever; the next message is tried."""
    topics.answer["gone"] = [(403, {})]
    (sink,) = topics.sinks("gone")
    box = outbox(sink, first_pause_sec=0.0001)
    box.put([message(clock)])
    assert within(10, lambda: box.state().given_up == 1)
    assert len(topics.asked) == REFUSED_TRIES
    state = box.state()
    assert state.lost.startswith(f"number 1 ({REFUSED_TRIES} attempts; ")
    assert "403" in state.lost
    assert (state.lost_at, state.pending) == (clock.now.timestamp(), 0)
    topics.answer.clear()
    box.put([message(clock, 2)])
    assert within(5, lambda: box.state().delivered == 1)
    assert (box.state().lost, box.state().given_up) == ("", 1)


def test_a_service_that_is_down_is_asked_longer_than_one_that_says_no(topics, clock, outbox):
    """What is down comes back, and nobody has got the message."""
    topics.answer["desk"] = [(503, {})] * (REFUSED_TRIES + 1) + [(200, {})]
    (sink,) = topics.sinks("desk")
    box = outbox(sink, first_pause_sec=0.0001)
    box.put([message(clock)])
    assert within(10, lambda: topics.got == ["desk"])
    assert box.state().given_up == 0


@pytest.mark.parametrize(("status", "asked"), [(429, "1"), (503, "1"), (429, "Thu, 01 Jan 1970 00:00:00 GMT"), (429, "soon")])
def test_a_service_is_left_alone_for_as_long_as_it_asks(topics, clock, outbox, status, asked):
    """Who goes on asking a service that limits him is shut out for longer."""
    topics.answer["desk"] = [(status, {"Retry-After": asked}), (200, {})]
    (sink,) = topics.sinks("desk")
    outbox(sink, first_pause_sec=0.0001).put([message(clock)])
    assert within(5, lambda: topics.got)
    waited = topics.asked[1][1] - topics.asked[0][1]
    assert (waited >= 1) == (asked == "1")


def test_an_address_with_one_recipient_or_none_to_tell_apart_stays_one_sink(http_sink):
    """Its name and its queue are those it had."""
    sink = AppriseSink(http_sink.url, 1)
    assert sink.recipients() == [sink]
    wrong = AppriseSink(SecretStr("nosuchservice://token"), 2)
    assert wrong.recipients() == [wrong]


def test_each_recipient_keeps_its_queue_over_a_restart(topics):
    """Queues are stored by identity: it must not depend on the order of the recipients."""
    first = {sink.identity for sink in topics.sinks("desk", "night")}
    assert len(first) == 2
    assert first != {sink.identity for sink in topics.sinks("desk", "day")}
