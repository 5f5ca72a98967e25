"""Other inference engines with the same weights, as systems for the benchmark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from skiplab.benchmarking.timing import Clock, System
from skiplab.engine.backbone import Backbone


def ctranslate2_system(backbone: Backbone, folder: Path, compute_type: str, *, threads: int) -> System:
    """CTranslate2 on a CPU, greedy, with every row generating the longest length of the batch.

    Args:
        folder: the converted model, which is made there if it does not exist.
        compute_type: `float32`, `int8` and so on.

    Raises:
        ImportError: the extra `bench` is not installed.
    """
    import ctranslate2  # type: ignore[import-not-found]

    if not (folder / "model.bin").exists():
        _convert(backbone, folder)
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )

    def run(prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, clock: Clock) -> None:
        rows = [[str(token) for token in prompt] for prompt in prompts]

        def on_token(result: Any) -> bool:
            if result.batch_id == len(rows) - 1:
                clock.read()
            return False

        generator.generate_batch(
            rows,
            max_length=max(lengths),
            min_length=max(lengths),
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=[],
            callback=on_token,
        )

    return run


def _convert(backbone: Backbone, folder: Path) -> None:
    """The weights in CTranslate2's format; its vocabulary is the token ids as text."""
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-not-found]
    from tokenizers import Tokenizer, models

    source = folder.with_name(f"{folder.name}.source")
    backbone.model.float().save_pretrained(source)
    vocabulary = {str(index): index for index in range(backbone.model.config.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="0")), pad_token="1", bos_token="0",
        eos_token="2", unk_token="0",
    )  # fmt: skip
    tokenizer.save_pretrained(source)
    TransformersConverter(str(source)).convert(str(folder), force=True)
