"""One of a thing is not several."""

import pytest

from quantum_core.display import number_of


@pytest.mark.parametrize(("count", "text"), [(0, "0 plans"), (1, "1 plan"), ("1", "1 plan"), (2, "2 plans"), ("?", "? plans")])
def test_a_count_agrees_with_what_is_counted(count: object, text: str) -> None:
    assert number_of(count, "plan") == text
