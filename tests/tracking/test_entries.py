"""The outbox's folders: written, read and removed by several processes at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nanogpt.tracking import entries, location


def test_many_at_once_are_not_in_each_others_way(root: Path) -> None:
    def tell(number: int) -> None:
        key = f"sample-plays-{number % 2}"
        with entries.new(entries.unique(key), key) as entry:
            (entry / "values.json").write_text(json.dumps({"number": number}))
        for path, about in entries.waiting():
            assert about["title"] in path.name
            if number % 3 == 0:
                entries.remove(path)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(tell, range(60)))
    for number in (60, 61):
        tell(number)
    left = {path.name.partition(".")[0] for path, _ in entries.waiting()}
    assert left == {"sample-plays-1"}, "60 removed all, 61 told one more"
    ((path, _),) = entries.waiting()
    assert json.loads((path / "values.json").read_text()) == {"number": 61}
    assert list(location.outbox().iterdir()) == [path], "nothing is left of what was removed"


def test_a_newer_entry_takes_the_place_of_those_of_its_key_alone(root: Path) -> None:
    for key in ("training-a", "evaluation-a", "evaluation-ab", "evaluation-a"):
        with entries.new(entries.unique(key), key):
            pass
    titles = [about["title"] for _, about in entries.waiting()]
    assert titles == ["training-a", "evaluation-ab", "evaluation-a"]


def test_what_is_no_entry_is_left_alone(root: Path) -> None:
    (location.outbox() / "my-notes").mkdir(parents=True)
    (location.outbox() / "training-a.0").mkdir()
    assert entries.waiting() == []  # the second is being removed
    for damaged in ("{", "{}", "[]", "null"):
        (location.outbox() / "training-a.0" / "about.json").write_text(damaged)
        ((path, about),) = entries.waiting()
        assert about["title"] == path.name
