"""How MLflow serves a model: a pyfunc loader, found by name and stored beside the weights.

model = mlflow.pyfunc.load_model("models:/nanogpt-shakespeare@champion")
model.predict(["ROMEO:"], params={"tokens": 100})
"""

from pathlib import Path
from typing import Any

from nanogpt.formats.weights import load_model
from nanogpt.generation import generate
from nanogpt.text import tokenizer


class TextGenerator:
    """Continues prompts; MLflow checks them by a signature, see `tracking/versions/upload.py`."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder)
        self.tokenizer = tokenizer.load(folder)

    def predict(self, prompts: Any, params: dict[str, Any]) -> list[str]:
        """One text for each prompt, which stands at its beginning.

        Args:
            prompts: what MLflow makes of a list of strings, a DataFrame of one column.
            params: `temperature`, `top_k` and `top_p` (0 and 1: no limit), `tokens`, `seed`.
        """
        return [
            generate(
                self.model,
                self.tokenizer,
                prompt,
                samples=1,
                tokens=params["tokens"],
                temperature=params["temperature"],
                top_k=params["top_k"] or None,
                top_p=params["top_p"],
                seed=params["seed"],
            )[0]
            for prompt in prompts.iloc[:, 0]
        ]


def _load_pyfunc(path: str) -> TextGenerator:
    """MLflow calls this by its name."""
    return TextGenerator(Path(path))
