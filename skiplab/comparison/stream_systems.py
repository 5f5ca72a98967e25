"""The systems that serve streams: methods with rows of mixed ages or in static batches, on one backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from skiplab.benchmarking.streams import Continuous, StaticBatches, StreamSystem
from skiplab.comparison.cases import Case
from skiplab.comparison.config_streams import Streams
from skiplab.comparison.prepare import Prepared
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, collate
from skiplab.engine.number_format import FORMATS
from skiplab.engine.policy import ExitPolicy
from skiplab.methods.base import Setup
from skiplab.reporting.results import Row
from skiplab.utils.suggestions import suggestion


@final
@dataclass(frozen=True)
class StreamEntrant:
    """A system to measure: `make` returns a fresh instance."""

    row: Row
    make: Callable[[], StreamSystem]


@final
class StreamBackbone:
    """The backbone that all systems of a run share, untrained, packed where that is faster."""

    def __init__(self, prepared: Prepared, options: Streams) -> None:
        data, number_format = prepared.data, FORMATS[options.dtype]
        self.vocabulary = options.vocabulary or len(data.tokenizer)
        self.pad_id = data.pad_id
        self.lengths = data.selection_pairs.lengths
        ids = {"pad_id": data.pad_id, "bos_id": data.bos_id, "eos_id": data.eos_id}
        plain = prepared.spec.build(vocab_size=self.vocabulary, **ids).eval().to(prepared.device)
        self.plain = plain.to(dtype=number_format.states)
        self.fast: Backbone = number_format.fast_path(self.plain, options.slots)

    def policy(self, case: Case, prepared: Prepared) -> ExitPolicy:
        """The policy with which a case decodes."""
        lengths = [target for _, target in self.lengths]
        module = case.candidates[0].build(Setup(self.plain, lengths, prepared.trainer.optimization)).eval()
        prompts = [[self.vocabulary - 1] * 4] * 4
        valid = collate(prompts, [[self.vocabulary - 1] * 4] * 4, self.pad_id)
        return module.exit_policy([Batch(*(tensor.to(prepared.device) for tensor in valid))])


def entrants(prepared: Prepared, options: Streams, backbone: StreamBackbone) -> dict[str, StreamEntrant]:
    """All of skiplab's systems, by name."""
    found: dict[str, StreamEntrant] = {}
    for case in prepared.cases:
        policy = backbone.policy(case, prepared)
        row = {**vars(case.entry), "dtype": options.dtype, "slots": options.slots}

        def mixed(policy: ExitPolicy = policy) -> StreamSystem:
            return Continuous(backbone.fast, policy, slots=options.slots, chunk=options.chunk)

        def static(policy: ExitPolicy = policy) -> StreamSystem:
            return StaticBatches(backbone.fast, policy, slots=options.slots, pad_id=backbone.pad_id)

        found[case.entry.label] = StreamEntrant(row, mixed)
        if case.entry.method in options.static:
            setting = f"{case.entry.setting} static batches"
            found[f"{case.entry.method} {setting}"] = StreamEntrant({**row, "setting": setting}, static)
    return found


def check(options: Streams, prepared: Prepared) -> None:
    """Refuse options that cannot be measured.

    Raises:
        ValueError: `static` names an unknown method, or a peer does not support the backbone.
    """
    methods = list(dict.fromkeys(case.entry.method for case in prepared.cases))
    for name in options.static:
        if name not in methods:
            raise ValueError(f"streams.static names {name!r}, which is no method here{suggestion(name, methods)}")
    with torch.device("meta"):
        backbone = prepared.new_backbone()
    if "hf_continuous" in options.peers and backbone.model.config.model_type == "opt":
        raise ValueError(
            "streams.peers has hf_continuous, and Hugging Face's continuous batching does not run OPT; take a backbone "
            "of the Llama family, such as backbone=llama_tiny, or streams.peers=[]"
        )
