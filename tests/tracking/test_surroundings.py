"""What decides the bytes of a training on a machine."""

import pytest
import torch

from nanogpt.machine.distributed import join
from nanogpt.tracking import surroundings
from tests.kit.recipes import quick


def test_all_that_a_world_says_of_itself_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    threads = torch.get_num_threads()
    facts = join(quick().machine).facts() | {"parallel": "auto"}
    torch.set_num_threads(threads)
    found = surroundings.look(facts)
    machine = found.machine.model_dump()
    assert {key: machine[key] for key in facts} == facts
    assert machine["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert machine["torch"] == torch.__version__ == found.packages["torch"]
    assert machine["instruction_set"]
    assert machine["processor"]
    assert found == surroundings.look(facts)
