"""The profile of a run's records, with which later runs are compared.

A profile is small and readable: shares, quantiles and the most frequent values, shapes, words and endings of each
column. DuckDB counts them on all rows if there are at most :data:`SAMPLE`, otherwise on blocks of adjacent rows from
the whole table, so that similarities between adjacent rows are measured as well.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from airflow_provider_sequentum.quality.engine import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD = ("passed", "warned", "accepted")
"""The verdicts of good runs: their records may be loaded, and later runs are compared with them."""

SAMPLE = 20_000
"""The maximum number of rows on which the distributions are counted."""

MAX_PAIRED = 40
"""The maximum number of columns that are compared with each other. With more, no pairs are counted."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of lengths and numbers in a profile."""

FREQUENT = 20
"""The maximum number of entries in a distribution. The most frequent ones are kept."""

MAX_SHOWN_LENGTH = 60
"""The maximum number of characters of a value in a profile."""

_CELLS = 2_000_000
_BLOCK = 100

_WALL = (
    "captcha|verify (that )?you|are you (a )?(human|robot)|access denied|too many requests|unusual traffic|"
    "enable (javascript|cookies)|checking your browser|just a moment|forbidden|not found|internal server error|"
    "bad gateway|service unavailable|gateway time-?out|temporarily unavailable|please (log|sign) in|cookie|"
    "something went wrong|subscribe to our|newsletter"
)
FEATURES = {
    "mark-up": r"<[a-zA-Z/!][^>]*>",
    "entities": r"&(#\d+|#x[0-9a-fA-F]+|[a-zA-Z]+\d*);",
    "damaged characters": r"\x{FFFD}|[ÃÂ][\x{0080}-\x{00BF}]|â[\x{0080}-\x{009F}€]|Ã[^\p{L}\s]",
    "placeholders": r"(?i)^\s*(null|none|nan|undefined|n/?a|nil|tba|tbd|"
    r"[-\x{2013}\x{2014}]+|\[object object\]|#(ref|n/a|value|name)!?)\s*$",
    "templates": r"\{\{|\}\}|\$\{|<%|%\}",
    "page text": f"(?i){_WALL}",
    "addresses": r"(?i)^https?://",
    "paths": r"^/",
    "queries": r"\?[^=]*=",
    "line breaks": r"[\r\n]",
    "outer space": r"^\s|\s$",
    "inner space": r"\S\s\s+\S",
    "ellipses": r"(\.\.\.|…)\s*$",
    "upper case": r"^[^\p{Ll}]*\p{Lu}[^\p{Ll}]*\p{Lu}[^\p{Ll}]*$",
    "lower case": r"^[^\p{Lu}]*\p{Ll}[^\p{Lu}]*$",
    "Latin": r"\p{Latin}",
    "other scripts": r"[\p{Cyrillic}\p{Greek}\p{Han}\p{Hiragana}"
    r"\p{Katakana}\p{Hangul}\p{Arabic}\p{Hebrew}\p{Thai}\p{Devanagari}]",
    "accents": r"[^\x00-\x7F]",
    "digits": r"\d",
    "letters": r"\p{L}",
    "currencies": r"[$€£¥₹]|\b(EUR|USD|GBP|CHF|JPY|CAD|AUD|SEK|NOK|DKK|PLN|CZK|INR|CNY)\b",
    "minus": r"^\s*-\s*\d",
    "zeros": r"^\s*-?0+([.,]0+)?\s*$",
    "leading zeros": r"^0\d",
    "exponents": r"^-?\d+([.,]\d+)?[eE][-+]?\d+$",
    "JSON": r"^\s*[\[{].*[\]}]\s*$",
    "ranges": r"\d\s*[-\x{2013}]\s*\D{0,4}\d",
    "relative times": r"(?i)\b(ago|yesterday|today|just now|last week)\b",
    "months first": r"^\d{1,2}[./-](1[3-9]|2\d|3[01])[./-]",
    "days first": r"^(1[3-9]|2\d|3[01])[./-]\d{1,2}[./-]",
    "thousands": r"\d[.,'' ]\d{3}($|\D)",
    "decimal commas": r"\d,\d{1,2}($|\D)",
    "decimal points": r"\d\.\d{1,2}($|\D)",
}
"""Features of cells, as regular expressions. A profile has the share of filled cells with each feature."""

_NUMBER = r"^\s*[-+]?\d+(\.\d+)?([eE][-+]?\d+)?\s*$"
_ISO_DATE = r"^\s*\d{4}-\d\d-\d\d([T ]|\s*$)"
_WRITTEN_DATE = r"^\s*\d{1,2}[./]\d{1,2}[./]\d{4}\s*$"
_QUANTITY = r"^\D{0,12}\d[\d.,'' \x{00A0}\x{202F}]*\D{0,12}$"
_DIGITS = r"\d([\d.,'' \x{00A0}\x{202F}]*\d)?"


def _number_of(is_number: str, is_iso_date: str, is_written_date: str, *, has_dates: bool = True) -> str:
    """Return SQL for the number in a cell, from SQL for its kind. Dates have no number unless ``has_dates`` is set."""
    iso = "epoch(TRY_CAST(trim(v) AS TIMESTAMP)) / 86400"
    written = "epoch(try_strptime(trim(v), ['%d.%m.%Y', '%d/%m/%Y', '%m/%d/%Y', '%m.%d.%Y'])) / 86400"
    # A code such as 10E500 is too large for a number, as are very many digits.
    return rf"""nullif(nullif(CASE
    WHEN {is_number} THEN TRY_CAST(v AS DOUBLE)
    WHEN {is_iso_date} THEN {iso if has_dates else "NULL"}
    WHEN {is_written_date} THEN {written if has_dates else "NULL"}
    WHEN regexp_matches(v, '{_QUANTITY}') THEN TRY_CAST(
        CASE WHEN regexp_matches(v, '^\s*[-\x{{2212}}]') THEN '-' ELSE '' END
        || regexp_replace(regexp_replace(regexp_extract(v, '{_DIGITS}'), '[.,]\d{{1,2}}$', ''), '\D', '', 'g')
        || '.' || coalesce(nullif(regexp_extract(regexp_extract(v, '{_DIGITS}'), '[.,](\d{{1,2}})$', 1), ''), '0')
        AS DOUBLE) END, 'inf'::DOUBLE), '-inf'::DOUBLE)"""


_WRITTEN_AS = (
    f"regexp_matches(v, '{_NUMBER}')",
    f"regexp_matches(v, '{_ISO_DATE}')",
    f"regexp_matches(v, '{_WRITTEN_DATE}')",
)

NUMBER_OF = _number_of(*_WRITTEN_AS)
"""SQL for the number in a cell: a plain number, one with a currency or a unit, or a date in days since 1970."""

AMOUNT_OF = _number_of(*_WRITTEN_AS, has_dates=False)
"""The same, but dates have no number."""

_NUMBER_OF_KIND = _number_of("kind IN ('integer', 'decimal')", "kind = 'date'", "kind = 'written date'")
"""The same as :data:`NUMBER_OF` if the kind is known, which saves three of the four patterns."""

DATE_KINDS = ("date", "written date")

KIND_OF = rf"""CASE
    WHEN regexp_matches(v, '^\s*[-+]?\d+\s*$') THEN 'integer'
    WHEN regexp_matches(v, '{_NUMBER}') THEN 'decimal'
    WHEN regexp_matches(v, '{_ISO_DATE}') THEN 'date'
    WHEN regexp_matches(v, '{_WRITTEN_DATE}') THEN 'written date'
    WHEN regexp_matches(v, '(?i)^\s*(true|false|yes|no)\s*$') THEN 'boolean'
    WHEN regexp_matches(v, '(?i)^\s*https?://') THEN 'address'
    WHEN regexp_matches(v, '{_QUANTITY}') THEN 'quantity'
    ELSE 'text' END"""

_SHAPE_OF = r"""left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(left(v, 200),
    '\d+', '9', 'g'), '\p{Lu}+', 'A', 'g'), '[\p{Ll}\p{Lo}]+', 'a', 'g'), 'Aa', 'A', 'g'),
    '[Aa]+([-'' ][Aa]+)+', 'words', 'g'), 40)"""
"""SQL for a cell with its digits and letters replaced by classes: ``9.9 A`` for ``19.99 EUR``."""

Distribution = dict[str, float]


def _all_or_none(values: list[float]) -> list[float]:
    if len(values) not in (0, len(QUANTILES)):
        raise ValueError(f"must be {len(QUANTILES)} quantiles, not {len(values)}")
    return values


Quantiles = Annotated[list[float], AfterValidator(_all_or_none)]
"""Empty if there is nothing in the sample to measure."""


def of(column: str, expression: str) -> str:
    """Return one of the SQL expressions above for a column."""
    return expression.replace("(v", f"({column}")


def has_value(column: str) -> str:
    """Return SQL for whether a text has more than white space and other characters of which nothing is seen."""
    # For most texts, the first character decides. Searching all of them takes several times as long.
    is_seen = f"coalesce(regexp_matches({column}, '[^\\p{{Z}}\\p{{Cc}}\\p{{Cf}}]'), false)"
    return f"CASE WHEN {column} >= '!' AND {column} < '\x7f' THEN true ELSE {is_seen} END"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ColumnProfile(_Part):
    """The profile of one column. All shares except ``filled`` refer to the filled cells.

    :param filled: the share of records that have a value.
    :param distinct: the number of different values, divided by the number of filled cells.
    :param lengths: the :data:`QUANTILES` of the number of characters.
    :param numbers: the same quantiles of the numbers in the cells. Dates count as days since 1970.
    :param numeric: the share of cells with such a number.
    :param longest: the share of cells that are as long as the longest cell.
    :param repeated: the share of cells that equal the previous cell.
    :param shares: the shares of cells with each of the :data:`FEATURES`, unless 0.
    :param bins: the distribution of the numbers, in bins whose bounds grow by a fifth.
    """

    filled: float
    distinct: float = 0.0
    lengths: Quantiles = []
    numbers: Quantiles = []
    numeric: float = 0.0
    longest: float = 0.0
    repeated: float = 0.0
    shares: dict[str, float] = {}
    kinds: Distribution = {}
    values: Distribution = {}
    shapes: Distribution = {}
    words: Distribution = {}
    endings: Distribution = {}
    sizes: Distribution = {}
    bins: Distribution = {}

    @property
    def has_dates(self) -> bool:
        """Whether some cells are dates, so that ``numbers`` may be days."""
        return bool(self.kinds.keys() & {*DATE_KINDS})


class Pair(_Part):
    """How often two columns of a record agree.

    :param equal: the share of records in which both have the same text.
    :param less: the share of records in which the first number is smaller.
    """

    equal: float
    less: float | None = None


class ColumnChange(_Part):
    """How a column differs from the previous run, in the records that both runs have.

    :param changed: the share of records with another value.
    :param rose: the share of the changed numbers that are larger than before.
    :param factor: the median ratio of new to old number, for the numbers that changed.
    :param alike: the share of records whose number changed by this factor, within 0.5 %.
    """

    changed: float
    rose: float | None = None
    factor: float | None = None
    alike: float = 0.0


class Change(_Part):
    """How the records differ from those of the previous run, compared by their key.

    :param run_id: the id of the previous run.
    :param kept: the share of its keys that this run has, too.
    :param added: the share of this run's keys that the previous run did not have.
    :param matched: the number of records that were compared.
    """

    run_id: int
    kept: float
    added: float
    matched: int
    columns: dict[str, ColumnChange] = {}


class Profile(_Part):
    """The profile of one run's records.

    :param format: the version of the file format.
    :param verdict: the result of the check. Later runs are only compared with runs that are ``passed``, ``warned`` or
        ``accepted``. To accept a run that ``failed``, a person writes ``accepted`` here.
    :param rows: the number of rows on which the distributions were counted.
    :param duplicates: the share of rows that repeat another row.
    :param fingerprint: a hash that is the same for the same records in any order.
    :param key: the columns that identify a record.
    :param breaches: the breaches, one line for each.
    :param change: the comparison with the previous run.
    """

    format: Literal[1] = 1
    agent_id: int
    run_id: int
    verdict: Literal["passed", "warned", "failed", "skipped", "accepted"] = "passed"
    records: NonNegativeInt
    rows: int
    duplicates: float = 0.0
    fingerprint: str = ""
    key: list[str] = []
    breaches: list[str] = []
    columns: dict[str, ColumnProfile] = {}
    pairs: dict[str, Pair] = {}
    change: Change | None = None

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Read a profile. Return ``None`` if the content is not valid."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    def to_json(self) -> bytes:
        """Return the profile as the content of a file."""
        return (self.model_dump_json(indent=1, exclude_defaults=True) + "\n").encode()


def profile(table: Table, *, agent_id: int, run_id: int, filled: Sequence[int], key: Sequence[str] = ()) -> Profile:
    """Return the profile of a table.

    :param filled: for each column, the number of records that have a value.
    :param key: the columns that identify a record, for the comparison with other runs.
    """
    rows = _sample(table)
    if not rows:
        return Profile(agent_id=agent_id, run_id=run_id, records=0, rows=0, key=list(key))
    _cells(table)
    columns = _columns(table, filled)
    duplicates, fingerprint = _whole_rows(table, rows)
    return Profile(
        agent_id=agent_id,
        run_id=run_id,
        records=table.records,
        rows=rows,
        duplicates=duplicates,
        fingerprint=fingerprint,
        key=list(key),
        columns=columns,
        pairs=_pairs(table, columns),
    )


def _share(value: float | None) -> float:
    return round(value or 0.0, 5)


def _rounded(number: float) -> float:
    # Rounding up the largest numbers would make them infinite.
    most = sys.float_info.max
    return min(max(float(f"{number:.10g}"), -most), most)


def _sample(table: Table) -> int:
    most = max(_BLOCK, min(SAMPLE, _CELLS // max(1, len(table.names))))
    every = -(-table.records // most) if table.records else 1
    # A join by row number only decodes these rows; a condition on the row number would decode all.
    blocks = f"range(0, {table.records}, {every * _BLOCK}) b(first), range({_BLOCK}) i(place)"
    chosen = f"SEMI JOIN (SELECT first + place AS r FROM {blocks}) USING (r)" if every > 1 else ""
    table.query(f"CREATE OR REPLACE TEMP TABLE sample AS SELECT * FROM {{table}} {chosen}")
    return int(table.query("SELECT count(*) FROM sample")[0][0])


def _cells(table: Table) -> None:
    """Create a table of the filled cells of the sample, with the properties of each."""
    columns = ", ".join(f"c{number}" for number in range(len(table.names)))
    table.query(
        f"""CREATE OR REPLACE TEMP TABLE cells AS
        SELECT *, {_NUMBER_OF_KIND} AS number, {_SHAPE_OF} AS shape, lower(right(trim(v), 2)) AS ending
        FROM (SELECT CAST(c[2:] AS INTEGER) AS c, r, v, length(v) AS size, {KIND_OF} AS kind
            FROM (UNPIVOT sample ON {columns} INTO NAME c VALUE v) WHERE {has_value("v")})"""
    )


def _columns(table: Table, filled_records: Sequence[int]) -> dict[str, ColumnProfile]:
    quantiles = list(QUANTILES)
    found = table.query(
        f"""SELECT c, count(*), count(DISTINCT v), quantile_disc(size, {quantiles}),
            quantile_disc(number, {quantiles}), avg((number IS NOT NULL)::INT)
        FROM cells GROUP BY c"""
    )
    features = ", ".join(f"sum(n * regexp_matches(v, '{pattern}')::INT) / sum(n)" for pattern in FEATURES.values())
    shares = {
        c: dict(zip(FEATURES, found_shares, strict=True))
        for c, *found_shares in table.query(
            # A value that occurs many times is only matched once.
            f"SELECT c, {features} FROM (SELECT c, v, count(*) AS n FROM cells GROUP BY c, v) GROUP BY c"
        )
    }
    longest: dict[int, float] = dict(
        table.query(
            "SELECT c, avg((size = longest)::INT) "
            "FROM (SELECT c, size, max(size) OVER (PARTITION BY c) AS longest FROM cells) GROUP BY c"
        )
    )
    repeated: dict[int, float] = dict(
        table.query(
            "SELECT c, avg((v = before)::INT) "
            "FROM (SELECT c, v, lag(v) OVER (PARTITION BY c ORDER BY r) AS before FROM cells) GROUP BY c"
        )
    )
    filled = [_share(count / table.records) for count in filled_records]
    distributions = _distributions(table)
    columns = {name: ColumnProfile(filled=filled[number]) for number, name in enumerate(table.names)}
    for c, cells, distinct, lengths, numbers, numeric in found:
        columns[table.names[c]] = ColumnProfile(
            filled=filled[c],
            distinct=_share(distinct / cells),
            lengths=lengths,
            numbers=[_rounded(number) for number in numbers or []],
            numeric=_share(numeric),
            longest=_share(longest[c]),
            repeated=_share(repeated[c]),
            shares={name: _share(share) for name, share in shares[c].items() if share},
            **distributions.get(c, {}),
        )
    return columns


_DISTRIBUTIONS = {
    "kinds": "kind",
    "values": f"left(v, {MAX_SHOWN_LENGTH})",
    "shapes": "shape",
    "endings": "ending",
    "sizes": "CASE WHEN size < 8 THEN size ELSE floor(pow(1.2, floor(log(size) / log(1.2)))) END::INTEGER::VARCHAR",
    "bins": """CASE WHEN kind IN ('date', 'written date') THEN NULL WHEN number = 0 THEN '0' ELSE
        printf('%.3g', sign(number) * pow(1.2, floor(log(abs(number)) / log(1.2)))) END""",
}


def _distributions(table: Table) -> dict[int, dict[str, Distribution]]:
    """Return the most frequent values of :data:`_DISTRIBUTIONS` and words, with their shares, for each column."""
    names, expressions = ", ".join(map(repr, _DISTRIBUTIONS)), ", ".join(_DISTRIBUTIONS.values())
    words = "list_distinct(regexp_extract_all(lower(left(v, 2000)), '[\\p{L}]{2,}'))"
    rows = table.query(
        f"""WITH found AS (
            SELECT c, unnest([{names}]) AS what, unnest([{expressions}]) AS x FROM cells
            UNION ALL SELECT c, 'words', unnest({words}) FROM cells)
        SELECT c, what, x, n / cells
        FROM (SELECT c, what, x, count(*) AS n FROM found WHERE x IS NOT NULL GROUP BY c, what, x)
            JOIN (SELECT c, count(*) AS cells FROM cells GROUP BY c) USING (c)
        WHERE n / cells >= 0.005 AND n > 1
        QUALIFY row_number() OVER (PARTITION BY c, what ORDER BY n DESC, x) <= {FREQUENT} ORDER BY c, n DESC, x"""
    )
    found: dict[int, dict[str, Distribution]] = {}
    for c, what, x, share in rows:
        found.setdefault(c, {}).setdefault(what, {})[x] = _share(share)
    return found


def _whole_rows(table: Table, rows: int) -> tuple[float, str]:
    texts = ", ".join(f"c{number}" for number in range(len(table.names)))
    distinct, fingerprint = table.query(
        f"""SELECT count(DISTINCT h), printf('%016x', bit_xor(h)) FROM (
            SELECT DISTINCT md5_number_lower(to_json([{texts}])::VARCHAR) AS h FROM sample)"""
    )[0]
    return _share(1 - distinct / rows), str(fingerprint)


def _pairs(table: Table, columns: dict[str, ColumnProfile]) -> dict[str, Pair]:
    """Return how often columns agree, for each pair of columns."""
    names = [name for name in table.names if columns[name].filled > 0]
    if not 1 < len(names) <= MAX_PAIRED:
        return {}
    numeric = {name for name in names if columns[name].numeric > 0.5}
    couples = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    asked = []
    for a, b in couples:
        a_, b_ = table.columns[a].sql, table.columns[b].sql
        less = f"avg((n{a_} < n{b_})::INT)" if {a, b} <= numeric else "NULL"
        asked.append(f"avg(({a_} = {b_})::INT), {less}")
    numbers = "".join(f", {of(c, NUMBER_OF)} AS n{c}" for c in (table.columns[name].sql for name in sorted(numeric)))
    answer = table.query(f"SELECT {', '.join(asked)} FROM (SELECT *{numbers} FROM sample)")[0]
    pairs = {}
    for place, (a, b) in enumerate(couples):
        equal, less = _share(answer[2 * place]), answer[2 * place + 1]
        if equal or less is not None:
            pairs[f"{a} | {b}"] = Pair(equal=equal, less=None if less is None else _share(less))
    return pairs


def compare(table: Table, before: Table, key: Sequence[str], run_id: int) -> Change | None:
    """Return how the records differ from those of the previous run; ``None`` if they cannot be compared.

    :param before: the records of the previous run, or a sample chosen by the hash of the key.
    :param run_id: the id of the previous run.
    """
    if not all(name in table.columns and name in before.columns for name in key):
        return None
    shared = [name for name in table.names if name in before.columns and name not in key]
    names = [(table.columns[name].sql, before.columns[name].sql) for name in shared]
    for keyed, kept, owner in (
        ("now_keyed", [a for a, _ in names], table),
        ("then_keyed", [b for _, b in names], before),
    ):
        table.query(
            f"""CREATE OR REPLACE TEMP TABLE {keyed} AS
            SELECT {key_of(owner, key)} AS k{"".join(", " + c for c in kept)}
            FROM {owner.sql} WHERE k IS NOT NULL QUALIFY row_number() OVER (PARTITION BY k ORDER BY r) = 1"""
        )
    then, kept_count = table.query("SELECT count(*), count(n.k) FROM then_keyed t LEFT JOIN now_keyed n USING (k)")[0]
    now = table.query("SELECT count(*) FROM now_keyed")[0][0]
    if not then or not now:
        return None
    columns = _changes(table, shared, names, kept_count)
    return Change(
        run_id=run_id,
        kept=_share(kept_count / then),
        added=_share(1 - kept_count / now),
        matched=kept_count,
        columns=columns,
    )


def key_of(table: Table, key: Sequence[str]) -> str:
    """Return SQL for the key of a record as one text; NULL if a part of the key is empty."""
    columns = [table.columns[name].sql for name in key]
    is_whole = " AND ".join(map(has_value, columns))
    return f"CASE WHEN {is_whole} THEN to_json([{', '.join(f'trim({column})' for column in columns)}])::VARCHAR END"


def _changes(
    table: Table, shared: Sequence[str], names: Sequence[tuple[str, str]], matched: int
) -> dict[str, ColumnChange]:
    if not matched or not shared:
        return {}
    new, old = (", ".join(f"{side}.{pair[place]}" for pair in names) for place, side in enumerate("nt"))
    rows = table.query(
        f"""WITH cells AS (
            SELECT unnest(range({len(names)})) AS c, unnest([{new}]) AS new, unnest([{old}]) AS old
            FROM now_keyed n JOIN then_keyed t USING (k)),
        changed AS (
            SELECT c, {of("new", NUMBER_OF)} AS x, {of("old", NUMBER_OF)} AS y, CASE WHEN y <> 0 THEN x / y END AS ratio
            FROM cells WHERE new IS DISTINCT FROM old),
        middle AS (SELECT c, median(ratio) AS factor FROM changed GROUP BY c)
        SELECT c, count(*), avg(CASE WHEN x <> y THEN (x > y)::INT END), any_value(factor),
            count(*) FILTER (abs(ratio / factor - 1) < 0.005)
        FROM changed JOIN middle USING (c) GROUP BY c"""
    )
    found = dict.fromkeys(shared, ColumnChange(changed=0.0))
    for c, changed, rose, factor, alike in rows:
        found[shared[c]] = ColumnChange(
            changed=_share(changed / matched),
            rose=None if rose is None else _share(rose),
            factor=None if factor is None else float(f"{factor:.6g}"),
            alike=_share(alike / matched),
        )
    return found
