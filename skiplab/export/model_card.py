"""Model cards of saved methods."""

from collections.abc import Mapping
from typing import Any

from skiplab.engine.policy import ExitPolicy


def model_card(name: str, description: Mapping[str, Any], policy: ExitPolicy, facts: Mapping[str, Any]) -> str:
    """The card of a saved method, in the hub's form.

    Args:
        description: what `skiplab.json` holds.
        facts: further rows of its table.
    """
    depths = [len(policy.plan(step)) for step in range(description["max_new_tokens"])]
    layers = ", ".join(map(str, depths[:32])) + (" and so on" if len(depths) > 32 else "")
    values = {**description["params"], **facts}
    table = "\n".join(f"| {key} | {_shown(value)} |" for key, value in values.items())
    return f"""---
library_name: skiplab
pipeline_tag: text-generation
tags: [skiplab, depth-adaptive-decoding]
---

# {name}

{description["class"].rpartition(".")[2]} at the setting {description["setting"]}, fine-tuned and decoded by skiplab.
Most layers that a token may take, from the last prompt position on: {layers}.

```python
from skiplab.export.saved_method import load_method
method = load_method("FOLDER")
print(method.generate(["a prompt"]))
```

FOLDER is this folder; on the hub, what `huggingface_hub.snapshot_download` gives for this repository's name.

`from_pretrained` reads the same weights and runs them at full depth, which is not what they were trained for.

| | |
| --- | --- |
{table}
"""


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
