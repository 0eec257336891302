"""The model card: what a published model is and what it was made of."""

import json
from pathlib import Path

from nanogpt.config import Settings
from nanogpt.model import GPT
from nanogpt.tokens import Tokens
from nanogpt.trainer import Progress


def write_card(
    folder: Path, settings: Settings, tokens: Tokens, model: GPT, progress: Progress
) -> None:
    """Write a model directory's `README.md`; no times, no ids: same training, same bytes."""
    made_of = settings.model_dump(include={"seed", "model", "train"})  # all that `train` depends on
    (folder / "README.md").write_text(f"""---
library_name: transformers
pipeline_tag: text-generation
---
# {settings.recipe}

A `{model.config.architecture}` language model of {model.parameter_count():,} parameters, trained on
`{tokens.manifest["corpus"]}`.

| | |
|---|---|
| validation loss | {progress.best_loss:.4f} nats a token, at step {progress.best_step:,} |
| steps | {settings.train.steps:,} of {settings.train.batch_size * model.config.context:,} tokens |
| training tokens | {tokens.manifest["splits"]["train"]["tokens"]:,} |
| vocabulary | {tokens.manifest["vocab_size"]:,} ({tokens.manifest["tokenizer"]}) |
| context | {model.config.context} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Lineage

| made from | SHA-256 |
|---|---|
| corpus | `{tokens.manifest["corpus_digest"]}` |
| tokens | `{tokens.digest}` |
| tokenizer | `{tokens.manifest["tokenizer_sha256"]}` |

These settings:

```json
{json.dumps(made_of, indent=1)}
```
""")
