"""What became of a recipe's text and settings since its tokens were made.

    with chdir(root):
        if changed := since(settings, tokens):
            print(", ".join(changed))

A ladder takes the tokens that lie there, as no stage runs before it that would make others.
"""

from collections.abc import Iterator
from contextlib import suppress

from nanogpt.common.errors import UserError
from nanogpt.common.plain_yaml import read_yaml
from nanogpt.settings import Settings
from nanogpt.sizing.digests import of_texts
from nanogpt.sources import corpora
from nanogpt.sources.fetch import Files
from nanogpt.text.raw import open_raw
from nanogpt.text.tokens import Tokens
from nanogpt.tracking.lock import before_training, read

NO_MATTER = "download.sha256", "tokenize.expect"  # what they refuse made no tokens


def since(settings: Settings, tokens: Tokens) -> list[str]:
    """Own files that were edited, added or removed, and keys that changed; seen from the root.

    What nobody can tell is left out: keys without a dvc.lock of these tokens, files without raw/.
    """
    files: list[str] = []
    with suppress(UserError):  # they are gone, and what was downloaded of them stands for them
        files = sorted(_files(settings, tokens))
    return [*files, *_keys(settings)]


def _files(settings: Settings, tokens: Tokens) -> Iterator[str]:
    parts = settings.download.parts
    found = [corpora.find(name, field) for name, field in parts]
    raw = open_raw(settings.path("raw"))
    if raw.digest != tokens.manifest.corpus_digest:
        yield f"{settings.path('raw')}, which was downloaded again"
        return
    now, was = of_texts(settings, found), dict[str, str]()
    for corpus, (_, files) in zip(found, raw.by_part(), strict=True):
        if any(isinstance(source, Files) for source in corpus.sources):
            was |= {file.name.removeprefix("corpus/"): file.sha256 for file in files}
    yield from (name for name in now.keys() | was.keys() if now.get(name) != was.get(name))


def _keys(settings: Settings) -> Iterator[str]:
    stages = before_training(read(settings.lock), settings.path("tokens"))
    asked = read_yaml(settings.params)
    for stage in ("download", "tokenize"):
        was = stages.get(stage, {}).get("params", {}).get(settings.params, {}).get(stage)
        now = asked[stage]
        for key in now if isinstance(was, dict) else ():
            if was.get(key) != now[key] and (name := f"{stage}.{key}") not in NO_MATTER:
                yield name
