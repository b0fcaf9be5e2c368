from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from random_weights import census, normal, randomised, relative_error, silent_parameters, transplant

from palimpsest.nets.text import TextTransformer, quick_gelu
from palimpsest.weights.public.layouts import text_to_transformers

SMALL = dict(vocab=50, length=12, width=24, layers=2, heads=3)
TOKENS = torch.tensor([[48, 5, 9, 9, 3, 49, 49, 49], [48, 7, 1, 0, 2, 30, 6, 49]])


@pytest.fixture(scope="module")
def text():
    return randomised(TextTransformer(**SMALL)).eval()


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return TextTransformer()


def test_the_full_configuration_is_that_of_clip(full):
    assert census(full) == (123_060_480, 196)
    assert [census(part)[0] for part in (full.tokens, full.layers, full.norm_out)] == [
        37_945_344,
        85_054_464,
        1_536,
    ]
    assert full.positions.numel() == 59_136


def reference(hidden_act="quick_gelu", meta=False, **sizes):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    config = transformers.CLIPTextConfig(**sizes, hidden_act=hidden_act)
    with torch.device("meta" if meta else "cpu"):
        return transformers.CLIPTextModel(config).eval()


def small_reference(**changes):
    return reference(
        vocab_size=50,
        max_position_embeddings=12,
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        bos_token_id=48,
        eos_token_id=49,
        pad_token_id=49,
        **changes,
    )


def prefixed(theirs):
    """Older transformers put "text_model." before every name."""
    prefix = "text_model." if any(key.startswith("text_model.") for key in theirs.state_dict()) else ""
    return lambda key: prefix + text_to_transformers(key)


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_hidden_states_of_transformers(text, dtype, tolerance):
    ours, theirs = copy.deepcopy(text).to(dtype), small_reference().to(dtype)
    transplant(ours, theirs, prefixed(theirs))
    assert relative_error(ours(TOKENS), theirs(TOKENS).last_hidden_state) < tolerance


@torch.no_grad()
def test_parity_would_notice_another_activation(text):
    theirs = small_reference(hidden_act="gelu")
    transplant(text, theirs, prefixed(theirs))
    assert relative_error(text(TOKENS), theirs(TOKENS).last_hidden_state) > 1e-3
    exact = transplant(text, TextTransformer(**SMALL, activation=F.gelu).eval(), str)
    assert relative_error(exact(TOKENS), theirs(TOKENS).last_hidden_state) < 1e-5


def test_every_key_of_the_published_encoder_has_one_name_in_transformers(full):
    theirs = reference(
        meta=True,
        vocab_size=49408,
        max_position_embeddings=77,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    rename = prefixed(theirs)
    ours = {rename(key): value.shape for key, value in full.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}


def test_quick_gelu_is_x_times_sigmoid():
    assert quick_gelu(torch.tensor(0.0)) == 0
    torch.testing.assert_close(quick_gelu(torch.tensor(2.0)), torch.tensor(2 / (1 + 2.718281828**-3.404)))


@torch.no_grad()
def test_a_token_sees_only_those_before_it(text):
    changed = TOKENS.clone()
    changed[:, 4] = 17
    before, after = text(TOKENS), text(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amax(-1).gt(1e-4).all()
    both_ways = transplant(text, TextTransformer(**SMALL, causal=False).eval(), str)
    assert (both_ways(TOKENS)[:, :4] - both_ways(changed)[:, :4]).abs().amax(-1).gt(1e-4).all()


@torch.no_grad()
def test_the_padding_token_is_part_of_the_text(text):
    zeros = torch.where(torch.arange(8) > 5, 0, TOKENS[:1])
    assert not torch.allclose(text(TOKENS[:1])[:, 6:], text(zeros)[:, 6:])


@torch.no_grad()
def test_own_vectors_take_the_place_of_tokens(text):
    x = text.embed(TOKENS)
    assert torch.equal(text.forward_embedded(x), text(TOKENS))
    x[:, 2] = normal(24)
    assert not torch.allclose(text.forward_embedded(x), text(TOKENS))


def test_tokens_and_positions_begin_at_one_scale():
    torch.manual_seed(0)
    for net, std in ((TextTransformer(**SMALL), 0.02), (TextTransformer(**SMALL, init_std=0.5), 0.5)):
        spread = torch.stack([net.tokens.weight.std(), net.positions.std()])
        torch.testing.assert_close(spread, torch.full((2,), std), rtol=0.1, atol=0)


@torch.no_grad()
def test_a_fresh_net_is_no_bag_of_words():
    torch.manual_seed(0)
    net = TextTransformer(**SMALL)
    a, b, end = 5, 9, 49  # "a b" and "b a" read at the end token
    one, other, third = (net(torch.tensor([[48, *words, end]]))[0, -1] for words in ((a, b), (b, a), (a, 11)))
    assert (one - other).norm() > 0.1 * (one - third).norm()


def test_every_parameter_receives_a_gradient():
    net = randomised(TextTransformer(**SMALL))
    every = torch.arange(50).reshape(5, 10)
    loss = net(torch.cat([every, every[:, :2]], dim=1)).pow(3).mean()
    silent = silent_parameters(net, loss)
    # a constant added to all keys moves no softmax: the bias of to_k never matters
    assert {name for name in silent if not name.endswith("attention.to_k.bias")} == set()


def test_a_text_that_is_too_long_is_named(text):
    with pytest.raises(ValueError, match="13 tokens, but this encoder was built with length=12"):
        text(torch.zeros(1, 13, dtype=torch.long))
