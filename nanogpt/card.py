"""The model card: what a published model is and what it was made of."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt.config import Settings
from nanogpt.model import GPT
from nanogpt.tokens import Tokens
from nanogpt.trainer import Progress


def write_card(
    folder: Path,
    settings: Settings,
    tokens: Tokens,
    base: Mapping[str, Any],
    model: GPT,
    progress: Progress,
) -> None:
    """Write a model directory's `README.md`; no times, no ids: same training, same bytes."""
    made_of = settings.model_dump(include={"seed", "model", "train"})  # all that `train` depends on
    data, step_tokens = tokens.manifest, settings.train.batch_size * settings.model.context
    head: dict[str, str | None] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    rows = lineage = ""
    if base["base"]:
        # the hub takes only licences that it knows the name of
        known = {"MIT": "mit", "Apache-2.0": "apache-2.0"}
        head |= {"base_model": base["hub_id"], "license": known.get(base["licence"])}
        rows = f"| the same of the base, before | {progress.first_loss:.4f} nats a token |\n"
        rows += f"| base | `{base['base']}`, from {base['source']} ({base['licence']}) |\n"
        lineage = f"| base `{base['base']}` | `{base['digest']}` |\n"
    if hub := re.match("hf:([^:@]+)", data["corpus"]):
        head |= {"datasets": hub[1]}
    about = "".join(f"{key}: {value}\n" for key, value in head.items() if value)
    (folder / "README.md").write_text(f"""---
{about}---
# {settings.recipe}

A `{model.config.architecture}` language model of {model.parameter_count():,} parameters, trained on
`{data["corpus"]}`.

| | |
|---|---|
| validation loss | {progress.best_loss:.4f} nats a token, at step {progress.best_step:,} |
{rows}| steps | {settings.train.steps:,} of {step_tokens:,} tokens |
| training tokens | {data["splits"]["train"]["tokens"]:,} |
| vocabulary | {data["vocab_size"]:,} ({data["tokenizer"]}) |
| context | {model.config.context:,} tokens, trained in windows of {settings.model.context:,} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Lineage

| made from | SHA-256 |
|---|---|
{lineage}| corpus | `{data["corpus_digest"]}` |
| tokens | `{tokens.digest}` |
| tokenizer | `{data["tokenizer_sha256"]}` |

These settings:

```json
{json.dumps(made_of, indent=1)}
```
""")
