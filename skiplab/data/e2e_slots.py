"""The values of the E2E challenge's eight slots that a text states, recognised by their usual phrases.

The challenge's references state a price range or a rating in words or in numbers, regardless of the form in the
meaning representation, so both forms count as the same value: `1 out of 5` is `low`, `£20-25` is `moderate`. A
`restaurant` that was not asked for is not counted as stated, because texts call any place a restaurant.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from unicodedata import combining, normalize

Meaning = dict[str, str]

# The names of all splits; a requested name that is not among them is searched for too.
_NAMES = (
    "Alimentum", "Aromi", "Bibimbap House", "Blue Spice", "Browns Cambridge", "Clowns", "Cocum", "Cotto",
    "Fitzbillies", "Giraffe", "Green Man", "Loch Fyne", "Midsummer House", "Strada", "Taste of Cambridge",
    "The Cambridge Blue", "The Cricketers", "The Dumpling Tree", "The Eagle", "The Golden Curry",
    "The Golden Palace", "The Mill", "The Olive Grove", "The Phoenix", "The Plough", "The Punter", "The Rice Boat",
    "The Twenty Two", "The Vaults", "The Waterman", "The Wrestlers", "Travellers Rest Beefeater", "Wildwood", "Zizzi",
)  # fmt: skip
_LANDMARKS = (
    "All Bar One", "Avalon", "Burger King", "Café Adriatic", "Café Brazil", "Café Rouge", "Café Sicilia", "Clare Hall",
    "Crowne Plaza Hotel", "Express by Holiday Inn", "Rainbow Vegetarian Café", "Raja Indian Cuisine", "Ranch",
    "The Bakers", "The Portland Arms", "The Rice Boat", "The Six Bells", "The Sorrento", "Yippee Noodle Bar",
)  # fmt: skip

# Values of meaning representations, mapped to the value that they are counted as.
_SAME = MappingProxyType(
    {
        "customer rating": {"1 out of 5": "low", "3 out of 5": "average", "5 out of 5": "high"},
        "priceRange": {"less than £20": "cheap", "£20-25": "moderate", "more than £30": "high"},
    }
)

_OF_FIVE = re.compile(
    r"\b(1|one|3|three|5|five)(?: |-)?(?:stars? )?(?:out(?: of)?|of|/) ?(?:an? (?:possible )?)?(?:5|five)\b"
    r"(?:[- ](?:stars?|starred)\b)?"
)
_STARS = r"[- ]?(?:stars?|starred)\b"
_RATED = (
    r"(?:customers? |service |overall |user |average |food )*"
    r"(?:rat(?:ing|ed|es?)|review(?:s|ed)?|customer satisfaction|quality|stars?)"
)
_PRICED = r"(?:in )?(?:pric(?:e|es|ed|ing|ey)|cost(?:s|ing)?|budget)"
# Up to three words that do not begin another statement.
_FILLED = r"(?: (?!and|with|but|in|near|by|the|from|out)[a-z']+){0,3}"
_RATING_IS = rf"(?:rat(?:ing|ings|ed|es?)|reviews?|score){_FILLED} "
_PRICE_IS = rf"(?:pric(?:e|es|ed|ing)(?: range)?|cost){_FILLED} "
_CITY = r"(?:the )?(?:city|town)"

_PATTERNS: Mapping[str, dict[str, list[str]]] = MappingProxyType({
    "eatType": {
        "pub": [r"\bpubs?\b"],
        "restaurant": [r"\brestaurants?\b"],
        "coffee shop": [r"\bcoffee\b", r"\bcafe\b"],
    },
    "food": {
        "French": [r"\bfrench\b"],
        "Japanese": [r"\bjapanese\b", r"\bsushi\b"],
        "Fast food": [r"\bfast[- ]?foods?\b"],
        "English": [r"\benglish\b", r"\bbritish\b", r"\bfish (?:and|&|n) chips\b"],
        "Italian": [r"\bitalian\b", r"\bpasta\b", r"\bpizzas?\b", r"\bspaghetti\b"],
        "Indian": [r"\bindian\b", r"\bcurr(?:y|ies)\b"],
        "Chinese": [r"\bchinese\b"],
    },
    "priceRange": {
        "cheap": [
            r"\bcheap(?:er|ly|est)?\b", r"\binexpensive", r"\baffordabl", r"\bbudget", r"\beconomical",
            rf"\blow(?:er)?[- ]{_PRICED}", rf"{_PRICE_IS}(?:low|less than|under|below)\b",
            r"\b(?:less|cheaper|lower|no more) than ?£? ?(?:20|twenty)", r"£20 or (?:less|under)",
            r"\b(?:under|below|up to) ?£? ?(?:20|twenty)",
        ],
        "moderate": [
            r"\bmoderate(?:ly)?[- ](?!rat|custom)", r"\bmoderate(?:ly)?$", r"\breasonabl[ey]", r"\bfair(?:ly)?[- ]pric",
            r"\bmid(?:dle|dling)?[- ]?(?:range|priced?|level)", rf"\b(?:average|medium)[- ]{_PRICED}",
            rf"{_PRICE_IS}(?:average|medium|moderate)\b", r"\btwenty (?:to|and) twenty[- ]five",
            r"£? ?20(?:\.00)? ?(?:-|to|and|through|up to) ?£? ?25",
        ],
        "high": [
            r"(?<!in)(?<!not )\bexpensive", r"\bpric(?:ey|y|ier)\b", r"\bhigh[- ]end", r"\bupscale", r"\bcostly",
            rf"\bhigh(?:er|ly)?[- ]?{_PRICED}", rf"{_PRICE_IS}(?:high|higher|more than|over)\b", r"\bhigh range\b",
            r"\b(?:more|higher|greater) than ?£? ?(?:30|thirty)", r"£30 ?(?:\+|or (?:more|over)|and (?:up|over|above))",
            r"\b(?:over|above|upwards? of|from|exceed\w*|at least|starting at) ?£? ?(?:30|thirty)",
        ],
    },
    "customer rating": {
        "low": [
            rf"\b(?:1|one|single){_STARS}", r"rated (?:a |as )?(?:1|one)\b",
            rf"\b(?:low(?:er|ly|est)?|poor(?:ly)?|bad(?:ly)?|negative)[- ]{_RATED}",
            rf"{_RATING_IS}(?:low|lowly|poor|poorly|bad|badly)\b",
            r"(?:\bnot|n't) (?:been )?(?:well|highly|very well)[- ](?:rated|reviewed)",
        ],
        "average": [
            rf"\b(?:3|three){_STARS}", r"rated (?:a |as )?(?:3|three)\b",
            r"\b(?:average(?:ly)?|mediocre|decent(?:ly)?|moderate(?:ly)?|mid|medium|fair(?:ly)?|middling|okay|ok)"
            rf"[- ]{_RATED}",
            rf"{_RATING_IS}(?:average|averagely|mediocre|decent|moderate|medium|fair)\b",
        ],
        "high": [
            rf"\b(?:5|five){_STARS}", r"rated (?:a |as )?(?:5|five)\b",
            r"(?<!not )(?<!n't )(?<!not been )\b(?:high(?:er|ly|est)?|excellent|great|good|well|top|best|perfect"
            rf"|outstanding|positive)[- ]{_RATED}",
            rf"{_RATING_IS}(?:high|highly|excellent|great|good|well)\b",
        ],
    },
    "area": {
        "riverside": [r"\briver"],
        "city centre": [
            r"\b(?:city|town)(?:'?s)?[- ]?(?:cent|core)", rf"\bcent(?:re|er|ral)(?: part| area)? of {_CITY}",
            r"\bcentral(?:ly)?\b", r"\bdowntown", rf"\b(?:heart|middle) of {_CITY}", r"\bcent(?:re|er) city",
            r"\bin (?:the )?cent(?:re|er)\b", r"\binner city",
        ],
    },
})  # fmt: skip
_READERS = MappingProxyType(
    {slot: {value: re.compile("|".join(ways)) for value, ways in values.items()} for slot, values in _PATTERNS.items()}
)
_FAMILY = re.compile(
    r"\bfamil|\bkids?\b|\bkid-|\bchild|\badults?\b|\byoung(?:sters|er people)|\ball ages|\bgrown[- ]?ups?"
)
_ADULTS = re.compile(r"\badults?\b|\bgrown")
_NOT = re.compile(
    r"\b(?:not?|non|none|never|nor|without|un|cannot|isnt|lacks?|excludes?|inappropriate|free|poor|bad)\b"
    r"|n't\b|\bun(?:suit|friend)"
)


def parse_meaning(mr: str) -> Meaning:
    """Slots and values of `name[X], food[Y]`; equivalent values are unified."""
    pairs = re.findall(r"([^\[,\s][^\[,]*)\[([^\]]*)\]", mr)
    return {slot: _SAME.get(slot, {}).get(value) or value for slot, value in pairs}


def read_slots(text: str, meaning: Mapping[str, str]) -> set[tuple[str, str]]:
    """The (slot, value) pairs that a text states.

    Args:
        meaning: the requested slots. Its name and landmark are searched for in addition to the known ones, and
            `restaurant` counts as stated only if it is requested.
    """
    plain = _plain(text)
    stated: set[tuple[str, str]] = set()
    asked_name, asked_near = meaning.get("name"), meaning.get("near")
    known = {_bare(name): (slot, name) for slot, names in (("name", _NAMES), ("near", _LANDMARKS)) for name in names}
    known |= {_bare(value): (slot, value) for slot, value in (("near", asked_near), ("name", asked_name)) if value}
    for bare in sorted(known, key=len, reverse=True):
        plain, count = re.subn(rf"\b(?:the )?{_loosely(bare)}(?:'?s)?\b", " # ", plain)
        if count:
            stated.add(known[bare])
    plain = _OF_FIVE.sub(r"\1 stars", plain)
    for slot, values in _READERS.items():
        found = {value for value, pattern in values.items() if pattern.search(plain)}
        if slot == "eatType" and meaning.get("eatType") != "restaurant":
            found.discard("restaurant")
        stated |= {(slot, value) for value in found}
    return stated | {("familyFriendly", value) for value in _family(plain)}


def slot_accuracy(meaning: Mapping[str, str], text: str) -> float:
    """Jaccard index of requested and stated slots."""
    asked, stated = set(meaning.items()), read_slots(text, meaning)
    return len(asked & stated) / len(asked | stated) if asked else float(not stated)


def _family(plain: str) -> Iterable[str]:
    for clause in re.split(r"[.;!?]|\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bwhile\b|\byet\b", plain):
        for mention in _FAMILY.finditer(clause):
            before = " ".join(clause[: mention.start()].split()[-6:])
            after = " ".join(clause[mention.end() :].split()[:4])
            if _ADULTS.match(mention[0]) and not re.search(r"famil|kid|child", clause):
                yield "no"
            elif _ADULTS.match(mention[0]):
                continue
            else:
                yield "no" if _NOT.search(before) or _NOT.search(after) else "yes"


def _plain(text: str) -> str:
    """Lower case, without accents, one space between words."""
    lowered = normalize("NFKD", text.lower().replace("\u2019", "'"))
    return " ".join("".join(letter for letter in lowered if not combining(letter)).split())


def _bare(name: str) -> str:
    return _plain(name).removeprefix("the ")


def _loosely(bare: str) -> str:
    """A pattern for a name: `Crowne Plaza` is the hotel of that name."""
    return re.escape(bare).replace("\\ ", "[- ]").replace("[- ]hotel", "(?:[- ]hotel)?")
