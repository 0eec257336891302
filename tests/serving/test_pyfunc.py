"""What MLflow serves answers a batch at once."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nanogpt.common.errors import UserError
from nanogpt.serving.pyfunc import TextGenerator

PROMPTS = ["ROMEO:", "", "What is 3 plus 4?", "ROMEO:"]
PARAMS = {
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop": [],
    "tokens": 20,
    "seed": 1,
}


def predict(model: TextGenerator, *prompts: str, **params: Any) -> list[str]:
    return model.predict(pd.DataFrame({"prompt": list(prompts)}), PARAMS | params)


def test_a_batch_is_as_one_by_one(plain: Path) -> None:
    model = TextGenerator(plain)
    batch = predict(model, *PROMPTS)
    assert batch == [text for prompt in PROMPTS for text in predict(model, prompt)]
    assert all(text.startswith(prompt) for text, prompt in zip(batch, PROMPTS, strict=True))
    assert batch[0] == batch[3]
    assert predict(model) == []
    assert predict(model, *PROMPTS, seed=2) != batch


def test_each_value_counts(plain: Path) -> None:
    model = TextGenerator(plain)
    (text,) = predict(model, "ROMEO:")
    assert predict(model, "ROMEO:", stop=[text[10:12]]) == [text[:10]]
    assert len(predict(model, "ROMEO:", tokens=3)[0]) == 6 + 3
    likeliest = predict(model, "ROMEO:", temperature=0.0)
    assert predict(model, "ROMEO:", top_k=1) == likeliest
    assert predict(model, "ROMEO:", min_p=1.0) == likeliest
    assert predict(model, "ROMEO:", temperature=0.0, repetition_penalty=9.0) != likeliest


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"temperature": -1.0}, "temperature: -1.0: should be greater than or equal to 0"),
        ({"tokens": 0}, "tokens: 0: should be greater than or equal to 1"),
        ({"top_p": 0.0}, "top_p: 0.0: should be greater than 0"),
        ({"stop": [""]}, "stop: "),
    ],
)
def test_what_cannot_be_is_refused(plain: Path, params: dict[str, Any], said: str) -> None:
    model = TextGenerator(plain)
    with pytest.raises(UserError) as raised:
        predict(model, "ROMEO:", **params)
    assert str(raised.value).startswith(said)
    with pytest.raises(UserError, match="'é'"):
        predict(model, "ROMEO:", "é")
    for lacking in (None, float("nan")):
        with pytest.raises(UserError, match="a prompt should be a text, and not "):
            model.predict(pd.DataFrame({"prompt": ["ROMEO:", lacking]}), PARAMS)
