"""How scraped data breaks: each breakage takes the records of a good run and returns what the agent would deliver.

A breakage that a data set has no column for returns ``None``. What a declared rule has to catch is noted in
:attr:`Case.covers`, as the rule's name and the column.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random

from tests.quality_corpus.data_sets import BRANDS, NOUNS, START, Column, Row

Rows = list[Row]
WALL = (
    "Please verify you are a human. Access to this page has been denied because we believe you are using automation "
    "tools."
)
BANNER = "We value your privacy. We and our partners store cookies on your device. Accept all"
RUSSIAN = "Товар доставляется в течение двух дней и подходит для дома"
GERMAN = (
    "Das Gehäuse ist aus Aluminium und hält viele Jahre. Mit einer Garantie von zwei Jahren und einem Ersatzteil.",
    "Ideal für die kleine Küche, das Büro und den Garten. Kunden mögen, dass es leicht zu reinigen ist.",
)


@dataclass
class Case:
    """One run that breaks.

    :param rows: what the agent would have delivered.
    :param before: what it delivered the day before, and a week before in ``older``.
    :param today: the day's number.
    :param page: rows on a page of the site.
    """

    rows: Rows
    before: Rows
    older: Rows
    columns: list[Column]
    random: Random
    today: int
    page: int
    covers: set[tuple[str, str]] = field(default_factory=set)

    def having(self, *roles: str) -> list[str]:
        """Return the names of the columns with one of these roles."""
        return [column.name for column in self.columns if column.role in roles]

    def one(self, *roles: str) -> str | None:
        """Return a column with one of these roles."""
        names = self.having(*roles)
        return self.random.choice(names) if names else None

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    def change(self, name: str | None, how: Callable[[str], str], share: float = 1.0) -> Rows | None:
        """Return the rows with a column's filled values changed, all or a share of them; ``None`` if none changes."""
        if name is None:
            return None
        changed = 0
        for row in self.rows:
            if row[name] and self.random.random() < share:
                before, row[name] = row[name], how(row[name])
                changed += row[name] != before
        return self.rows if changed > len(self.rows) * 0.02 else None


Breakage = Callable[[Case], Rows | None]
BREAKAGES: dict[str, Breakage] = {}
PRICES = ("price", "list_price", "number_pair")
NUMBERS = (*PRICES, "number", "count")
TEXTS = ("name", "text")


def breakage(function: Breakage) -> Breakage:
    """Register a breakage under its name."""
    BREAKAGES[function.__name__.replace("_", " ")] = function
    return function


def amount(text: str) -> float | None:
    """Return the number in a price, however it is written."""
    digits = re.sub(r"[^\d.,]", "", text)
    if re.search(r",\d{1,2}$", digits):
        digits = digits.replace(".", "").replace(",", ".")
    try:
        return float(digits.replace(",", ""))
    except ValueError:
        return None


def rescaled(case: Case, name: str | None, factor: float, digits: int | None = None) -> Rows | None:
    """Return the rows with a column's numbers multiplied, written as they were."""
    if name is None:
        return None
    write = case.column(name).write
    for row in case.rows:
        value = amount(row[name])
        if value is not None:
            row[name] = write(round(value * factor, 2 if digits is None else digits))
    return case.rows


# Columns that are empty, gone or mixed up


@breakage
def column_empty(case: Case) -> Rows | None:
    name = case.one(*PRICES, "name", "category", "url", "date")
    case.covers.add(("filled", name or ""))
    return case.change(name, lambda _: "")


@breakage
def column_empty_in_a_third(case: Case) -> Rows | None:
    name = case.one(*PRICES, "name", "category", "url", "date")
    case.covers.add(("filled", name or ""))
    return case.change(name, lambda _: "", 0.33)


@breakage
def column_empty_in_a_tenth(case: Case) -> Rows | None:
    return case.change(case.one(*PRICES, "name", "category", "number", "text"), lambda _: "", 0.1)


@breakage
def optional_column_empty(case: Case) -> Rows | None:
    name = next((column.name for column in case.columns if column.filled < 1), None)
    return case.change(name, lambda _: "")


@breakage
def column_gone(case: Case) -> Rows | None:
    name = case.one(*NUMBERS, "name", "category", "url")
    case.covers.add(("required", name or ""))
    return [{other: value for other, value in row.items() if other != name} for row in case.rows]


@breakage
def column_renamed(case: Case) -> Rows | None:
    name = case.one(*NUMBERS, "name", "category", "url")
    case.covers.add(("required", name or ""))
    return [{f"{other}_1" if other == name else other: value for other, value in row.items()} for row in case.rows]


@breakage
def columns_shifted(case: Case) -> Rows | None:
    names = list(case.rows[0])
    start = case.random.randint(1, 2)
    for row in case.rows:
        values = [row[name] for name in names]
        row.update(zip(names[start:], [*values[start + 1 :], ""], strict=True))
    return case.rows


@breakage
def columns_shifted_in_some_rows(case: Case) -> Rows | None:
    names = list(case.rows[0])
    for row in case.rows:
        if case.random.random() < 0.15:
            values = [row[name] for name in names]
            row.update(zip(names[1:], [*values[2:], ""], strict=True))
    return case.rows


@breakage
def texts_swapped(case: Case) -> Rows | None:
    names = case.having("name", "category", "text", "url")
    if len(names) < 2:
        return None
    a, b = case.random.sample(names, 2)
    for row in case.rows:
        row[a], row[b] = row[b], row[a]
    return case.rows


@breakage
def two_prices_swapped(case: Case) -> Rows | None:
    prices, others = case.having("price"), case.having("list_price")
    if not prices or not others:
        return None
    for row in case.rows:
        row[prices[0]], row[others[0]] = row[others[0]], row[prices[0]]
    return case.rows


@breakage
def price_of_another_field(case: Case) -> Rows | None:
    prices, others = case.having("price"), case.having("list_price", "number_pair")
    if not prices or not others:
        return None
    for row in case.rows:
        row[prices[0]] = row[others[0]]
    return case.rows


@breakage
def name_holds_the_category(case: Case) -> Rows | None:
    name, other = case.one("name"), case.one("category")
    if name is None or other is None:
        return None
    for row in case.rows:
        row[name] = row[other]
    return case.rows


# Records that are missing or too many


@breakage
def no_records(case: Case) -> Rows | None:
    case.covers.add(("records", ""))
    return []


@breakage
def first_page_only(case: Case) -> Rows | None:
    case.covers.add(("records", ""))
    return case.rows[: case.page]


@breakage
def half_the_records(case: Case) -> Rows | None:
    return case.rows[: len(case.rows) // 2]


@breakage
def every_second_record(case: Case) -> Rows | None:
    return case.rows[::2]


@breakage
def last_third_missing(case: Case) -> Rows | None:
    return case.rows[: len(case.rows) * 2 // 3]


@breakage
def pages_missing(case: Case) -> Rows | None:
    pages = -(-len(case.rows) // case.page)
    lost = set(case.random.sample(range(pages), max(1, pages // 6)))
    return [row for place, row in enumerate(case.rows) if place // case.page not in lost]


@breakage
def page_twice(case: Case) -> Rows | None:
    start = case.random.randrange(0, len(case.rows) - case.page)
    case.covers.add(("unique", case.having("key")[0]))
    return [
        *case.rows[: start + case.page],
        *(dict(row) for row in case.rows[start : start + case.page]),
        *case.rows[start + case.page :],
    ]


@breakage
def page_twice_instead_of_the_next(case: Case) -> Rows | None:
    start = case.random.randrange(0, len(case.rows) - 2 * case.page)
    case.covers.add(("unique", case.having("key")[0]))
    again = [dict(row) for row in case.rows[start : start + case.page]]
    return [*case.rows[: start + case.page], *again, *case.rows[start + 2 * case.page :]]


@breakage
def everything_twice(case: Case) -> Rows | None:
    case.covers.add(("unique", case.having("key")[0]))
    return [*case.rows, *(dict(row) for row in case.rows)]


@breakage
def first_page_again_and_again(case: Case) -> Rows | None:
    case.covers.add(("unique", case.having("key")[0]))
    return [dict(case.rows[place % case.page]) for place in range(len(case.rows))]


@breakage
def some_duplicates(case: Case) -> Rows | None:
    case.covers.add(("unique", case.having("key")[0]))
    return [copy for row in case.rows for copy in ([row, dict(row)] if case.random.random() < 0.12 else [row])]


@breakage
def one_record_in_all_rows(case: Case) -> Rows | None:
    case.covers.add(("unique", case.having("key")[0]))
    return [dict(case.rows[0]) for _ in case.rows]


@breakage
def one_category_gone(case: Case) -> Rows | None:
    name = case.one("category")
    if name is None:
        return None
    counts = [row[name] for row in case.rows]
    gone = sorted(set(counts), key=counts.count)[-2:][0]
    return [row for row in case.rows if row[name] != gone]


@breakage
def one_category_only(case: Case) -> Rows | None:
    name = case.one("category")
    if name is None:
        return None
    counts = [row[name] for row in case.rows]
    only = max(set(counts), key=counts.count)
    return [row for row in case.rows if row[name] == only]


@breakage
def cheapest_half_only(case: Case) -> Rows | None:
    name = case.one("price")
    return None if name is None else sorted(case.rows, key=lambda row: amount(row[name]) or 0.0)[: len(case.rows) // 2]


@breakage
def variants_as_records(case: Case) -> Rows | None:
    case.covers.add(("unique", case.having("key")[0]))
    return [dict(row) for row in case.rows for _ in range(case.random.choice([1, 2, 3]))]


@breakage
def advertisements_among_the_records(case: Case) -> Rows | None:
    key, name = case.having("key")[0], case.one("name")
    case.covers.add(("filled", key))
    found = []
    for row in case.rows:
        found.append(row)
        if case.random.random() < 0.12:
            found.append(dict.fromkeys(row, "") | ({} if name is None else {name: f"Ad: {case.random.choice(BRANDS)}"}))
    return found


@breakage
def empty_rows_at_the_end(case: Case) -> Rows | None:
    case.covers.add(("filled", case.having("key")[0]))
    return [*case.rows, *(dict.fromkeys(case.rows[0], "") for _ in range(len(case.rows) // 8))]


@breakage
def another_region(case: Case) -> Rows | None:
    """The site sends the agent to the shop of another country: other keys, other currency, the same form."""
    key, prices = case.having("key")[0], case.having(*PRICES)
    for row in case.rows:
        row[key] = re.sub(r"\d+", lambda found: str(int(found[0]) + 7).zfill(len(found[0])), row[key][::1])
        row[key] = re.sub(r"\d", lambda found: str(9 - int(found[0])), row[key])
    for name in prices:
        rescaled(case, name, 11.3)
    return case.rows


# Numbers


@breakage
def price_as_text(case: Case) -> Rows | None:
    name = case.one("price")
    case.covers.add(("pattern", name or ""))
    return case.change(name, lambda value: f"from {value} incl. VAT")


@breakage
def other_currency(case: Case) -> Rows | None:
    return rescaled(case, case.one("price"), case.random.choice([1.17, 0.86, 1.58, 7.46, 0.0093, 25.2]))


@breakage
def other_currency_sign(case: Case) -> Rows | None:
    name = case.one("price", "list_price")
    case.covers.add(("pattern", name or ""))
    return case.change(name, lambda value: f"CHF {re.sub(r'[^0-9.,]', '', value)}")


@breakage
def locale_of_numbers(case: Case) -> Rows | None:
    swap = str.maketrans(",.", ".,")
    name = next(
        (each for each in case.having(*PRICES, "quantity", "rating") if any("." in row[each] for row in case.rows)),
        None,
    )
    return case.change(name, lambda value: value.translate(swap))


@breakage
def decimal_point_lost(case: Case) -> Rows | None:
    name = next(
        (each for each in case.having(*PRICES) if any(re.search(r"[.,]\d\d\b", row[each]) for row in case.rows)), None
    )
    return case.change(name, lambda value: re.sub(r"[.,](\d\d)\b", r"\1", value))


@breakage
def decimals_lost(case: Case) -> Rows | None:
    name = next(
        (each for each in case.having(*PRICES) if any(re.search(r"[.,]\d\d\b", row[each]) for row in case.rows)), None
    )
    return case.change(name, lambda value: re.sub(r"[.,]\d\d\b", "", value))


@breakage
def decimals_rounded(case: Case) -> Rows | None:
    name = next(
        (each for each in case.having(*PRICES) if any(re.search(r"[.,]\d\d\b", row[each]) for row in case.rows)), None
    )
    return rescaled(case, name, 1.0, 0)


@breakage
def net_instead_of_gross(case: Case) -> Rows | None:
    return rescaled(case, case.one("price"), 1 / case.random.choice([1.19, 1.2, 1.21]))


@breakage
def prices_of_members(case: Case) -> Rows | None:
    return rescaled(case, case.one("price"), 0.9)


@breakage
def prices_in_cents(case: Case) -> Rows | None:
    return rescaled(case, case.one("price"), 100)


@breakage
def prices_zero(case: Case) -> Rows | None:
    name = case.one("price")
    case.covers.add(("range", name or ""))
    return rescaled(case, name, 0)


@breakage
def some_prices_zero(case: Case) -> Rows | None:
    name = case.one("price")
    case.covers.add(("range", name or ""))
    return None if name is None else case.change(name, lambda _: case.column(name).write(0.0), 0.1)


@breakage
def prices_negative(case: Case) -> Rows | None:
    name = case.one("price")
    case.covers.add(("range", name or ""))
    return case.change(name, lambda value: f"-{value}", 0.2)


@breakage
def two_prices_in_one_cell(case: Case) -> Rows | None:
    name = case.one("price")
    return case.change(name, lambda value: f"{value}{value}", 0.25)


@breakage
def ranges_of_prices(case: Case) -> Rows | None:
    name = case.one("price")
    case.covers.add(("pattern", name or ""))
    return case.change(name, lambda value: f"{value} - {value}", 0.2)


@breakage
def monthly_rates(case: Case) -> Rows | None:
    name = case.one("price")
    return (
        None
        if name is None
        else case.change(name, lambda value: case.column(name).write(round((amount(value) or 0) / 24, 2)), 0.3)
    )


@breakage
def prices_constant(case: Case) -> Rows | None:
    name = case.one("price")
    return None if name is None else case.change(name, lambda _: case.rows[0][name])


@breakage
def other_scale_of_ratings(case: Case) -> Rows | None:
    name = case.one("rating")
    if name is None:
        return None
    case.covers.add(("range", name))
    factor = case.random.choice([2, 20])
    return case.change(name, lambda value: str(round(float(value) * factor, 1)))


@breakage
def ratings_as_fractions(case: Case) -> Rows | None:
    name = case.one("rating")
    case.covers.add(("type", name or ""))
    return case.change(name, lambda value: f"{value} out of 5")


@breakage
def counts_shortened(case: Case) -> Rows | None:
    name = case.one("count")
    return case.change(name, lambda value: f"{int(value) / 1000:.1f}k" if int(value) > 40 else value)


@breakage
def other_unit(case: Case) -> Rows | None:
    name = case.one("quantity", "number")
    if name is None:
        return None
    factor = case.random.choice([0.001, 1000, 2.2046, 10.764])
    return case.change(
        name,
        lambda value: re.sub(r"^[\d.]+", lambda found: f"{float(found[0]) * factor:.1f}".removesuffix(".0"), value),
    )


@breakage
def keys_as_floats(case: Case) -> Rows | None:
    key = case.having("key")[0]
    case.covers.add(("pattern", key))
    return case.change(key, lambda value: f"{value}.0") if case.rows[0][key].isdigit() else None


@breakage
def leading_zeros_lost(case: Case) -> Rows | None:
    key = case.having("key")[0]
    case.covers.add(("pattern", key))
    return (
        case.change(key, lambda value: value.lstrip("0"))
        if any(row[key].startswith("0") for row in case.rows)
        else None
    )


@breakage
def exponents(case: Case) -> Rows | None:
    key = case.having("key")[0]
    case.covers.add(("pattern", key))
    return case.change(key, lambda value: f"{float(value):.5E}") if case.rows[0][key].isdigit() else None


# Dates


def _date(text: str) -> date | None:
    for form in ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y"):
        try:
            return datetime.strptime(text, form).date()  # noqa: DTZ007 - a date has no zone
        except ValueError:
            continue
    return None


@breakage
def locale_of_dates(case: Case) -> Rows | None:
    name = case.one("date")
    case.covers.add(("pattern", name or ""))

    def other(value: str) -> str:
        found = _date(value)
        return value if found is None else f"{found.day} {found:%b} {found.year}"

    return case.change(name, other)


@breakage
def days_and_months_swapped(case: Case) -> Rows | None:
    name = case.one("date")

    def swap(value: str) -> str:
        parts = re.match(r"(\d+)([./])(\d+)([./]\d{4})$", value)
        if parts:
            return f"{parts[3]}{parts[2]}{parts[1]}{parts[4]}"
        year, month, day = value.split("-")
        return f"{year}-{day}-{month}" if int(day) <= 12 else value

    return case.change(name, swap)


@breakage
def dates_relative(case: Case) -> Rows | None:
    name = case.one("date")
    case.covers.add(("pattern", name or ""))
    return case.change(name, lambda _: f"{case.random.randint(2, 30)} days ago", 0.4)


@breakage
def dates_all_today(case: Case) -> Rows | None:
    name = case.one("date")
    today = START + timedelta(days=case.today)
    return None if name is None else case.change(name, lambda _: case.column(name).write(today))


@breakage
def dates_of_1970(case: Case) -> Rows | None:
    name = case.one("date")
    return None if name is None else case.change(name, lambda _: case.column(name).write(date(1970, 1, 1)), 0.3)


@breakage
def year_wrong(case: Case) -> Rows | None:
    return case.change(case.one("date"), lambda value: value.replace("2026", "2027").replace("2025", "2026"))


@breakage
def month_names(case: Case) -> Rows | None:
    name = case.one("date", "seen")
    case.covers.add(("pattern", name or ""))

    def other(value: str) -> str:
        found = _date(value)
        return value if found is None else f"{found:%B} {found.day}, {found.year}"

    return case.change(name, other)


# Text


@breakage
def mojibake(case: Case) -> Rows | None:
    changed = 0
    for row in case.rows:
        for name, value in row.items():
            row[name] = value.encode().decode("latin-1").replace("\x85", "…")
            changed += row[name] != value
    return case.rows if changed > len(case.rows) * 0.01 else None


@breakage
def replacement_characters(case: Case) -> Rows | None:
    changed = 0
    for row in case.rows:
        for name, value in row.items():
            row[name] = re.sub(r"[^\x00-\x7f]", "\ufffd", value)
            changed += row[name] != value
    return case.rows if changed > len(case.rows) * 0.01 else None


@breakage
def tags_in_text(case: Case) -> Rows | None:
    return case.change(case.one(*TEXTS), lambda value: f'<span class="a-text">{value}</span>')


@breakage
def tags_in_some_text(case: Case) -> Rows | None:
    return case.change(case.one(*TEXTS), lambda value: f"{value}<br/>", 0.1)


@breakage
def entities_in_text(case: Case) -> Rows | None:
    return case.change(case.one(*TEXTS), lambda value: html.escape(value) + "&nbsp;&amp; more", 0.3)


@breakage
def bot_wall_in_every_field(case: Case) -> Rows | None:
    for row in case.rows:
        for name in row:
            row[name] = WALL
    return case.rows


@breakage
def bot_wall_in_some_rows(case: Case) -> Rows | None:
    name = case.one("name", "text")
    if name is None:
        return None
    key = case.having("key")[0]
    for row in case.rows:
        if case.random.random() < 0.15:
            row.update({other: "" for other in row if other not in {key, name}})
            row[name] = "Just a moment..."
    return case.rows


@breakage
def error_pages(case: Case) -> Rows | None:
    return case.change(case.one("name", "category"), lambda _: "404 Not Found", 0.08)


@breakage
def banner_in_one_column(case: Case) -> Rows | None:
    return case.change(case.one("name", "text", "category"), lambda _: BANNER)


@breakage
def banner_before_the_text(case: Case) -> Rows | None:
    return case.change(case.one("name", "text"), lambda value: f"SALE! {value}", 0.5)


@breakage
def text_truncated(case: Case) -> Rows | None:
    name = case.one("text", "name")
    return case.change(name, lambda value: value if len(value) <= 15 else f"{value[:15]}...")


@breakage
def text_cut(case: Case) -> Rows | None:
    name = case.one("text")
    return case.change(name, lambda value: value[:60])


@breakage
def padded_with_space(case: Case) -> Rows | None:
    return case.change(case.one("name", "category", "price"), lambda value: f"\n      {value}\n    ")


@breakage
def shouted(case: Case) -> Rows | None:
    return case.change(case.one("name", "text", "category"), str.upper)


@breakage
def other_script(case: Case) -> Rows | None:
    return case.change(case.one("text", "name"), lambda value: RUSSIAN[: max(10, len(value))])


@breakage
def other_language(case: Case) -> Rows | None:
    return case.change(case.one("text"), lambda _: case.random.choice(GERMAN))


@breakage
def templates_not_filled(case: Case) -> Rows | None:
    return case.change(case.one("name", "price"), lambda _: "{{ product.title }}")


@breakage
def words_for_nothing(case: Case) -> Rows | None:
    return case.change(case.one("name", "price", "category", "number"), lambda _: "undefined", 0.2)


@breakage
def objects_as_text(case: Case) -> Rows | None:
    return case.change(case.one("name", "category", "text"), lambda _: "[object Object]")


@breakage
def json_in_cells(case: Case) -> Rows | None:
    return case.change(case.one("name", "price"), lambda value: '{"value": "' + value + '"}')


@breakage
def letters_doubled(case: Case) -> Rows | None:
    return case.change(case.one("name", "category"), lambda value: f"{value}{value}")


@breakage
def label_with_the_value(case: Case) -> Rows | None:
    return case.change(case.one("category", "name", "quantity", "phone"), lambda value: f"Label: {value}")


# Categories, flags, addresses


@breakage
def labels_become_codes(case: Case) -> Rows | None:
    name = case.one("category", "stock")
    if name is None:
        return None
    case.covers.add(("allowed", name))
    values = case.column(name).values
    return case.change(name, lambda value: str(values.index(value) + 1))


@breakage
def flag_turned_over(case: Case) -> Rows | None:
    return case.change(case.one("flag"), lambda value: "false" if value == "true" else "true")


@breakage
def flag_always_true(case: Case) -> Rows | None:
    return case.change(case.one("flag"), lambda _: "true")


@breakage
def all_out_of_stock(case: Case) -> Rows | None:
    return case.change(case.one("stock"), lambda _: "Out of stock")


@breakage
def category_constant(case: Case) -> Rows | None:
    name = case.one("category")
    return None if name is None else case.change(name, lambda _: case.rows[0][name])


@breakage
def addresses_relative(case: Case) -> Rows | None:
    name = case.one("url", "image")
    case.covers.add(("pattern", name or ""))
    return case.change(name, lambda value: value.removeprefix("https://www.example.com"))


@breakage
def sessions_in_addresses(case: Case) -> Rows | None:
    return case.change(case.one("url", "image"), lambda value: f"{value}?sid={case.random.getrandbits(64):x}")


@breakage
def pictures_not_loaded(case: Case) -> Rows | None:
    return case.change(case.one("image"), lambda _: "https://www.example.com/static/lazy.gif", 0.5)


@breakage
def address_of_the_list(case: Case) -> Rows | None:
    return case.change(case.one("url"), lambda _: "https://www.example.com/search?page=1")


# What only another run shows


@breakage
def stale_records(case: Case) -> Rows | None:
    return [dict(row) for row in case.before]


@breakage
def records_of_a_week_ago(case: Case) -> Rows | None:
    return [dict(row) for row in case.older]


@breakage
def sticky_prices(case: Case) -> Rows | None:
    """A cache answers with the prices of the day before."""
    name, key = case.one("price", "count"), case.having("key")[0]
    if name is None:
        return None
    old = {row[key]: row[name] for row in case.before}
    changed = 0
    for row in case.rows:
        before, row[name] = row[name], old.get(row[key], row[name])
        changed += row[name] != before
    return case.rows if changed > len(case.rows) * 0.005 else None


@breakage
def value_of_the_row_above(case: Case) -> Rows | None:
    name = case.one("price", "name", "category")
    if name is None:
        return None
    for above, row in zip(case.rows, case.rows[1:], strict=False):
        if case.random.random() < 0.3:
            row[name] = above[name]
    return case.rows


@breakage
def one_row_off(case: Case) -> Rows | None:
    """A list of names and a list of prices, one of which has a row more."""
    name = case.one("price", "number", "count")
    if name is None:
        return None
    values = [row[name] for row in case.rows]
    for row, value in zip(case.rows, [values[-1], *values], strict=False):
        row[name] = value
    return case.rows


@breakage
def keys_renumbered(case: Case) -> Rows | None:
    key = case.having("key")[0]
    for place, row in enumerate(case.rows):
        row[key] = re.sub(r"\d+$", lambda found: str(place + 1).zfill(len(found[0])), row[key])  # noqa: B023  # at once
    return case.rows


@breakage
def keys_of_other_rows(case: Case) -> Rows | None:
    key = case.having("key")[0]
    keys = [row[key] for row in case.rows]
    case.random.shuffle(keys)
    for row, value in zip(case.rows, keys, strict=True):
        row[key] = value
    return case.rows


@breakage
def keys_empty_in_some_rows(case: Case) -> Rows | None:
    key = case.having("key")[0]
    case.covers.add(("filled", key))
    return case.change(key, lambda _: "", 0.15)


@breakage
def key_constant(case: Case) -> Rows | None:
    key = case.having("key")[0]
    case.covers.add(("unique", key))
    return case.change(key, lambda _: case.rows[0][key])


@breakage
def names_at_random(case: Case) -> Rows | None:
    """Recommendations instead of the product itself."""
    return case.change(
        case.one("name"),
        lambda _: f"{case.random.choice(BRANDS)} Slim {case.random.choice(NOUNS)} A{case.random.randint(1, 9)}",
    )
