"""Data sets as agents extract them, and how they change from one day to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import Any

Row = dict[str, str]
START = date(2026, 3, 2)

ADJECTIVES = [
    "Compact",
    "Classic",
    "Premium",
    "Slim",
    "Portable",
    "Wireless",
    "Modern",
    "Vintage",
    "Soft",
    "Heavy",
    "Light",
    "Smart",
    "Organic",
    "Fresh",
    "Royal",
]
NOUNS = [
    "Lamp",
    "Chair",
    "Kettle",
    "Backpack",
    "Speaker",
    "Jacket",
    "Keyboard",
    "Bottle",
    "Blender",
    "Camera",
    "Desk",
    "Drill",
    "Mixer",
    "Pillow",
    "Racket",
    "Scanner",
    "Stroller",
    "Tent",
    "Toaster",
    "Watch",
    "Router",
    "Monitor",
    "Helmet",
    "Sofa",
    "Ladder",
    "Mirror",
    "Printer",
    "Wallet",
    "Carpet",
    "Heater",
]
BRANDS = [
    "Acmé",
    "Norvik",
    "Lumen",
    "Tarago",
    "Belmont",
    "Castor",
    "Zephyr",
    "Orion",
    "Hjalmar",
    "Quanta",
    "Solano",
    "Pinewood",
    "Ferrum",
    "Delta",
    "Vesta",
    "Mirai",
    "Kestrel",
    "Aurora",
    "Nimbus",
    "Cobalt",
]
CITIES = [
    "London",
    "Paris",
    "Berlin",
    "Madrid",
    "Rome",
    "Vienna",
    "Prague",
    "Zürich",
    "Lisbon",
    "Dublin",
    "Oslo",
    "Warsaw",
    "Athens",
    "Brussels",
    "Hamburg",
    "Lyon",
    "Porto",
    "Málaga",
    "Gdańsk",
    "Ghent",
]
FIRST = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karla",
    "Liam",
    "Mara",
    "Noah",
    "Olga",
    "Paul",
    "Rita",
    "Sam",
    "Tina",
    "Uwe",
]
LAST = [
    "Smith",
    "Meyer",
    "Rossi",
    "Novak",
    "Jensen",
    "Dubois",
    "Silva",
    "Brown",
    "Kovács",
    "Müller",
    "Larsen",
    "Garcia",
    "Moreau",
    "Weber",
    "Byrne",
]
SENTENCES = (
    "The housing is made of aluminium and will last for years.",
    "It comes with a warranty of two years and a spare part.",
    "Ideal for the small kitchen, the office and the garden.",
    "Customers like that it is easy to clean and to store.",
    "The battery holds for a day of normal use.",
    "Delivered with a manual in five languages and all of the screws.",
    "A favourite of our team, tested for a month in the field.",
    "This model replaces the one of last year and is lighter.",
    "Available in three colours while stocks last.",
    "Please read the notes on safety before you use it.",
    "Rated highly by experts and by the people who own it.",
    "With a café style finish that fits to any room.",
)


@dataclass(frozen=True)
class Column:
    """A column of a data set.

    :param role: what it holds, which says which breakages can happen to it.
    :param first: makes the value of a new item.
    :param then: changes it from one day to the next; ``None`` keeps it.
    :param write: what the page shows for the value.
    :param low: bounds that all values keep, for declared rules.
    """

    name: str
    role: str
    first: Callable[[Random, dict[str, Any], int], Any]
    then: Callable[[Random, Any, dict[str, Any], int], Any] | None = None
    write: Callable[[Any], str] = str
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    pattern: str | None = None
    filled: float = 1.0


def _thousands(value: float) -> str:
    return f"{value:,.2f}"


WRITTEN_PRICES: dict[str, Callable[[float], str]] = {
    "plain": lambda value: f"{value:.2f}",
    "euro": lambda value: f"{value:.2f} EUR",
    "dollar": lambda value: f"${_thousands(value)}",
    "pound": lambda value: f"£{value:.2f}",
    "german": lambda value: _thousands(value).translate(str.maketrans(",.", ".,")) + " €",
    "whole": lambda value: f"{value:.0f}",
}

PRICE_PATTERNS = {
    "plain": r"^\d+\.\d\d$",
    "euro": r"^\d+\.\d\d EUR$",
    "dollar": r"^\$[\d,]+\.\d\d$",
    "pound": r"^£\d+\.\d\d$",
    "german": r"^[\d.]+,\d\d €$",
    "whole": r"^\d+$",
}


def _retail(value: float, random: Random) -> float:
    """Return a price as shops set it."""
    if value > 200:
        return max(1.0, round(value / 10) * 10 - random.choice([1.0, 0.01, 1.0]))
    return max(0.5, round(value) - random.choice([0.01, 0.01, 0.01, 0.05, 0.5]))


def key(name: str, style: str) -> Column:
    """Return the column that identifies an item."""
    styles: dict[str, tuple[Callable[[int, Random], str], str]] = {
        "sku": (lambda n, r: f"SKU-{n:06d}", r"^SKU-\d{6}$"),
        "number": (lambda n, r: str(1_000_000 + n * 7), r"^\d{7,8}$"),
        "zeros": (lambda n, r: f"{n * 13:08d}", r"^\d{8}$"),
        "code": (
            lambda n, r: "B" + "".join(r.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") for _ in range(5)) + f"{n:05d}",
            r"^B[A-Z0-9]{10}$",
        ),
    }
    make, pattern = styles[style]
    return Column(name, "key", lambda random, item, day: make(item["number"], random), pattern=pattern)


def title(name: str) -> Column:
    """Return a column with the name of a thing."""
    return Column(
        name,
        "name",
        lambda r, item, day: (
            f"{r.choice(BRANDS)} {r.choice(ADJECTIVES)} {r.choice(NOUNS)} {r.choice('ABCDEFGH')}{r.randint(1, 99)}"
        ),
    )


def choice(name: str, values: str, role: str = "category", keeps: float = 1.0, weights: float = 0.8) -> Column:
    """Return a column with one of few values."""
    options = tuple(values.split("|"))
    mass = [weights**place for place in range(len(options))]

    def then(random: Random, value: Any, item: dict[str, Any], day: int) -> Any:
        return value if random.random() < keeps else random.choices(options, mass)[0]

    return Column(name, role, lambda r, item, day: r.choices(options, mass)[0], then, values=options)


def price(name: str, middle: float, spread: float, style: str, change: float, role: str = "price") -> Column:
    """Return a column with a price, of which a share changes every day."""

    def first(random: Random, item: dict[str, Any], day: int) -> Any:
        season = 1 + 0.04 * math.sin(day / 20)
        return _retail(min(middle * 40, math.exp(random.gauss(math.log(middle * season), spread))), random)

    def then(random: Random, value: Any, item: dict[str, Any], day: int) -> Any:
        if random.random() < change:
            return _retail(min(middle * 40, value * random.choice([0.85, 0.9, 0.95, 1.05, 1.1, 1.15])), random)
        return value

    return Column(
        name, role, first, then, WRITTEN_PRICES[style], low=0.4, high=middle * 41, pattern=PRICE_PATTERNS[style]
    )


def list_price(name: str, of: str, style: str) -> Column:
    """Return a column with the price before a reduction."""

    def first(random: Random, item: dict[str, Any], day: int) -> Any:
        return _retail(item[of] * random.choice([1.0, 1.0, 1.2, 1.3, 1.5]), random)

    def then(random: Random, value: Any, item: dict[str, Any], day: int) -> Any:
        return value if random.random() < 0.99 else _retail(item[of] * 1.25, random)

    return Column(name, "list_price", first, then, WRITTEN_PRICES[style], low=0.4, pattern=PRICE_PATTERNS[style])


def number(
    name: str, low: float, high: float, digits: int = 0, role: str = "number", grows: float = 0.0, unit: str = ""
) -> Column:
    """Return a column with a number, which may grow by chance every day."""

    def first(random: Random, item: dict[str, Any], day: int) -> Any:
        return round(random.triangular(low, high, low + (high - low) / 3), digits)

    def then(random: Random, value: Any, item: dict[str, Any], day: int) -> Any:
        return min(high, value + random.randint(1, 3)) if random.random() < grows else value

    return Column(name, role, first, then, lambda value: f"{value:.{digits}f}{unit}", low, high)


def counted(name: str, middle: float, grows: float) -> Column:
    """Return a column that counts something, such as reviews."""
    return Column(
        name,
        "count",
        lambda r, item, day: int(min(middle * 60, math.exp(r.gauss(math.log(middle), 1.0)))),
        lambda r, value, item, day: value + r.randint(1, 4) if r.random() < grows else value,
        low=0,
        high=middle * 70,
    )


def rating(name: str, filled: float = 0.85) -> Column:
    """Return a column with a rating of one to five, which not every item has."""

    def first(random: Random, item: dict[str, Any], day: int) -> Any:
        return round(min(5.0, max(1.0, random.gauss(4.1, 0.5))), 1) if random.random() < filled else ""

    def then(random: Random, value: Any, item: dict[str, Any], day: int) -> Any:
        if value == "" or random.random() > 0.03:
            return value
        return round(min(5.0, max(1.0, value + random.choice([-0.1, 0.1]))), 1)

    return Column(name, "rating", first, then, low=1, high=5, filled=filled)


def text(name: str, sentences: int = 3, filled: float = 1.0) -> Column:
    """Return a column with some sentences."""

    def first(random: Random, item: dict[str, Any], day: int) -> Any:
        return " ".join(random.sample(SENTENCES, random.randint(1, sentences))) if random.random() < filled else ""

    return Column(name, "text", first, filled=filled)


def day(name: str, style: str, back: int, role: str = "date") -> Column:
    """Return a column with a date of the past, as it was when the item appeared."""
    write: dict[str, Callable[[date], str]] = {
        "iso": date.isoformat,
        "german": lambda value: f"{value:%d.%m.%Y}",
        "american": lambda value: f"{value:%m/%d/%Y}",
        "british": lambda value: f"{value:%d/%m/%Y}",
    }
    return Column(
        name,
        role,
        lambda r, item, now: START + timedelta(days=now - int(back * r.random() ** 2) - 1),
        None,
        write[style],
        pattern={"iso": r"^\d{4}-\d\d-\d\d$", "german": r"^\d\d\.\d\d\.\d{4}$"}.get(style, r"^\d\d/\d\d/\d{4}$"),
    )


def seen(name: str) -> Column:
    """Return a column with the day of the run."""
    return Column(
        name,
        "seen",
        lambda r, item, now: START + timedelta(days=now),
        lambda r, value, item, now: START + timedelta(days=now),
        date.isoformat,
        pattern=r"^\d{4}-\d\d-\d\d$",
    )


def address(name: str, path: str, role: str = "url") -> Column:
    """Return a column with an address of a page or a picture."""
    return Column(
        name,
        role,
        lambda r, item, day: (
            f"https://www.example.com/{path}/{r.choice(NOUNS).lower()}-{item['number']}"
            + (".jpg" if role == "image" else "")
        ),
        pattern=r"^https://www\.example\.com/",
    )


def person(name: str, filled: float = 1.0) -> Column:
    """Return a column with people's names."""
    return Column(
        name,
        "name",
        lambda r, item, day: f"{r.choice(FIRST)} {r.choice(LAST)}" if r.random() < filled else "",
        filled=filled,
    )


def phone(name: str) -> Column:
    """Return a column with telephone numbers."""
    return Column(
        name,
        "phone",
        lambda r, item, day: f"+{r.choice([44, 49, 33])} {r.randint(20, 99)} {r.randint(100000, 9999999)}",
    )


STOCK = "In stock|Out of stock|Only a few left"
TRUE = "true|false"

TEMPLATES: dict[str, tuple[int, float, float, list[Column]]] = {
    # name: (items, share of the items that are replaced every day, part of them that a weekend hides, columns)
    "electronics": (600, 0.010, 0.0, [
        key("sku", "sku"), title("name"), choice("category", "Audio|Computers|Phones|Cameras|Home|Garden"),
        price("price", 120, 0.9, "plain", 0.06), list_price("list_price", "price", "plain"),
        choice("availability", STOCK, "stock", 0.97, 0.3), rating("rating"), counted("reviews", 60, 0.2),
        address("url", "p"), address("image", "img", "image"), seen("scraped")]),
    "grocery": (900, 0.006, 0.0, [
        key("ean", "zeros"), title("product"), choice("aisle", "Dairy|Bakery|Fruit|Meat|Drinks|Frozen|Snacks"),
        price("price", 4, 0.6, "euro", 0.04), number("weight", 100, 2000, 0, "quantity", unit=" g"),
        choice("organic", TRUE, "flag", 1.0, 0.3), text("description", 2, 0.8)]),
    "fashion": (700, 0.03, 0.0, [
        key("article", "code"), title("title"), choice("gender", "Women|Men|Kids"),
        choice("colour", "black|white|blue|red|green|grey|beige"), price("price", 45, 0.5, "dollar", 0.08),
        list_price("was", "price", "dollar"), choice("sizes", "S|M|L|XL|S, M|M, L", "category"),
        address("link", "item"), address("picture", "img", "image")]),
    "books": (500, 0.008, 0.0, [
        key("isbn", "number"), title("title"), person("author"), choice("format", "Paperback|Hardcover|E-book"),
        price("price", 14, 0.4, "pound", 0.03), day("published", "british", 900), number("pages", 90, 800),
        rating("stars", 0.7), text("blurb", 4, 0.9)]),
    "homes": (400, 0.02, 0.05, [
        key("listing", "number"), title("headline"), choice("city", "|".join(CITIES[:10])),
        price("price", 350000, 0.5, "whole", 0.01), number("area", 25, 240, 0, "number"), number("rooms", 1, 7, 0, "small"),
        choice("type", "Flat|House|Studio"), day("listed", "iso", 120), text("description", 5), address("url", "home")]),
    "rentals": (350, 0.04, 0.1, [
        key("id", "sku"), title("title"), choice("district", "|".join(CITIES[5:16])), price("rent", 950, 0.35, "german", 0.01),
        number("size", 18, 140, 0, "quantity", unit=" m²"), choice("furnished", TRUE, "flag"),
        day("available_from", "german", 60), phone("contact")]),
    "cars": (800, 0.025, 0.08, [
        key("ad", "number"), choice("make", "|".join(BRANDS[:12])), title("model"), price("price", 14000, 0.6, "whole", 0.02),
        number("mileage", 0, 220000, 0, "number"), number("year", 2005, 2026, 0, "year"),
        choice("fuel", "Petrol|Diesel|Electric|Hybrid"), choice("gearbox", "Manual|Automatic"), person("dealer"),
        address("url", "car")]),
    "jobs": (500, 0.06, 0.25, [
        key("job_id", "code"), title("title"), choice("company", "|".join(BRANDS)), choice("city", "|".join(CITIES)),
        number("salary", 24000, 120000, 0, "number"), choice("contract", "Full time|Part time|Temporary"),
        day("posted", "iso", 40), text("description", 6), address("apply", "job")]),
    "hotels": (300, 0.003, 0.0, [
        key("hotel", "number"), title("name"), choice("city", "|".join(CITIES[:8])), price("night", 110, 0.4, "euro", 0.25),
        rating("score", 0.97), counted("reviews", 200, 0.3), number("stars", 1, 5, 0, "small"),
        choice("breakfast", TRUE, "flag"), address("image", "hotel", "image")]),
    "flights": (450, 0.02, 0.0, [
        key("offer", "code"), choice("origin", "|".join(CITIES[:7])), choice("destination", "|".join(CITIES[7:15])),
        choice("airline", "|".join(BRANDS[:9])), price("fare", 180, 0.5, "plain", 0.3),
        number("duration", 50, 700, 0, "number"), number("stops", 0, 2, 0, "small"), seen("searched")]),
    "restaurants": (400, 0.004, 0.0, [
        key("place", "number"), title("name"), choice("cuisine", "Italian|Indian|French|Greek|Thai|Mexican|Sushi"),
        choice("price_level", "€|€€|€€€"), rating("rating", 0.9), counted("reviews", 120, 0.25), phone("phone"),
        choice("city", "|".join(CITIES[:6])), address("website", "eat")]),
    "reviews": (800, 0.08, 0.1, [
        key("review", "sku"), person("author", 0.95), number("stars", 1, 5, 0, "rating"), text("review_text", 5),
        day("written", "american", 60), choice("verified", TRUE, "flag", 1.0, 0.25), choice("product", "|".join(NOUNS[:12]))]),
    "articles": (250, 0.12, 0.2, [
        key("article", "number"), title("headline"), person("author", 0.8), choice("section", "World|Politics|Sport|Culture"),
        day("date", "iso", 20), text("teaser", 4), counted("comments", 20, 0.3), address("url", "news")]),
    "quotes": (500, 0.001, 0.0, [
        key("isin", "code"), title("company"), price("last", 60, 0.9, "plain", 0.9), price("open", 60, 0.9, "plain", 0.9, "number_pair"),
        counted("volume", 20000, 0.9), choice("exchange", "XETRA|NYSE|LSE|SIX"), choice("currency", "EUR|USD|GBP", "currency"),
        seen("day")]),
    "events": (300, 0.05, 0.0, [
        key("event", "number"), title("title"), choice("venue", "|".join(CITIES[3:15])), day("date", "german", 90),
        price("ticket", 38, 0.5, "german", 0.02), choice("kind", "Concert|Theatre|Sport|Fair"), choice("sold_out", TRUE, "flag", 0.98, 0.2),
        address("url", "event")]),
    "pharmacy": (700, 0.005, 0.0, [
        key("pzn", "zeros"), title("product"), choice("maker", "|".join(BRANDS[4:16])), price("price", 12, 0.7, "german", 0.05),
        list_price("rrp", "price", "german"), number("content", 5, 200, 0, "quantity", unit=" ml"),
        choice("prescription", TRUE, "flag", 1.0, 0.2), choice("stock", STOCK, "stock", 0.97, 0.3)]),
    "tenders": (250, 0.05, 0.3, [
        key("notice", "code"), title("subject"), choice("country", "DE|FR|IT|ES|AT|PL"), person("buyer"),
        price("value", 250000, 1.0, "whole", 0.002), day("published", "iso", 50), text("summary", 5), address("url", "tender")]),
    "apps": (600, 0.004, 0.0, [
        key("app_id", "sku"), title("name"), choice("category", "Games|Tools|Health|Travel|Music|News"), rating("rating", 0.95),
        counted("downloads", 5000, 0.7), price("price", 3, 0.5, "dollar", 0.01), number("size", 5, 400, 1, "quantity", unit=" MB"),
        day("updated", "iso", 200), person("developer")]),
    "machines": (350, 0.01, 0.05, [
        key("part", "sku"), title("description"), choice("maker", "|".join(BRANDS[:8])), price("net_price", 800, 1.0, "euro", 0.02),
        number("weight", 1, 90, 2, "quantity", unit=" kg"), number("lead_time", 1, 60, 0, "number"), choice("stock", STOCK, "stock", 0.97, 0.3),
        address("datasheet", "pdf")]),
    "wines": (450, 0.01, 0.0, [
        key("wine", "number"), title("name"), choice("region", "Rioja|Douro|Mosel|Piemonte|Loire|Wachau"), number("vintage", 1998, 2024, 0, "year"),
        price("bottle", 16, 0.6, "euro", 0.03), rating("points", 0.8), choice("type", "Red|White|Rosé|Sparkling"), text("notes", 3, 0.9),
        address("image", "wine", "image")]),
}  # fmt: skip


@dataclass
class DataSet:
    """A site that changes every day, and what an agent that works extracts from it.

    :param seed: says which site, how large, and everything that happens there.
    """

    seed: int
    name: str = field(init=False)
    columns: list[Column] = field(init=False)

    def __post_init__(self) -> None:
        self.name = list(TEMPLATES)[self.seed % len(TEMPLATES)]
        size, self._replaced, self._hidden, self.columns = TEMPLATES[self.name]
        random = Random(f"data set {self.seed}")
        self.size = int(size * random.uniform(0.6, 1.6))
        self._replaced *= random.uniform(0.6, 1.5)
        self._growth = random.uniform(-0.002, 0.004)
        self.page = random.choice([20, 24, 30, 40, 50])

    def runs(self, days: int) -> Iterator[list[Row]]:
        """Yield the records of one run a day."""
        random = Random(f"runs {self.seed}")
        self._number = random.randint(1000, 5000)
        items = [self._new(random, day=0) for _ in range(self.size)]
        for today in range(days):
            if today:
                items = self._next_day(random, items, today)
            hidden = self._hidden * random.uniform(0.8, 1.2) if (START + timedelta(days=today)).weekday() > 4 else 0.0
            failing = random.uniform(0.0, 0.004)
            yield [self._row(item, random, failing) for item in items if random.random() >= hidden]

    def contract(self) -> dict[str, Any]:
        """Return rules that all good runs keep, as an author who knows the site would declare them."""
        rules: list[dict[str, Any]] = [
            {"rule": "required", "columns": [column.name for column in self.columns]},
            {"rule": "records", "minimum": self.size // 3},
        ]
        for column in self.columns:
            about = {"column": column.name}
            mostly = 1.0 if column.role == "key" else 0.98 if column.filled == 1 else column.filled * 0.8
            rules.append({"rule": "filled", **about, "mostly": mostly})
            if column.role == "key":
                rules.append({"rule": "unique", "columns": [column.name]})
            if column.pattern:
                rules.append({"rule": "pattern", **about, "pattern": column.pattern})
            if column.values:
                rules.append({"rule": "allowed", **about, "values": list(column.values)})
            if column.role == "rating":
                rules.append({"rule": "type", **about, "type": "number"})
            if column.low is not None:
                rules.append({"rule": "range", **about, "minimum": column.low, "maximum": column.high})
        return {"key": [rule["columns"][0] for rule in rules if rule["rule"] == "unique"], "rules": rules}

    def _new(self, random: Random, day: int) -> dict[str, Any]:
        self._number += 1
        item: dict[str, Any] = {"number": self._number}
        for column in self.columns:
            item[column.name] = column.first(random, item, day)
        return item

    def _next_day(self, random: Random, items: list[dict[str, Any]], today: int) -> list[dict[str, Any]]:
        replaced = self._replaced * random.uniform(0.4, 1.8)
        kept = [item for item in items if random.random() >= replaced]
        for item in kept:
            for column in self.columns:
                if column.then is not None:
                    item[column.name] = column.then(random, item[column.name], item, today)
        self._promote(random, kept)
        wanted = int(self.size * (1 + self._growth * today))
        new = [self._new(random, today) for _ in range(max(0, wanted - len(kept)))]
        return new + kept

    def _promote(self, random: Random, items: list[dict[str, Any]]) -> None:
        """Some days a shop reduces a few things at once."""
        prices = [column for column in self.columns if column.role == "price"]
        if prices and random.random() < 0.15:
            for item in random.sample(items, len(items) // random.randint(25, 60)):
                item[prices[0].name] = _retail(item[prices[0].name] * 0.8, random)

    def _row(self, item: dict[str, Any], random: Random, failing: float) -> Row:
        row = {
            column.name: "" if item[column.name] == "" else column.write(item[column.name]) for column in self.columns
        }
        # Once in a while a page is slow and one of its parts is not there yet.
        if random.random() < failing:
            row[random.choice([column.name for column in self.columns if column.role != "key"])] = ""
        return row
