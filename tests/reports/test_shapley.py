"""What steps are worth, worked out by hand and over all orders."""

from itertools import permutations

import numpy as np
import pytest

from reports.shapley import Factorial


def factorial(*losses: list[float], steps: int) -> Factorial:
    return Factorial([f"step{i}" for i in range(steps)], [1], np.array(losses))


def test_steps_that_do_not_interact_are_worth_what_each_does() -> None:
    # sets: none, a, b, ab; a takes 1 away and b takes 3
    found = factorial([10, 9, 7, 6], steps=2)
    assert found.values(0) == pytest.approx([-1])
    assert found.values(1) == pytest.approx([-3])
    assert found.interaction(0, 1) == pytest.approx([0])


def test_two_steps_that_only_help_together_share_it() -> None:
    found = factorial([10, 10, 10, 6], steps=2)
    assert found.values(0) == found.values(1) == pytest.approx([-2])
    assert found.interaction(0, 1) == pytest.approx([-4])


def test_three_steps_that_only_help_together_share_it_by_three() -> None:
    found = factorial([9, 9, 9, 9, 9, 9, 9, 6], steps=3)
    assert [found.values(step)[0] for step in range(3)] == pytest.approx([-1, -1, -1])
    # a pair changes something together only where the third step is there: half of the orders
    assert found.interaction(0, 2) == pytest.approx([-1.5])


def test_values_are_means_over_all_orders_and_add_up() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(3, 16))
    found = Factorial(list("abcd"), [1, 2, 3], losses)
    for step in range(4):
        by_order = []
        for order in permutations(range(4)):
            before = sum(1 << other for other in order[: order.index(step)])
            by_order.append(losses[:, before | 1 << step] - losses[:, before])
        assert found.values(step) == pytest.approx(np.mean(by_order, axis=0))
    total = sum(found.values(step) for step in range(4))
    assert total == pytest.approx(losses[:, 15] - losses[:, 0])


def test_a_greedy_search_takes_the_lowest_loss_each_time() -> None:
    # alone b is best; after b, c is better than a
    #                 -   a  b  ab c  ac bc abc
    found = factorial([9, 8, 7, 6.5, 8, 5, 6, 4], steps=3)
    assert found.greedy == [1, 2, 0]
    assert found.along(found.greedy) == pytest.approx([9, 7, 6, 4])
    assert found.along([0, 2, 1]) == pytest.approx([9, 8, 5, 4])
