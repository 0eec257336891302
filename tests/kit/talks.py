"""Made-up conversations: sums, in English and in Russian, with what an assistant answers."""

import json
import random
from pathlib import Path
from typing import Any

ASKED = {"en": ("What is {} plus {}?", "It is {}."), "ru": ("Сколько будет {} и {}?", "Это {}.")}


def talks(count: int, seed: int = 1) -> list[list[dict[str, Any]]]:
    """Conversations of one or two questions, some of them with a word of the system."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        messages = []
        if draw.random() < 0.3:
            messages.append({"role": "system", "content": "Be brief."})
        question, answer = draw.choice(list(ASKED.values()))
        for _ in range(draw.choice((1, 1, 2))):
            a, b = draw.randrange(100), draw.randrange(100)
            messages.append({"role": "user", "content": question.format(a, b)})
            messages.append({"role": "assistant", "content": answer.format(a + b)})
        found.append(messages)
    return found


def write(path: Path, count: int, seed: int = 1) -> None:
    """A .jsonl in OpenAI's form, a conversation a line."""
    lines = (json.dumps({"messages": talk}, ensure_ascii=False) for talk in talks(count, seed))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
