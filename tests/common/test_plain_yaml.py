"""params.yaml is read as DVC reads it, or refused: by its loader, by its rewriter, by its lock."""

import re
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml, loads_yaml, parse_yaml, parse_yaml_for_update
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.common.plain_yaml import read_yaml

# what one parser or another takes for a number, a date, a truth, a reference, a tag, an ending
LOOKS = (
    "1:2 0010 0o17 0x1F 0b11 1_000 1e3 1e-3 .5 1. -0 +1 .inf .nan yes no on Off TRUE ~ Null = <<"
    " 2020-01-01 2020-13-01 &a *a !!float !!set ! %TAG ??? ${x} - ? # , [ ] { } | > @ `"
)
WORDS = st.sampled_from(re.split(" ", LOOKS))
PIECES = WORDS | st.text("01aeEx_.:-+'\"\\\t\r\n \x07\x85\u2028\ufeff\ud7ff😀", max_size=4)
VALUES = st.lists(PIECES, min_size=1, max_size=3).map("".join)
QUOTED = st.text(max_size=6).map(lambda text: dumps_yaml({"k": text}))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "params.yaml"


@given(text=VALUES.map(lambda value: f"k: {value}\n") | VALUES | QUOTED)
@example(text="%YAML 1.1\n---\nk: 0010\n")  # 8 to the one parser, 10 to the other
@example(text="k: a\tb\n")
@example(text='k: "\\ud800"\n')
def test_all_readers_agree_on_what_is_not_refused(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="")
    try:
        found = read_yaml(file)
    except UserError:
        return
    read = file.read_text(encoding="utf-8")
    assert repr(found) == repr(parse_yaml(read, file))
    assert "nan" in repr(found) or found == parse_yaml_for_update(read, file)
    assert repr(found) == repr(loads_yaml(dumps_yaml(found)))  # what dvc.lock gives back


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("k: 0010", {"k": 10}),
        ("k: 1:2", {"k": "1:2"}),
        ("k: yes", {"k": "yes"}),
        ("k: 1e-3", {"k": 0.001}),
        ("k: 1_000", {"k": 1000}),
        ("k: '&a ${ y'", "`dvc exp run -S` fills in ${…}"),
        ("k: ???", "fills in"),
        ("a: &x 1\nb: *x", "line 1, column 4: &, * and <<"),
        ("k: {<<: {a: 1}}", "&, * and <<"),
        ("k: !!float 3", "line 1, column 4: tag:yaml.org,2002:float: write the value without"),
        ("%YAML 1.1\n---\nk: 0010", "a line that begins with %"),
        ("k: {1: 2}", "k.1: a key has to be a word"),
        ("? {a: 1}\n: 2", "found unhashable key, in line 1, column 3"),
        ("k: 1\nk: 2", 'found duplicate key "k", in line 2, column 1'),
        ("k: 2020-13-01", "month must be in 1..12"),
        ("k: " + "9" * 5000, "digits"),
        ("k: " + "[" * 100_000, "settings are not nested as deeply as this"),
        ("- a", "holds no settings"),
        ("k: 1\n---\nk: 2", "another document"),
    ],
)
def test_values_and_refusals(file: Path, text: str, says: object) -> None:
    file.write_text(text, encoding="utf-8")
    if isinstance(says, dict):
        assert read_yaml(file) == says
    else:
        with pytest.raises(UserError) as error:
            read_yaml(file)
        assert str(says) in str(error.value)
