"""DreamBooth, LoRA and Textual Inversion: Eq. (9) by loops, who learns and who does not, identifiers, files, and what is refused."""
from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from methods.__main__ import main
from methods.dreambooth import WEIGHTS, CommonWord, Learner, dreambooth, squared
from methods.identifiers import common, rare_identifiers, tokens_of
from methods.lora import LoRALinear, lora, merge, places, put_lora, save_lora
from nets.tokenizer import ClipTokenizer
from nets.unet import UNet
from samplers.convert import eps_from_v, q_sample, x0_from_v
from tests.tiny import NET, shake, tiny_weights
from weights import WeightsError, load
from worlds.files import read_picture, write_picture
from worlds.scene import RARE_WORDS
from worlds.subjects import describe, render_subject, sample_context, sample_subject


@pytest.fixture(scope="module")
def b(tmp_path_factory):
    return load(tiny_weights(tmp_path_factory.mktemp("dreambooth")), "cpu")


def pictures(n=3):
    return torch.rand((n, 3, 32, 32), generator=Generator().manual_seed(0)) * 2 - 1


def bits(b):
    return {f"{name}.{k}": v.clone() for name in ("net", "text") for k, v in getattr(b, name).state_dict().items()}


def changed(before, b):
    return {k for k, v in bits(b).items() if not torch.equal(v, before[k])}


FEW = dict(steps=3, batch=2, n_prior=2, lr=1e-3)


# ---- Eq. (9) ----

@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_term_is_equation_9_by_plain_loops(b, weight):
    learner = Learner(b, RARE_WORDS[0], "net", False, 4)
    g = Generator().manual_seed(1)
    x, eps = torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 4, 8, 8, generator=g)
    t, tokens = torch.tensor([30, 400, 900]), b.tokenizer(["a star"] * 3)
    with torch.no_grad():
        got = squared(learner, b, x, tokens, t, eps, WEIGHTS[weight])
        total = 0.
        for i in range(3):
            n, a = int(t[i]), b.schedule.at(int(t[i]))
            z_t = q_sample(b.schedule, x[i:i + 1], n, eps[i:i + 1])
            v = b.net(z_t, torch.tensor([n]), b.embed("a star"))
            w = dict(snr=a / (1 - a), one=1., v=1 + a / (1 - a))[weight]
            total += w * (x0_from_v(b.schedule, z_t, n, v) - x[i:i + 1]).square().mean().item() / 3
            if weight == "snr":                                            # … which is the error of ε
                other = (eps_from_v(b.schedule, z_t, n, v) - eps[i:i + 1]).square().mean().item()
                assert w * (x0_from_v(b.schedule, z_t, n, v) - x[i:i + 1]).square().mean().item() == pytest.approx(other, rel=1e-3)
    assert got.item() == pytest.approx(total, rel=1e-3)


def test_recomputing_gives_the_same_gradient(b):
    grads = []
    for again in (False, True):
        learner = Learner(b, RARE_WORDS[0], "net", True, 4)
        x, eps = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), .3)
        squared(learner, b, x, b.tokenizer(["a star"]), torch.tensor([500]), eps, WEIGHTS["v"], again).backward()
        grads.append({k: p.grad for k, p in learner.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any(k.startswith("text.") for k in grads[0])
    for k in grads[0]:
        assert_close(grads[0][k], grads[1][k], rtol=1e-4, atol=1e-6)


# ---- who learns ----

@pytest.mark.parametrize("what, text, moved", [("net", False, {"net"}), ("net", True, {"net", "text"}), ("lora", False, {"net"}),
                                               ("word", False, {"text"})])
def test_only_what_should_learn_does_and_the_given_model_is_as_it_was(b, what, text, moved):
    before = bits(b)
    tuned = dreambooth(b, pictures(), "star", what=what, text=text, rank=2, **FEW)
    assert changed(before, b) == set()
    keys = changed(before, tuned.bundle)
    assert {k.split(".")[0] for k in keys} == moved
    if what == "lora":
        assert all(any(f".{place}.weight" in k for place in ("to_q", "to_k", "to_v", "to_out")) for k in keys)
    if what == "word":
        rows = tuned.bundle.text.tokens.weight != b.text.tokens.weight
        assert keys == {"text.tokens.weight"} and rows.any(1).nonzero().flatten().tolist() == tokens_of(b.tokenizer, tuned.identifier)
    assert bits(tuned.bundle).keys() == before.keys() and not tuned.bundle.net.training


def test_the_prior_term_has_draws_of_its_own_and_can_be_left_out(b):
    with_, without = (dreambooth(b, pictures(), "star", prior=prior, **FEW) for prior in (1., 0.))
    assert len(with_.prior) == len(with_.instance) == 3 and with_.prior_pictures.shape == (2, 3, 32, 32)
    assert without.prior == [] and without.prior_pictures is None
    assert with_.instance[0] == pytest.approx(without.instance[0], rel=1e-5)      # the same first draw of the first term
    assert with_.prior[0] != with_.instance[0]


def test_a_run_repeats_and_learns_the_thing(b):
    one, two = (dreambooth(b, pictures(2), "star", prior=0., steps=60, batch=4, lr=3e-3, seed=4) for _ in range(2))
    assert one.instance == two.instance
    assert sum(one.instance[-15:]) < .8 * sum(one.instance[:15])


def test_a_run_goes_on_from_its_checkpoint(b, tmp_path):
    whole = dreambooth(b, pictures(), "star", prior=0., steps=4, batch=2, lr=1e-3, state=tmp_path / "a.pt")
    again = dreambooth(b, pictures(), "star", prior=0., steps=4, batch=2, lr=1e-3, state=tmp_path / "a.pt")
    assert changed(bits(whole.bundle), again.bundle) == set() and again.instance == []


# ---- identifiers ----

def test_the_rare_words_of_our_tokenizer_are_those_that_no_caption_uses(b):
    assert set(rare_identifiers(b.tokenizer)) == set(RARE_WORDS)
    assert common(b.tokenizer, RARE_WORDS[0]) is None and "captions use" in common(b.tokenizer, "star")


def test_clips_rare_words_are_one_token_that_reads_back():
    try:
        tokenizer = ClipTokenizer(ClipTokenizer.find())
    except ValueError as error:
        pytest.skip(str(error))
    found = rare_identifiers(tokenizer)
    assert len(found) > 300 and "sks" in found
    for word in found[::25]:
        token, = tokens_of(tokenizer, word)
        assert tokenizer.decode([token]) == word and len(word) <= 3 and token >= 40_000
    assert common(tokenizer, "sks") is None and "tokens" in common(tokenizer, "xxy5syt00") and "common" in common(tokenizer, "dog")


def test_a_common_identifier_is_warned_of(b):
    with pytest.warns(CommonWord, match="captions use"):
        dreambooth(b, pictures(), "star", identifier="blue", prior=0., steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dreambooth(b, pictures(), "star", prior=0., steps=1).identifier in RARE_WORDS


# ---- LoRA ----

def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shake(UNet(**NET))


def says(net):
    g = Generator().manual_seed(0)
    with torch.no_grad():
        return net(torch.randn(2, 4, 8, 8, generator=g), 300, torch.randn(2, 5, 16, generator=g))


def test_lora_begins_as_nothing_merges_exactly_and_freezes_the_rest():
    plain = net()
    adapted = lora(copy.deepcopy(plain), rank=2, alpha=6.)
    assert_close(says(adapted), says(plain), rtol=1e-4, atol=1e-5)
    free = [k for k, p in adapted.named_parameters() if p.requires_grad]
    assert free and all(k.endswith((".a", ".b")) for k in free)
    n = len(list(places(adapted, LoRALinear)))
    assert len(free) == 2 * n and n == len(list(places(plain)))
    with torch.no_grad():
        for _, parent, name in places(adapted, LoRALinear):
            getattr(parent, name).b.normal_(std=.2, generator=Generator().manual_seed(1))
    moved = says(adapted)
    assert (moved - says(plain)).abs().max() > 1e-2
    merged = merge(adapted)
    assert_close(says(merged), moved, rtol=1e-3, atol=1e-3)
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_lora_is_the_low_rank_product_written_out():
    linear = torch.nn.Linear(6, 5)
    m = LoRALinear(linear, 2, alpha=3.)
    m.b.data.normal_(generator=Generator().manual_seed(0))
    x = torch.randn(4, 6, generator=Generator().manual_seed(1))
    assert_close(m(x), x @ (linear.weight + 1.5 * m.b @ m.a).T + linear.bias)


def test_lora_has_a_file_of_its_own(tmp_path):
    adapted = lora(net(), rank=2)
    with torch.no_grad():
        for _, parent, name in places(adapted, LoRALinear):
            getattr(parent, name).b.normal_(generator=Generator().manual_seed(1))
    path = save_lora(adapted, tmp_path / "x.safetensors")
    assert_close(says(put_lora(net(), path)), says(adapted))
    with pytest.raises(WeightsError, match="another net"):
        put_lora(UNet(**NET | dict(width=16)), path)
    with pytest.raises(ValueError, match="net: has no LoRA"):
        save_lora(net(), path)
    with pytest.raises(ValueError, match="net: has LoRA already"):
        lora(adapted)
    with pytest.raises(ValueError, match="rank"):
        lora(net(), rank=0)
    with pytest.raises(ValueError, match="LoRA has no place"):
        lora(torch.nn.Linear(2, 2))


# ---- mistakes, and the command ----

def test_mistakes_are_named(b):
    for match, call in {
        "pictures: must be": lambda: dreambooth(b, pictures()[:0], "star"),
        "class_noun": lambda: dreambooth(b, pictures(), " "),
        "zzz": lambda: dreambooth(b, pictures(), "zzz"),
        "prompts: 1 for 3": lambda: dreambooth(b, pictures(), "star", prompts=["a zwx star"], identifier="zwx"),
        "prior: ": lambda: dreambooth(b, pictures(), "star", prior=-1.),
        "weight: ": lambda: dreambooth(b, pictures(), "star", weight="two"),
        "qqq": lambda: dreambooth(b, pictures(), "star", identifier="qqq"),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


def test_the_command_tunes_saves_and_paints(tmp_path, capsys):
    model = tiny_weights(tmp_path)
    for k, picture in enumerate(pictures(2).split(1)):
        write_picture(picture, tmp_path / f"{k}.png")
    (tmp_path / "p.txt").write_text("a {} on a blue background\n")
    (tmp_path / "bad.txt").write_text("a zzz {}\n")
    shared = [str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--class-noun", "star", "--steps", "2", "--n-prior", "2", "--device", "cpu",
              "--model", str(model)]
    out = tmp_path / "out"
    assert main(["dreambooth", *shared, "--what", "lora", "--prompts", str(tmp_path / "p.txt"), "-o", str(out)]) == 0
    assert load(out / "model.safetensors", "cpu").net is not None and read_picture(out / "00.png").shape == (1, 3, 32, 32)
    tuned = load(out / "model.safetensors", "cpu")
    plain = put_lora(load(model, "cpu").net, out / "lora.safetensors")
    assert_close(says(merge(plain)), says(tuned.net), rtol=1e-3, atol=1e-4)
    capsys.readouterr()
    for argv, said in ((["--prompts", str(tmp_path / "bad.txt")], "zzz"), (["--prompts", str(tmp_path / "no.txt")], "prompts: "),
                       (["--class-noun", "zzz"], "zzz"), (["--steps", "0"], "steps")):
        assert main(["dreambooth", *shared, *argv, "-o", str(tmp_path / "never")]) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert main(["dreambooth", *shared, "-o", str(tmp_path / "0.png")]) == 2 and "is a file" in capsys.readouterr().err


# ---- subjects ----

def test_a_subject_is_the_same_everywhere_and_another_is_another():
    rng = random.Random(0)
    a, b_ = sample_subject(random.Random(1), "star"), sample_subject(random.Random(2), "star")
    contexts = [sample_context(rng) for _ in range(3)]
    one, again, other = render_subject(a, contexts), render_subject(a, contexts), render_subject(b_, contexts)
    assert one.shape == (3, 3, 64, 64) and torch.equal(one, again) and one.abs().max() <= 1 + 1e-6
    assert all((one[k] - other[k]).abs().mean() > .02 for k in range(3))
    assert_close(render_subject(a, contexts[1]), one[1:2])
    small = torch.nn.functional.avg_pool2d(render_subject(a, contexts, 128), 2)
    assert (small - one).abs().mean() < .02
    assert describe(a, contexts[0], "zwx") == f"a zwx star on a{'n' if contexts[0].background == 'orange' else ''} " \
        f"{contexts[0].background} background" and describe(a) == "a star"


def test_a_subject_stays_inside_its_picture_and_leaves_the_ground():
    rng = random.Random(3)
    for k in range(20):
        subject, context = sample_subject(random.Random(k)), sample_context(rng)
        picture = render_subject(subject, context)
        ground = render_subject(subject, type(context)(context.background, context.ground, -5., -5., context.radius, 0.))
        there = ((picture - ground).abs().amax(1) > .02)[0]
        assert .05 < there.float().mean() < .4
        assert not there[0].any() and not there[-1].any() and not there[:, 0].any() and not there[:, -1].any()
