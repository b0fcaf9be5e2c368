"""weights/counting: the evaluations of any net are counted, for each picture, and only while it is asked for."""

import pytest
import torch

from palimpsest.methods.inversion import invert, redo
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.counting import counted
from palimpsest.weights.model import Model
from tests.oracles import smooth_model

X = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
PROMPTS = ["a cat", "a dog"]


def test_a_plain_walk_costs_one_evaluation_a_step_and_a_guided_one_two():
    model = smooth_model()
    inversion = invert(model, X, PROMPTS, steps=3)
    assert inversion.calls == 3
    for w, each in ((1.0, 3), (4.0, 6)):
        with counted(model, 2) as evaluations:
            redo(model, inversion, w=w)
        assert evaluations.each.tolist() == [each, each]
    assert model.listeners == []


def test_a_batch_may_hold_some_of_the_pictures_and_a_count_may_go_on():
    model = smooth_model()
    with counted(model, torch.tensor([5, 7])) as evaluations:
        with evaluations.of([1]):
            model.eps(X[1:], 500, model.embed("a dog"))
        model.eps(X, 500, model.embed(PROMPTS))
        with evaluations.of([0], batch=2):
            model.eps(torch.cat([X, X]), 500, model.embed(PROMPTS * 2))
    assert evaluations.each.tolist() == [8, 9]


def test_counts_inside_each_other_and_after_an_error_are_right():
    model, passes = smooth_model(), []
    with pytest.raises(KeyboardInterrupt):
        with counted(model, 2) as outer, counted(model, each_pass=lambda: passes.append(1)):
            assert invert(model, X, PROMPTS, steps=4).calls == 4
            raise KeyboardInterrupt
    assert outer.each.tolist() == [4, 4] and len(passes) == 4 and model.listeners == []


def test_a_net_that_is_a_plain_function_is_counted_as_well():
    model = Model("function", lambda x_t, t, ctx=None, tap=None: 0.5 * x_t, Schedule.cosine(), size=4)
    with counted(model, 2) as evaluations:
        model.denoiser()(X, 300)
    assert evaluations.each.tolist() == [1, 1]
