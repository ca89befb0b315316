"""What a wire table is: fields with their formats, a key, a lifetime, and the change that makes a publication due."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from quantum_core.contracts.codecs import EPOCH, INTEGER, TEXT, TIME, Codec, CodecError

if TYPE_CHECKING:
    import polars as pl

PROBABILITY_EPS = 0.001  # docs/spec.md#9-publishing-rules: K or a probability that moved by more is news
ACCOUNT = "account"  # stands in the field ``symbol`` of what is the account's and no symbol's


DIGEST = "digest"


class ContractError(ValueError):
    """A hash does not keep its contract; ``field`` names the offender."""

    def __init__(self, field_name: str, detail: str) -> None:
        super().__init__(f"{field_name}: {detail}")
        self.field = field_name


class Change(enum.Enum):
    """Which change of a field makes a publication due (docs/spec.md#9-publishing-rules)."""

    IGNORED = "never alone"
    EXACT = "any change"
    RELATIVE = "> CHANGE_EPS_PCT relative"
    ABSOLUTE = "> .001 absolute"


@dataclass(frozen=True)
class Field:
    """One field of a wire table.

    Attributes
    ----------
    name, codec, unit, meaning
        As printed in the key reference.
    change
        Whether a change of this field alone makes a publication due.
    plot
        Whether the number is drawn over time in the user interface, all symbols in one plot: only what can be compared across
        symbols (ratios, R, probabilities, distances as fractions), or belongs to the account.
    show
        Whether the number is written as text beside a materialization: prices and amounts, which no plot may mix.
    before
        What a hash that was published before the field existed is taken to say; without it such a hash is unreadable.
    """

    name: str
    codec: Codec
    unit: str
    meaning: str
    change: Change = Change.IGNORED
    plot: bool = False
    show: bool = False
    before: Any = ...


COMMON = (
    Field("symbol", TEXT, "", "the symbol itself"),
    Field("cycle_id", TEXT, "", "cycle that wrote the values; equal across all assets of one cycle"),
    Field("schema", INTEGER, "", "version of this table"),
    Field(
        "computed_at_utc",
        TIME,
        "",
        "last evaluation, also when nothing had to be published; of harvest proposals the publication",
    ),
    Field("last_update_epoch", EPOCH, "s", "last evaluation, also when nothing had to be published"),
    Field("published_at_utc", TIME, "", "when the values were written"),
    Field("digest", TEXT, "", "fingerprint of the fields of the table as written; a value edited since does not match"),
    Field("profile", TEXT, "", "fingerprint of the parameters it was computed with, those of its symbol", before=""),
    Field("profile_name", TEXT, "", "name of the profile they are of", before=""),
)
RENEWED = frozenset({"computed_at_utc", "last_update_epoch", "profile", "profile_name"})  # change while the values stay


@dataclass(frozen=True)
class Stream:
    """A capped stream that receives one entry per publication.

    Attributes
    ----------
    key
        Name, see :class:`quantum_core.contracts.tables.Keys`.
    maxlen
        Approximate cap.
    fields
        Names copied as encoded in the hash, or renamed ``(entry name, hash field)`` pairs; empty means symbol and all fields.
    optional
        Written only with ENABLE_STREAM.
    beside
        Name of a second stream that is given the same entries, empty when there is none: readers of an older name.
    """

    key: str
    maxlen: int
    fields: tuple[str | tuple[str, str], ...] = ()
    optional: bool = False
    beside: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the streams that are given each entry."""
        return (self.key, self.beside) if self.beside else (self.key,)


@dataclass(frozen=True)
class Table:
    """One hash per symbol, or one for the account: its key, lifetime, fields and stream.

    Attributes
    ----------
    asset
        Asset that publishes it.
    key
        Name of the key template in :class:`quantum_core.contracts.tables.Keys`.
    ttl_sec
        Lifetime at default settings.
    ttl_intervals_of
        Settings field of the interval whose tenfold the lifetime is, when it follows one.
    schema
        Version, published with every hash.
    fields
        The columns beside the common stamps.
    stream
        Where each publication is also appended.
    rate_limited
        False when every evaluation is a publication.
    kept_current
        True for state: written at every evaluation, but only a change is a publication.
    presence
        Flag field that is 0 while the row is only kept, not to be acted on.
    dated_by_publication
        True when ``computed_at_utc`` stays with the values it was published with: consumers hash it.
    of_account
        True for the one hash of the account, which carries ``ACCOUNT`` as its symbol.
    outdated
        Says why what stands must not stand beside new values, however little they have changed; empty when it may.
    headline
        Format of the log line of one publication; operators grep for it. Prices in it (unit quote) read as
        :func:`logged_price` writes them.
    """

    asset: str
    key: str
    ttl_sec: int
    fields: tuple[Field, ...]
    stream: Stream | None = None
    schema: int = 1
    ttl_intervals_of: str | None = None
    rate_limited: bool = True
    kept_current: bool = False
    presence: str | None = None
    dated_by_publication: bool = False
    of_account: bool = False
    outdated: Callable[[Mapping[str, Any], Mapping[str, Any]], str] | None = field(default=None, compare=False)
    headline: str = ""
    doc: str = ""
    by_name: Mapping[str, Field] = field(init=False, repr=False, compare=False)
    wire_names: frozenset[bytes] = field(init=False, repr=False, compare=False)
    _wire: Sequence[tuple[str, bytes, Callable[[str], Any]]] = field(init=False, repr=False, compare=False)
    _fingerprinted: Sequence[str] = field(init=False, repr=False, compare=False)
    _fingerprinted_keys: Sequence[bytes] = field(init=False, repr=False, compare=False)
    _headline_prices: Sequence[str] = field(init=False, repr=False, compare=False)

    def lifetime_sec(self, setting: Callable[[str], float]) -> int:
        """Give how long a row lives unless it is renewed, s: its own time, or ten of the intervals that a setting names."""
        return self.ttl_sec if self.ttl_intervals_of is None else 10 * int(setting(self.ttl_intervals_of))

    def __post_init__(self) -> None:
        by_name = {item.name: item for item in (*COMMON, *self.fields)}
        object.__setattr__(self, "by_name", by_name)
        object.__setattr__(self, "_wire", [(name, name.encode(), item.codec.decode) for name, item in by_name.items()])
        object.__setattr__(self, "wire_names", frozenset(name.encode() for name in by_name))
        object.__setattr__(self, "_fingerprinted", [item.name for item in self.fields if item.name != self.presence])
        object.__setattr__(self, "_fingerprinted_keys", [name.encode() for name in self._fingerprinted])
        prices = [item.name for item in self.fields if item.unit == "quote" and f"{{{item.name}}}" in self.headline]
        object.__setattr__(self, "_headline_prices", prices)

    @property
    def renewed(self) -> tuple[str, ...]:
        """Stamps that an evaluation renews although nothing is published."""
        always = ("last_update_epoch", "profile", "profile_name")
        return always if self.dated_by_publication else ("computed_at_utc", *always)

    def subjects(self, symbols: Sequence[str]) -> Sequence[str]:
        """Name whom the table has a hash for, given the symbols of the product."""
        return (ACCOUNT,) if self.of_account else symbols

    def encode(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Turn one row into the text fields of the hash, without the stamps.

        Raises
        ------
        ContractError
            A value is missing or does not fit its format.
        """
        encoded = {}
        for item in self.fields:
            try:
                value = row[item.name] if item.before is ... else row.get(item.name, item.before)
                encoded[item.name] = item.codec.encode(value)
            except KeyError:
                raise ContractError(item.name, "missing") from None
            except CodecError as error:
                raise ContractError(item.name, str(error)) from None
        return encoded

    def decode(self, raw: Mapping[bytes, bytes]) -> dict[str, Any]:
        """Turn a hash as read from the server into one row, stamps included.

        Raises
        ------
        ContractError
            A field is missing, is not UTF-8, or does not fit its format.
        """
        row: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for name, key, decode in self._wire:
            value = raw.get(key)
            if value is None and (before := self.by_name[name].before) is not ...:
                row[name] = before  # its digest says whether it was never there, or somebody took it away
                continue
            if value is None:
                raise ContractError(name, "missing")
            try:
                texts[name] = text = value.decode()
                row[name] = decode(text)
            except UnicodeDecodeError:
                raise ContractError(name, "not UTF-8 text") from None
            except CodecError as error:
                raise ContractError(name, str(error)) from None
        if row["digest"] != self.digest(texts):
            detail = "the values are not those that were published; somebody edited them"
            raise ContractError(DIGEST, detail)
        return row

    def redecode(self, raw: Mapping[bytes, bytes], last: Mapping[bytes, bytes], row: Mapping[str, Any]) -> dict[str, Any]:
        """Give what ``decode`` would, decoding only what has changed since ``last`` was decoded to ``row``.

        Raises
        ------
        ContractError
            As ``decode`` does.
        """
        try:
            changed = [(name, raw[key], decode) for name, key, decode in self._wire if raw[key] != last[key]]
            renewed = {**row, **{name: decode(value.decode()) for name, value, decode in changed}}
            stamps_only = all(name in RENEWED for name, _, _ in changed)
            if stamps_only or renewed[DIGEST] == _fingerprint(raw[key] for key in self._fingerprinted_keys):
                return renewed
        except (UnicodeDecodeError, CodecError, KeyError):
            pass
        return self.decode(raw)  # which names what is wrong

    def reread(self, written: Mapping[str, str]) -> dict[str, Any]:
        """Give what ``decode`` would, of texts that were encoded a moment ago."""
        return {name: item.codec.reread(written[name]) for name, item in self.by_name.items()}

    def digest(self, encoded: Mapping[str, str]) -> str:
        """Fingerprint the encoded fields that are there, all but the presence flag, which changes between publications."""
        return _fingerprint(encoded[name].encode() for name in self._fingerprinted if name in encoded)

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        """Build the typed frame of decoded rows: ``symbol``, ``state``, ``why``, then every field (null unless present)."""
        import polars as pl

        schema: dict[str, Any] = {"symbol": pl.String, "state": pl.String, "why": pl.String}
        schema |= {name: item.codec.dtype for name, item in self.by_name.items()}
        return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema, orient="row")

    def headline_of(self, row: Mapping[str, Any]) -> str:
        """Describe one publication in one line."""
        words = {name: ",".join(value) if isinstance(value, list) else value for name, value in row.items()}
        words |= {name: logged_price(row[name]) for name in self._headline_prices}
        return (self.headline or f"{self.asset} for {{symbol}}").format_map(words)

    def stream_entry(self, row: Mapping[str, Any], encoded: Mapping[str, str], marks: Mapping[str, str]) -> dict[str, str]:
        """Select what the stream entry of one publication carries.

        Parameters
        ----------
        row
            The row before encoding; it supplies the values that only the stream has (text).
        encoded
            The encoded hash fields.
        marks
            The stamps of the publication, for streams that name one of them.

        Raises
        ------
        ContractError
            The row lacks a value that only the stream carries.
        """
        if self.stream is None:
            return {}
        values = {"symbol": row["symbol"], **encoded}
        pairs = [(name, name) if isinstance(name, str) else name for name in self.stream.fields or values]
        try:
            known = {**row, **marks, **values}
            return {entry: known[source] for entry, source in pairs}
        except KeyError as error:
            raise ContractError(str(error.args[0]), "missing for the stream") from None


def logged_price(value: float) -> str:
    """Write a price into a log line: never an exponent, at least four decimals and six significant digits.

    Examples
    --------
    >>> logged_price(106.08471), logged_price(4.0795e-07)
    ('106.0847', '0.000000407950')
    """
    return f"{value:.{max(4, 5 - math.floor(math.log10(abs(value)))) if value else 4}f}"


def _fingerprint(values: Iterable[bytes]) -> str:
    return hashlib.blake2s(b"\x1f".join(values), digest_size=8).hexdigest()


@lru_cache(maxsize=4)
def _moment(now: datetime) -> tuple[str, str]:
    return TIME.encode(now), EPOCH.encode(now.timestamp())


def stamps(
    table: Table, symbol: str, encoded: Mapping[str, str], cycle_id: str, now: datetime, profile: tuple[str, str]
) -> dict[str, str]:
    """Encode the common fields of a publication made now.

    Parameters
    ----------
    table, symbol
        What is published, and for which symbol.
    encoded
        The table's own fields, as they are written beside the stamps.
    cycle_id
        See COMMON.
    now
        Aware UTC.
    profile
        Fingerprint of the symbol's parameters, and name of the profile.
    """
    moment, epoch = _moment(now)
    return {
        "symbol": TEXT.encode(symbol),
        "cycle_id": TEXT.encode(cycle_id),
        "schema": INTEGER.encode(table.schema),
        "computed_at_utc": moment,
        "last_update_epoch": epoch,
        "published_at_utc": moment,
        DIGEST: table.digest(encoded),
        "profile": profile[0],
        "profile_name": TEXT.encode(profile[1]),
    }


def publication_due(
    table: Table,
    last: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    *,
    now: datetime,
    change_eps_pct: float,
    max_age_sec: float,
) -> str | None:
    """Decide whether new values must be published, and why (docs/spec.md#9-publishing-rules).

    Parameters
    ----------
    table
        The contract, whose fields say which change counts.
    last
        The decoded hash as it stands, or ``None`` when there is none (or none that can be read).
    new
        The new row, as it would read back from the wire.
    now
        Time of the evaluation.
    change_eps_pct
        Relative change of a price that counts, e.g. ``.001`` for 0.1 %.
    max_age_sec
        Age of the last publication from which on it is renewed.

    Returns
    -------
    str or None
        The reason, e.g. ``first``, ``proposed_sl changed``, ``max age``; ``None`` to suppress.
    """
    if last is None:
        return "first"
    if not table.rate_limited:
        return "every evaluation"
    if new.get("profile", last.get("profile")) != last.get("profile"):  # what is no publication yet carries no stamp
        return "profile changed"
    for item in table.fields:
        if item.change is not Change.IGNORED and _changed(item.change, last[item.name], new[item.name], change_eps_pct):
            return f"{item.name} changed"
    if table.outdated is not None and (why := table.outdated(last, new)):
        return why
    if not 0 <= (now - last["published_at_utc"]).total_seconds() < max_age_sec:  # a clock turned back must not end publications
        return "max age"
    return None


def _changed(change: Change, old: Any, new: Any, change_eps_pct: float) -> bool:
    if old is None or new is None or change is Change.EXACT:
        return bool(old != new)
    limit = PROBABILITY_EPS if change is Change.ABSOLUTE else change_eps_pct * abs(old)
    return bool(abs(new - old) > limit)
