"""How MLflow serves a model: a pyfunc loader, found by name and stored beside the weights.

model = mlflow.pyfunc.load_model("models:/nanogpt-shakespeare@champion")
model.predict(["ROMEO:"], params={"tokens": 100})
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanogpt.common.errors import UserError
from nanogpt.common.section import mistakes
from nanogpt.formats.weights import load_model
from nanogpt.generation.generate import AT_ONCE, generate
from nanogpt.generation.options import Options
from nanogpt.settings import Sample
from nanogpt.text.prompt import Start, answer, go_on
from nanogpt.text.talks.chat import Message
from nanogpt.text.talks.template import open_template
from nanogpt.text.words import tokenizer
from nanogpt.training.publish import made


class TextGenerator:
    """Continues prompts; a model of conversations answers them.

    MLflow checks them by a signature, see `tracking/versions/upload.py`.
    """

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder)
        self.tokenizer = tokenizer.load(folder)
        card = made(folder)
        self.template = open_template(folder, self.tokenizer) if card and card.talks else None

    def predict(self, prompts: Any, params: dict[str, Any]) -> list[str]:
        """One text for each prompt, which stands at its beginning; or the answer alone.

        Args:
            prompts: what MLflow makes of a list of strings, a DataFrame of one column.
            params: keys of the section `sample`; off are `top_k` 0, `top_p` 1, `min_p` 0.

        Raises:
            UserError: one of the values cannot be, or a prompt is no text; or as `go_on`, `answer`
                and `generate`.
        """
        off = {key: params[key] or None for key in ("top_k", "min_p")}
        values = params | off | {"prompt": "", "prompt_file": None, "samples": 1}
        try:
            options = Options.of(Sample.model_validate(values))
        except ValidationError as error:
            raise UserError(mistakes(error, Sample)[0]) from None
        starts = [self._start(prompt) for prompt in prompts.iloc[:, 0]]
        asked = [options] * len(starts)
        return generate(self.model, self.tokenizer, starts, asked, slots=AT_ONCE)

    def _start(self, prompt: Any) -> Start:
        if not isinstance(prompt, str):  # a DataFrame may lack some
            raise UserError(f"a prompt should be a text, and not {prompt!r:.50}")
        if self.template:
            return answer(self.template, [Message("user", prompt)])
        return go_on(self.tokenizer, prompt)


def _load_pyfunc(path: str) -> TextGenerator:
    """MLflow calls this by its name."""
    return TextGenerator(Path(path))
