"""Restaurant descriptions: a data-to-text task generated from a seed.

A meaning representation (MR) gives 3 to 8 slots of a restaurant; the text states all of them. The
grammar varies order, sentence boundaries, aggregation, paraphrase and referring expressions, in the
style of the E2E task (arXiv 1706.09254). Every phrase names one value of one slot, so the slots can be
recovered from a text exactly.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from skiplab.data.source import SlotSource, Source
from skiplab.data.tokenizers import word_tokenizer

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerFast

Meaning = dict[str, str]

_NAMES = [
    " ".join(words)
    for words in itertools.product(
        [
            "golden",
            "silver",
            "crimson",
            "little",
            "hungry",
            "wild",
            "quiet",
            "copper",
            "velvet",
            "amber",
            "rustic",
            "merry",
        ],
        [
            "lotus",
            "fox",
            "kettle",
            "anchor",
            "willow",
            "lantern",
            "sparrow",
            "harvest",
            "table",
            "garden",
            "oak",
            "rose",
        ],
    )
] + ["zaffiro", "tamarind", "old saint george", "house of spice", "juniper", "three blind mice"]
_LANDMARKS = ("museum", "market hall", "castle", "grand theatre", "station", "library", "opera", "town bridge")
_FOODS = ("italian", "thai", "indian", "english", "greek", "mexican", "ethiopian", "korean", "turkish", "austrian")
_TYPES = ("pub", "bistro", "restaurant", "cafe", "wine bar", "tavern")
_AREAS = ("riverside", "suburbs", "harbour", "city centre")
_STARS = ("one", "two", "three", "four", "five")

VALUES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "name": _NAMES,
        "type": _TYPES,
        "food": _FOODS,
        "price": ["low", "medium", "high"],
        "rating": _STARS,
        "area": _AREAS,
        "family": ["yes", "no"],
        "near": _LANDMARKS,
    }
)

# Ways to say a value: before the noun, and as a predicate of the subject.
_BEFORE_NOUN: Mapping[str, dict[str, list[str]]] = MappingProxyType(
    {
        "food": {food: [food] for food in _FOODS},
        "price": {
            "low": ["cheap", "inexpensive"],
            "medium": ["mid range", "reasonable"],
            "high": ["expensive", "upmarket"],
        },
        "rating": {star: [f"{star} star"] for star in _STARS},
        "family": {"yes": ["family friendly"], "no": ["adults only"]},
    }
)
_PREDICATE: Mapping[str, dict[str, list[str]]] = MappingProxyType(
    {
        "food": {food: [f"serves {food} food", f"offers {food} dishes"] for food in _FOODS},
        "price": {
            "low": ["has low prices", "costs little"],
            "medium": ["has average prices", "is moderately priced"],
            "high": ["has high prices", "costs a lot"],
        },
        "rating": {star: [f"is rated {star} out of five", f"has a rating of {star} stars"] for star in _STARS},
        "family": {
            "yes": ["welcomes children", "is good for families"],
            "no": ["does not allow children", "is not for families"],
        },
        "area": {area: [f"is located in the {area}", f"lies in the {area}"] for area in _AREAS},
        "near": {mark: [f"is close to the {mark}", f"stands by the {mark}"] for mark in _LANDMARKS},
    }
)
_PLACE: Mapping[str, dict[str, list[str]]] = MappingProxyType(
    {
        "area": {area: [f"in the {area}"] for area in _AREAS},
        "near": {mark: [f"near the {mark}", f"next to the {mark}"] for mark in _LANDMARKS},
    }
)


def sample_meaning(rng: random.Random) -> Meaning:
    """A name and 2 to 7 other slots, in canonical order."""
    others = [slot for slot in VALUES if slot != "name"]
    chosen = {"name", *rng.sample(others, rng.randint(2, 7))}
    return {slot: rng.choice(VALUES[slot]) for slot in VALUES if slot in chosen}


def realise(meaning: Mapping[str, str], rng: random.Random) -> str:
    """One text that states every slot of a meaning."""
    name, noun = meaning["name"], meaning.get("type", "place")
    adjectives = [slot for slot in ("rating", "price", "family", "food") if slot in meaning and rng.random() < 0.5][-2:]
    places = [slot for slot in ("area", "near") if slot in meaning and rng.random() < 0.6]
    rng.shuffle(places)
    rest = [slot for slot in meaning if slot not in ("name", "type", *adjectives, *places)]
    rng.shuffle(rest)

    modifiers = [rng.choice(_BEFORE_NOUN[slot][meaning[slot]]) for slot in adjectives]
    phrase = _with_article(" ".join([*modifiers, noun]))
    where = " and ".join(rng.choice(_PLACE[slot][meaning[slot]]) for slot in places)
    first = _opening(name, phrase, where, rng)
    subjects = ["it", f"this {noun}", name]
    sentences = [first]
    while rest:
        size = rng.choice((1, 2, 2, 3))
        said = [rng.choice(_PREDICATE[slot][meaning[slot]]) for slot in rest[:size]]
        rest = rest[size:]
        sentences.append(f"{rng.choice(subjects)} {_listed(said)} .")
    return " ".join(sentences)


def _opening(name: str, phrase: str, where: str, rng: random.Random) -> str:
    form = rng.randrange(3)
    if form == 0 and where:
        return f"{where} , {name} is {phrase} ."
    if form == 1:
        return " ".join(f"there is {phrase} called {name} {where} .".split())
    return " ".join(f"{name} is {phrase} {where} .".split())


def _with_article(phrase: str) -> str:
    vowel = phrase[0] in "aeiou" and not phrase.startswith("one ")
    return f"{'an' if vowel else 'a'} {phrase}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([" , ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _first_word(entry: tuple[tuple[str, ...], str, str]) -> str:
    return entry[0][0]


def _phrases() -> list[tuple[tuple[str, ...], str, str]]:
    """All (words, slot, value), longest first, so that a phrase inside a longer one is not matched twice."""
    found = [(f"in the {area}", "area", area) for area in _AREAS]
    for table in (_BEFORE_NOUN, _PREDICATE, _PLACE):
        for slot, values in table.items():
            found += [(phrase, slot, value) for value, ways in values.items() for phrase in ways]
    found += [(value, slot, value) for slot in ("name", "type") for value in VALUES[slot]]
    return sorted({(tuple(phrase.split()), slot, value) for phrase, slot, value in found}, key=lambda p: -len(p[0]))


_BY_FIRST_WORD = MappingProxyType(
    {word: tuple(entries) for word, entries in itertools.groupby(sorted(_phrases(), key=_first_word), key=_first_word)}
)


def read_back(text: str) -> set[tuple[str, str]]:
    """The (slot, value) pairs that a text states, repeated or contradictory ones included once each."""
    words = text.split()
    stated, at = set(), 0
    while at < len(words):
        for phrase, slot, value in _BY_FIRST_WORD.get(words[at], ()):
            if tuple(words[at : at + len(phrase)]) == phrase:
                stated.add((slot, value))
                at += len(phrase) - 1
                break
        at += 1
    return stated


def slot_accuracy(meaning: Mapping[str, str], text: str) -> float:
    """Jaccard index of requested and stated slots."""
    asked, stated = set(meaning.items()), read_back(text)
    return len(asked & stated) / len(asked | stated)


@final
@dataclass(frozen=True, kw_only=True)
class Restaurants(Source, SlotSource):
    """The generated task. MRs are disjoint between splits.

    Args:
        seed: fixes every MR and every text.
        train_size, valid_size, test_size: MRs per split.
        references: texts per test MR; a training or validation MR has one.
    """

    seed: int = 0
    train_size: int = 16_000
    valid_size: int = 200
    test_size: int = 300
    references: int = 6

    def __post_init__(self) -> None:
        for name in ("train_size", "valid_size", "test_size", "references"):
            if getattr(self, name) < 1:
                raise ValueError(f"data {name} must be at least 1, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "restaurants"

    def load(self) -> "DatasetDict":
        from datasets import Dataset, DatasetDict

        rng = random.Random(self.seed)
        sizes = {"test": self.test_size, "valid": self.valid_size, "train": self.train_size}
        seen: dict[str, Meaning] = {}
        while len(seen) < sum(sizes.values()):
            meaning = sample_meaning(rng)
            seen.setdefault(linearise(meaning), meaning)
        meanings = iter(seen.items())
        splits = {}
        for split, size in sizes.items():
            texts = self.references if split == "test" else 1
            splits[split] = Dataset.from_list(
                [
                    {"prompt": prompt, "references": [realise(meaning, rng) for _ in range(texts)]}
                    for prompt, meaning in itertools.islice(meanings, size)
                ]
            )
        return DatasetDict(splits)

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return word_tokenizer(_words())

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {"slot_accuracy": slot_accuracy(parse_prompt(prompt), output)}

    def slots(self, prompt: str, output: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        return set(parse_prompt(prompt).items()), read_back(output)


def linearise(meaning: Mapping[str, str]) -> str:
    """The prompt: a token per slot name, then the value's words."""
    return " ".join(f"<{slot}> {value}" for slot, value in meaning.items())


def parse_prompt(prompt: str) -> Meaning:
    """The inverse of `linearise`."""
    pairs = (part.split("> ", 1) for part in prompt.removeprefix("<").split(" <"))
    return dict(pairs)


def _words() -> list[str]:
    phrases: list[Any] = [" ".join(phrase) for phrase, _, _ in _phrases()]
    values = [value for known in VALUES.values() for value in known]
    frame = "there is a an called . , and it this place"
    words = set(" ".join([*phrases, *values, frame]).split())
    return [*(f"<{slot}>" for slot in VALUES), *sorted(words)]
