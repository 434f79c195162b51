import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sparse.schedules import ByEpoch, by_epoch, multiples, polynomial_decay
from keras_sparse.validation import check_positive_int


def test_a_value_holds_until_the_next():
    schedule = ByEpoch({25: 200, 0: 100, 50: 400})
    assert [schedule(e) for e in (0, 24, 25, 49, 50, 999)] == [100, 100, 200, 200, 400, 400]


@pytest.mark.parametrize("values", [{}, {1: 5}, {0: 1, -3: 2}, {0: 1, 2.5: 3}, {0: 1, True: 3}])
def test_invalid_schedules_are_refused(values):
    with pytest.raises(ValueError, match="dict of first epoch to value"):
        ByEpoch(values)


def test_numbers_dicts_and_functions_become_functions_of_the_epoch():
    assert by_epoch(7, "p", check_positive_int)(3) == 7
    assert by_epoch({0: 7, 2: 9}, "p", check_positive_int)(3) == 9
    assert by_epoch(lambda e: e + 1, "p", check_positive_int)(3) == 4


def test_the_result_of_a_function_is_checked_when_it_is_called():
    schedule = by_epoch(lambda e: 0, "period", check_positive_int)
    with pytest.raises(ValueError, match=r"`period \(at epoch 3\)` must be an int of at least 1"):
        schedule(3)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_multiples_finds_each_one_however_steps_are_grouped(groups, period):
    step, found = 0, []
    for n in groups:
        found += multiples(period, step, step + n)
        step += n
    assert found == [s for s in range(1, step + 1) if s % period == 0]


def test_polynomial_decay_by_hand():
    schedule = polynomial_decay(0.25, 0.75, begin_step=2, end_step=10, power=2, frequency=4)
    # 0.75 - 0.5 (1 - p)^2 with p = 0, 0, 1/4, 1/2, 1, 1.
    assert [schedule(t) for t in (0, 2, 4, 6, 10, 14)] == [
        (False, 0.25),
        (True, 0.25),
        (False, 0.46875),
        (True, 0.625),
        (True, 0.75),
        (False, 0.75),
    ]
    assert (schedule.begin_step, schedule.end_step, schedule.frequency, schedule.power) == (2, 10, 4, 2)
    assert (schedule.initial_sparsity, schedule.final_sparsity) == (0.25, 0.75)


def test_the_last_pruning_is_at_the_end_only_where_the_frequency_divides_the_steps():
    assert [t for t in range(99) if polynomial_decay(0.0, 0.9, 3, 20, frequency=5)(t)[0]] == [3, 8, 13, 18]
    assert [t for t in range(99) if polynomial_decay(0.0, 0.9, 3, 18, frequency=5)(t)[0]] == [3, 8, 13, 18]
    assert polynomial_decay(0.0, 0.9, 0, 1000).frequency == 100


@pytest.mark.parametrize("bad", [{"begin_step": 1.5}, {"end_step": 20.0}, {"frequency": 2.5}, {"power": float("inf")}])
def test_a_polynomial_decay_has_whole_steps(bad):
    arguments = {"initial_sparsity": 0.0, "final_sparsity": 0.9, "begin_step": 0, "end_step": 10, **bad}
    (name,) = bad
    with pytest.raises(ValueError, match=f"whole numbers for the steps.*Received:.*{name}={bad[name]}"):
        polynomial_decay(**arguments)


SPARSITIES = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2).map(sorted)


@given(
    SPARSITIES,
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.sampled_from([1, 2, 3, 4]) | st.floats(0.1, 9),
    st.integers(1, 1000),
    st.data(),
)
def test_polynomial_decay_equals_that_of_tfmot_to_the_bit(tfmot, sparsities, begin, length, power, frequency, data):
    arguments = (*sparsities, begin, begin + length, power, frequency)
    ours, theirs = polynomial_decay(*arguments), tfmot.PolynomialDecay(*arguments)
    due = st.integers(0, length // frequency + 1).map(lambda n: begin + n * frequency)
    for step in data.draw(st.lists(st.integers(0, begin + 2 * length) | due, min_size=3, max_size=3)):
        expected = theirs(step)
        assert ours(step) == (bool(expected[0]), float(expected[1]))
