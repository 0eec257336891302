"""The card of a published model."""

import yaml

from nanogpt.training.publish import data_sets


def test_a_card_names_each_data_set_of_a_mixture() -> None:
    names = ["mine/*.txt", "hf:org/name:part@main", "hf:who/what@0a1b", "hf:org/name:other@main"]
    assert yaml.safe_load(data_sets(names)) == {"datasets": ["org/name", "who/what"]}
    assert data_sets(["shakespeare", "mine/*.txt"]) == ""
