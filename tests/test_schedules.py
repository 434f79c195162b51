import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sparse.schedules import ByEpoch, by_epoch, multiples
from keras_sparse.validation import check_positive_int


def test_a_value_holds_until_the_next():
    schedule = ByEpoch({25: 200, 0: 100, 50: 400})
    assert [schedule(e) for e in (0, 24, 25, 49, 50, 999)] == [100, 100, 200, 200, 400, 400]


@pytest.mark.parametrize("values", [{}, {1: 5}, {0: 1, -3: 2}, {0: 1, 2.5: 3}, {0: 1, True: 3}])
def test_bad_schedules_say_what_is_expected(values):
    with pytest.raises(ValueError, match="dict of first epoch to value"):
        ByEpoch(values)


def test_numbers_dicts_and_functions_become_functions_of_the_epoch():
    assert by_epoch(7, "p", check_positive_int)(3) == 7
    assert by_epoch({0: 7, 2: 9}, "p", check_positive_int)(3) == 9
    assert by_epoch(lambda e: e + 1, "p", check_positive_int)(3) == 4


def test_what_a_function_returns_is_checked_when_it_is_called():
    schedule = by_epoch(lambda e: 0, "period", check_positive_int)
    with pytest.raises(ValueError, match=r"`period \(at epoch 3\)` must be an int of at least 1"):
        schedule(3)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_no_multiple_is_lost_however_steps_are_grouped(groups, period):
    step, found = 0, []
    for n in groups:
        found += multiples(period, step, step + n)
        step += n
    assert found == [s for s in range(1, step + 1) if s % period == 0]
