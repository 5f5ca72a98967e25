"""A setting of CALM as a user gives it: its parts read from plain values, checked against each other, and named."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, final, get_args

import baselines.calm_classifier  # noqa: F401 - registers the learned classifier
from baselines.calm_policy import Exits
from baselines.calm_threshold import Decay, Threshold
from baselines.confidence import CONFIDENCE_MEASURES, ConfidenceMeasure
from skiplab.engine.policy import BatchPolicy

KeysAndValues = Literal["lazy", "eager", "exact"]
IDEAL = "ideal"

Part = TypeVar("Part")


@final
@dataclass(frozen=True, kw_only=True)
class Execution:
    """What happens to the rows of a batch that exit at different layers, and to the layers above an exit.

    Args:
        batch_policy: `freeze`, `min` or `compact`, as in `AdaptivePolicy`.
        propagation: `lazy` or `eager` keys and values, as in `AdaptivePolicy`; or, for analysis, `exact` ones of
            the full pass, with rows on their own.
    """

    batch_policy: BatchPolicy = "freeze"
    propagation: KeysAndValues = "lazy"


@final
@dataclass(frozen=True, kw_only=True)
class CALMSetting:
    """The parts of one setting; the arguments are those of `CALM`.

    Attributes:
        confidence: its name.
        measure: the measure of that name; None for the ideal exit, which needs no confidence.
    """

    threshold: float | None
    speedup: float | None
    quantile: float | None
    confidence: str
    measure: ConfidenceMeasure | None
    decay: Decay
    exits: Exits
    batch_policy: BatchPolicy
    propagation: KeysAndValues

    def __post_init__(self) -> None:
        for name, value, known in (
            ("batch_policy", self.batch_policy, get_args(BatchPolicy)),
            ("propagation", self.propagation, get_args(KeysAndValues)),
        ):
            if value not in known:
                raise ValueError(f"unknown calm {name} {value!r}; choose one of {', '.join(known)}")
        given = {"threshold": self.threshold, "speedup": self.speedup, "quantile": self.quantile}
        given = {name: value for name, value in given.items() if value is not None}
        if self.measure is None and (given or self.decay.temperature is not None):
            raise ValueError(
                "calm's ideal exit takes no threshold, speedup, quantile or decay, got "
                f"{given or {'temperature': self.decay.temperature}}"
            )
        if self.measure is not None and len(given) != 1:
            raise ValueError(f"calm takes one of threshold, speedup and quantile, got {given or 'none'}")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise ValueError(f"calm's quantile must lie in [0, 1], got {self.quantile}")
        if self.batch_policy != "freeze" and (self.measure is None or self.propagation == "exact"):
            raise ValueError(
                f"calm's oracles let rows exit on their own: batch_policy must be freeze, got {self.batch_policy}"
            )
        Threshold(value=self.threshold or 0.0)

    def exit_layers(self, num_layers: int) -> range:
        """Indices of the layers after which a row may exit.

        Raises:
            ValueError: there is no exit layer, or the speedup cannot be reached with these exits.
        """
        layers, fastest = self.exits.layers(num_layers), num_layers / self.exits.first
        if self.speedup is not None and not 1 <= self.speedup <= fastest:
            raise ValueError(
                f"calm's speedup must lie between 1 and {fastest:g}, that of exits after {self.exits.first} of "
                f"{num_layers} layers, got {self.speedup:g}"
            )
        return layers

    def __str__(self) -> str:
        """Short name: the confidence, its threshold or speedup, and all options that differ from the defaults."""
        named = [self.confidence]
        named += [f"{self.threshold:g}"] if self.threshold is not None else []
        named += [f"~{self.speedup:g}x"] if self.speedup is not None else []
        named += [f"q={self.quantile:g}"] if self.quantile is not None else []
        named += self.measure.words() if self.measure is not None else []
        named += [f"from layer {self.exits.first}"] if self.exits.first > 1 else []
        named += [f"every {self.exits.interval} layers"] if self.exits.interval > 1 else []
        named += [f"{self.exits.drawn} drawn exits"] if self.exits.drawn is not None else []
        named += [self.batch_policy] if self.batch_policy != "freeze" else []
        named += [self.propagation] if self.propagation != "lazy" else []
        named += [f"decaying {self.decay.temperature:g}"] if self.decay.temperature is not None else []
        named += ["by code"] if self.decay.formula == "code" else []
        return " ".join(named)


def part_of(cls: type[Part], name: str, options: Mapping[str, Any] | None) -> Part:
    """A part of CALM, a dataclass, from the options that a user gives.

    Args:
        name: what the user calls the part.
        options: None means the part's defaults.

    Raises:
        ValueError: these are no options of the part.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"calm's {name} is a mapping of {', '.join(known)}, got {options!r}")
    if unknown := [option for option in options or {} if option not in known]:
        takes = ", ".join(known) if known else "no options"
        raise ValueError(f"calm's {name} takes {takes}, got {', '.join(map(str, unknown))}")
    return cls(**(options or {}))


def measure_of(confidence: str | Mapping[str, Any]) -> tuple[str, ConfidenceMeasure | None]:
    """The name of a confidence and its measure, which is None for the ideal exit.

    Args:
        confidence: a name, or a mapping that holds the name as `name` and the measure's own options.

    Raises:
        ValueError: the name is unknown, or the measure does not take these options.
    """
    options = dict(confidence) if isinstance(confidence, Mapping) else {"name": confidence}
    name = options.pop("name", None)
    if name == IDEAL and not options:
        return IDEAL, None
    if name not in CONFIDENCE_MEASURES:
        known = ", ".join((*CONFIDENCE_MEASURES, IDEAL))
        raise ValueError(f"unknown calm confidence {confidence!r}; choose one of {known}, or a mapping with its name")
    return name, part_of(CONFIDENCE_MEASURES[name], f"confidence {name}", options)
