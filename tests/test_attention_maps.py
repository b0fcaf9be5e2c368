"""The attention explorer: what it keeps are the net's own maps, averaged as it says, and looking changes
nothing.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from palimpsest.methods.attention_maps import AttentionMaps, Watch, explore, from_noise, sites_at
from palimpsest.methods.inversion import invert, redo
from palimpsest.methods.sampling import generate
from palimpsest.nets.attention import Site
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.weights.load import load
from palimpsest.worlds.scene import WORDS
from tests.tiny import tiny_weights

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("tiny")), dtype=torch.float64)


@pytest.fixture(scope="module")
def maps(model):
    return explore(model, [PROMPT, "a blue star"], steps=3, seed=5)


def by_hand(cross=None, steps=None):
    """Maps of "a red circle" on 2 × 2 cells, tokens: start a red circle end."""
    return AttentionMaps(
        (PROMPT,),
        torch.zeros(1, 3, 8, 8),
        WordTokenizer(list(WORDS), 5),
        cross or {},
        {},
        torch.zeros(1, 1, 2, 2, 5) if steps is None else steps,
        (980,),
    )


def test_looking_changes_nothing(model, maps):
    plain = generate(model, [PROMPT, "a blue star"], steps=3, seed=5, w=3.0)
    torch.testing.assert_close(maps.pictures, plain.picture, rtol=0, atol=1e-9)
    assert maps.levels == tuple(plain.levels[:-1])


def test_the_mean_over_steps_is_the_mean_of_each_steps_maps_and_rows_sum_to_one(model, maps):
    sites = sites_at(model, (8, 8))
    assert {s.res for s in sites} == {(8, 8)} and set(maps.cross_attention) == {
        s for s in sites if s.kind == "cross"
    }
    plain = generate(model, [PROMPT, "a blue star"], steps=3, seed=5, w=3.0)
    seen = []
    for z, t in zip(plain.path, plain.levels[:-1]):
        watch = Watch(sites)
        model.denoiser([PROMPT, "a blue star"], 1.0, tap=watch)(z, t)
        seen.append(watch)
    for site, m in maps.cross_attention.items():
        torch.testing.assert_close(m, torch.stack([w.maps[site] for w in seen]).mean(0), rtol=0, atol=1e-9)
    for site, m in maps.self_attention.items():
        torch.testing.assert_close(m, torch.stack([w.maps[site] for w in seen]).mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(maps.by_step, torch.stack([w.average() for w in seen]), rtol=0, atol=1e-9)
    for m in [*maps.cross_attention.values(), *maps.self_attention.values(), maps.by_step]:
        torch.testing.assert_close(m.sum(-1), torch.ones_like(m[..., 0]))
    assert not torch.equal(maps.by_step[0], maps.by_step[2])


def test_layers_heads_and_steps_average_to_the_whole(maps):
    whole = maps.word_map("circle", 0)
    layers = [maps.word_map("circle", 0, layer=s.name) for s in maps.cross_attention]
    heads = [maps.word_map("circle", 0, head=h) for h in range(2)]
    steps = [maps.word_map("circle", 0, step=i) for i in range(3)]
    for parts in (layers, heads, steps):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole)
        assert not torch.allclose(parts[0], parts[1], rtol=1e-6)
    assert not torch.allclose(maps.word_map("a", 1), maps.word_map("a", 0), rtol=1e-6)


def test_a_words_map_is_that_of_its_tokens_in_its_place():
    m = torch.zeros(1, 2, 4, 5)
    m[..., 0] = 0.5
    m[0, 0, :, 2], m[0, 1, 1, 2] = 0.2, 1.0
    maps = by_hand({Site("mid", "cross", (2, 2)): m})
    torch.testing.assert_close(maps.word_map("red"), torch.tensor([[0.1, 0.6], [0.1, 0.1]]))
    torch.testing.assert_close(maps.word_map("red", head=0), torch.full((2, 2), 0.2))
    assert not maps.word_map("circle").any() and maps.words() == ["a", "red", "circle"]
    heat = maps.heat_map("red")
    assert heat.shape == (8, 8) and heat.max() == 1 and heat[0, 7] == 1 and heat[7, 0] < 0.2
    lit = maps.overlay("red")
    assert (
        lit.shape == (1, 3, 8, 8) and lit[0, 0, 0, 7] == 0 and lit[0, 0, 7, 0] < -0.5
    )  # grey stays, the rest darkens


def test_entropy_is_one_for_a_flat_map_and_zero_for_a_single_cell():
    flat, single, half = torch.zeros(3, 1, 1, 4, 5)
    flat[..., 2], single[..., 3, 2], half[..., :2, 2] = 0.3, 0.3, 0.3
    site = Site("mid", "cross", (2, 2))
    assert by_hand({site: flat}).entropy("red") == pytest.approx(1)
    assert by_hand({site: single}).entropy("red") == 0
    assert by_hand({site: half}).entropy("red") == pytest.approx(math.log(2) / math.log(4))


def test_a_pixels_self_map_is_its_row_and_sums_to_one(maps):
    one = maps.self_map(2, 5, 1)
    site = next(iter(maps.self_attention))
    want = torch.stack([m[1, :, 2 * 8 + 5].mean(0) for m in maps.self_attention.values()]).mean(0)
    torch.testing.assert_close(one, want.reshape(site.res))
    assert one.sum().item() == pytest.approx(1)


def test_every_cell_has_a_self_map_and_no_other_place(maps):
    for y, x in ((0, 0), (0, 7), (7, 0), (7, 7)):
        assert maps.self_map(y, x).shape == (8, 8)
    for y, x in ((-1, 0), (0, -1), (8, 0), (0, 8)):
        with pytest.raises(ValueError, match="^y, x: must be a cell of the 8×8 maps"):
            maps.self_map(y, x)


def test_maps_that_are_wider_than_high_keep_their_shape():
    rows = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    wide = replace(
        by_hand(steps=torch.zeros(1, 1, 2, 3, 5)),
        self_attention={Site("mid", "self", (2, 3)): rows[None, None]},
    )
    assert torch.equal(wide.self_map(1, 2), rows[5].reshape(2, 3)) and wide.components(2).shape == (2, 2, 3)


def test_components_are_orthonormal_and_rebuild_the_self_attention(maps):
    matrix = torch.stack([m[0].mean(0) for m in maps.self_attention.values()]).mean(0)
    centred = matrix - matrix.mean(1, keepdim=True)
    v = maps.components(64).flatten(1)
    torch.testing.assert_close(v @ v.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-9)
    strength = (centred @ v.T).norm(dim=0)
    assert (strength.diff() <= 1e-12).all()
    torch.testing.assert_close(centred @ v.T @ v, centred, rtol=0, atol=1e-9)
    assert (v[:4].gather(1, v[:4].abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.equal(maps.components(1).flatten(1), v[:1])


def test_a_start_from_noise_has_asked_the_network_nothing(model):
    assert from_noise(model, [PROMPT], steps=2, w=2.0, seeds=[0]).calls == 0


def test_an_inversion_is_watched_on_its_own_way_down(model):
    picture = torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64).reshape(1, 3, 32, 32)
    start = invert(model, picture, PROMPT, steps=2)
    maps = explore(model, start=start)
    torch.testing.assert_close(maps.pictures, model.decode(redo(model, start)[-1]), rtol=0, atol=1e-9)
    assert maps.prompts == (PROMPT,) and len(maps.by_step) == 2 and maps.res == (8, 8)


@pytest.mark.parametrize(
    "latent, res, want",
    [
        ((8, 8), None, (8, 8)),
        ((32, 32), None, (16, 16)),
        ((8, 8), (4, 4), (4, 4)),
        ((32, 48), None, (16, 24)),
        ((64, 64), None, (32, 32)),
    ],
)
def test_by_default_the_finest_maps_up_to_sixteen(model, latent, res, want):
    assert {s.res for s in sites_at(model, latent, res)} == {
        want
    }  # (64, 64) has none, and the coarsest serve


def test_a_net_without_text_has_no_maps_to_look_at(model):
    blind = SimpleNamespace(name="blind", net=SimpleNamespace(sites=lambda latent: []))
    with pytest.raises(ValueError, match="^model: blind was trained without text"):
        sites_at(blind, (16, 16))
    only_self = [site for site in model.net.sites((16, 16)) if site.kind == "self"]
    blind.net.sites = lambda latent: only_self
    with pytest.raises(ValueError, match="^model: blind was trained without text"):
        sites_at(blind, (16, 16))


def test_mistakes_are_named(model, maps):
    for call, said in [
        (
            lambda: explore(model, PROMPT, res=(7, 7)),
            r"res: the model has no cross-attention maps of \(7, 7\); choose one of ",
        ),
        (lambda: explore(model, ""), "prompts: must say something"),
        (lambda: explore(model, []), "prompts: must say something"),
        (
            lambda: explore(model, PROMPT, start=invert(model, maps.pictures[:1], "a", steps=1)),
            "prompts: an inversion has its own",
        ),
        (lambda: maps.word_map("heart"), 'the word "heart" is not in the prompt'),
        (lambda: maps.word_map("red", layer="up9"), "layer: there is no layer 'up9'"),
        (lambda: maps.word_map("red", head=2), "head: must lie between 0 and 1"),
        (lambda: maps.word_map("red", step=3), "step: the walk has 3 steps"),
        (lambda: maps.word_map("red", step=0, head=0), "step: single steps"),
        (lambda: maps.self_map(8, 0), "y, x: must be a cell"),
        (lambda: maps.components(65), "n: must lie between 1 and 64"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
