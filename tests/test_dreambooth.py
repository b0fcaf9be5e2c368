"""DreamBooth: the loss as printed, a model of its own, identifiers, and everything a user can get wrong."""

import copy
import json
import math
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import palimpsest.cli.commands.dreambooth as the_command
import palimpsest.methods.dreambooth as module
import palimpsest.methods.prior as the_prior
from palimpsest.arguments import ArgumentError, Caution
from palimpsest.cli.main import main
from palimpsest.methods.dreambooth import (
    Batch,
    Examples,
    dreambooth,
    dreambooth_loss,
    flat_weight,
    snr_weight,
    trainable_copy,
    tune,
    v_weight,
    velocity_weight,
    weighted_error,
)
from palimpsest.methods.glide import upsample
from palimpsest.methods.identifiers import check_identifier, comes_back, find_identifier, rare_words
from palimpsest.methods.learner import Course, check_can_be_tuned, given_pictures
from palimpsest.methods.prior import Prior, prior_latents
from palimpsest.methods.sampling import generate
from palimpsest.methods.super_resolution import (
    check_upsampler,
    dreambooth_upsampler,
    made_small,
    upsampler_error,
)
from palimpsest.methods.textual_inversion import encode_with_word, textual_inversion
from palimpsest.nets.lora import LoraLinear, adapt, adapted
from palimpsest.nets.tokenizer import ClipTokenizer, WordTokenizer
from palimpsest.samplers.ddpm import l_simple
from palimpsest.samplers.noise import generator_of
from palimpsest.weights.cache import CacheError, digest, digest_model
from palimpsest.weights.files import read_weights
from palimpsest.weights.load import load
from palimpsest.worlds.files import read_picture, write_picture
from palimpsest.worlds.notes import read_note
from palimpsest.worlds.scene import RARE_WORDS, WORDS, with_article
from palimpsest.worlds.subjects import render_subject, sample_context, sample_subject
from tests.test_recipes import free_port
from tests.tiny import tiny_glide, tiny_weights

QUICK = dict(course=Course(steps=2, batch=2), prior=Prior(n=2, steps=1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def b(file):
    return load(file, "cpu")


@pytest.fixture(scope="module")
def double(file):
    return load(file, "cpu", torch.float64)


@pytest.fixture(scope="module")
def x():
    rng = random.Random(0)
    return render_subject(sample_subject(rng, "star"), [sample_context(rng) for _ in range(3)], 32)


@pytest.fixture(scope="module")
def learned(b, x):
    return dreambooth(b, x, "star", course=Course(steps=3, batch=2, lr=1e-3), prior=Prior(n=2, steps=1))


def noised(b, n, seed, prompt="a zwx star", low=1):
    g = torch.Generator().manual_seed(seed)
    shape = (n, *b.latent_shape)
    return Batch(
        torch.randn(shape, generator=g, dtype=b.dtype),
        b.tokenizer([prompt] * n),
        torch.randint(low, b.schedule.T + 1, (n,), generator=g),
        torch.randn(shape, generator=g, dtype=b.dtype),
    )


# ---- Eq. (9) ----


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_loss_is_equation_9_by_plain_loops(double, prediction, shift):
    model = replace(double, prediction=prediction, shift=shift)
    mine, theirs = noised(model, 2, 1), noised(model, 3, 2, "a star")
    total, first, second = dreambooth_loss(model, model.text, mine, theirs, 0.7, flat_weight)
    terms = []
    for part in (mine, theirs):
        errors = []
        for x, tokens, t, eps in zip(*part):
            a = model.schedule.at(int(t))
            z_t = a**0.5 * x + (1 - a) ** 0.5 * eps
            out = model.net(z_t[None], int(t) - shift, model.text(tokens[None]))[0]
            hat = (
                (z_t - (1 - a) ** 0.5 * out) / a**0.5
                if prediction == "eps"
                else a**0.5 * z_t - (1 - a) ** 0.5 * out
            )
            errors.append(((hat - x) ** 2).mean())
        terms.append(sum(errors) / len(errors))
    torch.testing.assert_close(torch.stack((first, second)), torch.stack(terms), rtol=1e-8, atol=0)
    torch.testing.assert_close(total, terms[0] + 0.7 * terms[1], rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "prediction, weight", [("eps", snr_weight), ("v", v_weight), ("velocity", velocity_weight)]
)
def test_w_of_snr_is_the_error_of_eps_and_of_1_plus_snr_that_of_v_and_w_of_1_is_neither(
    double, prediction, weight
):
    model, (x, tokens, t, eps) = replace(double, prediction=prediction), noised(double, 4, 3)
    ctx = model.text(tokens)
    want = l_simple(lambda z_t, t: model.net(z_t, t, ctx), model.schedule, x, t, eps, prediction)
    torch.testing.assert_close(weighted_error(model, ctx, x, t, eps, weight).mean(), want, rtol=1e-6, atol=0)
    flat = weighted_error(model, ctx, x, t, eps, flat_weight).mean()
    assert abs(flat / want - 1) > 0.1


def test_snr_weights_are_those_of_the_schedule(double):
    t, like = torch.tensor([1, 500, 1000]), torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    want = torch.tensor([double.schedule.snr(int(n)) for n in t], dtype=torch.float64)
    torch.testing.assert_close(snr_weight(double.schedule, t, like).flatten(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(v_weight(double.schedule, t, like).flatten(), 1 + want, rtol=1e-6, atol=0)


def test_the_prior_term_adds_and_identical_halves_give_1_plus_lambda(double):
    mine, theirs = noised(double, 2, 1), noised(double, 2, 2, "a star")
    alone, *_ = dreambooth_loss(double, double.text, mine, None, 3.0, v_weight)
    without, *_ = dreambooth_loss(double, double.text, mine, theirs, 0.0, v_weight)
    twice, *_ = dreambooth_loss(double, double.text, mine, mine, 0.5, v_weight)
    torch.testing.assert_close(without, alone)
    torch.testing.assert_close(twice, 1.5 * alone)


# ---- a model of its own ----


def test_the_given_model_is_left_bit_for_bit_and_a_new_one_comes_back(b, x, learned):
    before = digest_model(b)
    again = dreambooth(b, x, "star", course=Course(steps=3, batch=2, lr=1e-3), prior=Prior(n=2, steps=1))
    assert digest_model(b) == before and not any(p.requires_grad for p in b.net.parameters())
    assert digest_model(again.model) == digest_model(learned.model) != before  # and it is repeatable
    assert digest(*learned.model.text.state_dict().values()) == digest(
        *b.text.state_dict().values()
    )  # text was frozen
    assert not any(p.requires_grad for p in learned.model.net.parameters()) and not learned.model.net.training
    moved = [
        name
        for name, p in learned.model.net.named_parameters()
        if not torch.equal(p, b.net.get_parameter(name))
    ]
    assert len(moved) == len(list(b.net.parameters()))  # the whole U-Net


def test_the_result_says_what_was_learned_step_by_step(learned):
    assert (learned.identifier, learned.prompt, learned.class_prompt) == ("zwx", "a zwx star", "a star")
    want = [i + p for i, p in zip(learned.instance, learned.prior)]
    assert len(learned.losses) == 3 and learned.prior_latents.shape == (2, 4, 8, 8)
    torch.testing.assert_close(torch.tensor(learned.losses), torch.tensor(want))
    assert generate(learned.model, learned.prompt, steps=1).picture.shape == (1, 3, 32, 32)


def test_training_brings_the_loss_down(b, x):
    run = dreambooth(b, x, "star", course=Course(steps=16, batch=4, lr=1e-2), prior=Prior(weight=0))
    assert (
        sum(run.instance[-4:]) < 0.85 * sum(run.instance[:4])
        and run.prior == [0.0] * 16
        and run.prior_latents is None
    )


def test_prior_pictures_have_times_and_noise_of_their_own_and_the_class_prompt(b, x, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "dreambooth_loss", lambda *given: seen.append(given) or dreambooth_loss(*given)
    )
    dreambooth(b, x, "star", **QUICK)
    for _, _, mine, theirs, *_ in seen:
        assert not torch.equal(mine.eps, theirs.eps) and not torch.equal(mine.t, theirs.t)
        assert (
            b.tokenizer.decode(mine.tokens[0]) == "a zwx star"
            and b.tokenizer.decode(theirs.tokens[0]) == "a star"
        )
    assert not torch.equal(seen[0][2].eps, seen[1][2].eps) and len(seen) == 2


def test_pieces_and_recomputed_activations_change_memory_and_not_the_result(b, x):
    plain, pieces = (
        dreambooth(b, x, "star", tune_text=True, course=course, prior=QUICK["prior"])
        for course in (QUICK["course"], replace(QUICK["course"], accumulate=2, checkpointing=True))
    )
    torch.testing.assert_close(pieces.losses, plain.losses)
    torch.testing.assert_close(pieces.instance, plain.instance, rtol=1e-5, atol=1e-6)
    for mine, theirs in ((pieces.model.net, plain.model.net), (pieces.model.text, plain.model.text)):
        for name, p in mine.named_parameters():
            torch.testing.assert_close(p, theirs.get_parameter(name), rtol=0, atol=2e-5)
    assert digest(*plain.model.text.state_dict().values()) != digest(*b.text.state_dict().values())
    assert not pieces.model.net.recompute


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(b, x, tmp_path, monkeypatch, learned):
    calls = []

    def stop(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return dreambooth_loss(*given)

    course, prior = Course(steps=3, batch=2, lr=1e-3), Prior(n=2, steps=1)
    settings = dict(course=course, prior=prior, state=tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(module, "dreambooth_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            dreambooth(b, x, "star", **settings)
    resumed = dreambooth(b, x, "star", **settings)
    assert digest_model(resumed.model) == digest_model(learned.model)
    assert (resumed.losses, resumed.instance, resumed.prior) == (
        learned.losses,
        learned.instance,
        learned.prior,
    )
    with pytest.raises(ValueError, match="checkpoint .* belongs to a run with different latents: use"):
        dreambooth(b, x.flip(0) * 0.5, "star", **settings)


def other_net(b):
    other = replace(b, net=copy.deepcopy(b.net))
    other.net.conv_in.weight.data *= 1.1
    return other


@pytest.mark.parametrize(
    "verb, first, then, what",
    [
        (dreambooth, {}, dict(model=other_net), "different model"),
        (dreambooth, dict(rank=2, alpha=2.0), dict(model=other_net), "different model"),
        (dreambooth, dict(rank=2, alpha=2.0), dict(alpha=4.0), r"lora=rank 2 alpha 2 \(now rank 2 alpha 4\)"),
        (dreambooth, {}, dict(prompts=["a zwx ring"] * 3), "different texts"),
        (textual_inversion, {}, dict(class_noun="ring"), "different start of the word"),
        (textual_inversion, {}, dict(model=other_net), "different model"),
    ],
)
def test_the_state_of_another_model_or_of_another_start_is_refused(b, x, tmp_path, verb, first, then, what):
    plain = dict(prior=Prior(weight=0.0)) if verb is dreambooth else {}
    course = Course(steps=1, batch=1)
    settings = dict(model=b, pictures=x, class_noun="star", course=course, state=tmp_path) | plain | first
    verb(**settings)
    with pytest.raises(
        ValueError, match=rf"checkpoint\.pt belongs to a run with {what}: use its settings"
    ) as error:
        verb(**settings | then | (dict(model=then["model"](b)) if "model" in then else {}))
    assert "\n" not in str(error.value)


def test_the_prior_is_kept_for_its_own_class_and_model_only(b, tmp_path, learned):
    file, two = tmp_path / "prior.safetensors", Prior(n=2, steps=1)
    first = prior_latents(b, ["a star"], two, state=file)
    assert torch.equal(first, prior_latents(b, ["a star"], two, state=file))
    assert not torch.equal(first, prior_latents(b, ["a ring"], two))
    with pytest.raises(CacheError, match="another prompt"):
        prior_latents(b, ["a ring"], two, state=file)
    with pytest.raises(CacheError, match="another model"):
        prior_latents(learned.model, ["a star"], two, state=file)


def test_a_moving_average_is_what_comes_back_where_one_is_asked_for(b, x):
    raw, mean = (
        dreambooth(b, x, "star", course=Course(steps=2, batch=2, lr=1e-2, ema=ema), prior=Prior(weight=0))
        for ema in (0.0, 0.9)
    )
    start, end, mid = (m.net.conv_in.weight for m in (b, raw.model, mean.model))
    assert 0 < (mid - start).norm() < (end - start).norm()


@pytest.mark.parametrize(
    "words, said",
    [
        (("star",), "a star"),
        (("emerald",), "an emerald"),
        (("zwx", "apple"), "a zwx apple"),
        (("olis", "dog"), "an olis dog"),
        (("Olis", ""), "an Olis"),
        (("",), ""),
        ((" ",), ""),
    ],
)
def test_an_article_is_that_of_the_word_after_it_and_nothing_has_none(words, said):
    assert with_article(*words) == said


def test_without_a_noun_there_is_no_class_prompt_and_each_method_asks_for_its_articles_in_one_way(b, x):
    nameless = dreambooth(b, x, "", course=Course(steps=1, batch=1), prior=Prior(weight=0.0))
    assert (nameless.prompt, nameless.class_prompt) == ("a zwx", "")
    vowel = replace(
        b, tokenizer=WordTokenizer(["ohx" if word == "zwx" else word for word in b.tokenizer.words])
    )
    with pytest.warns(Caution, match="common word"):
        said = [
            dreambooth(
                vowel, x, "star", identifier="ohx", course=Course(steps=1, batch=1), prior=Prior(weight=0.0)
            ).prompt,
            textual_inversion(vowel, x, "orange", identifier="ohx", course=Course(steps=1, batch=1))[2:4],
        ]
    assert said == ["an ohx star", ("an ohx", "an orange")]


# ---- Textual Inversion ----


def test_textual_inversion_moves_one_vector_and_nothing_else(b, x):
    before = digest_model(b)
    found = textual_inversion(b, x, "star", course=Course(steps=2, batch=2))
    assert digest_model(b) == before and digest(*found.model.net.state_dict().values()) == digest(
        *b.net.state_dict().values()
    )
    token, coarse = b.tokenizer.token("zwx"), b.tokenizer.token("star")
    moved = (found.model.text.tokens.weight - b.text.tokens.weight).abs().amax(1)
    assert moved.nonzero().flatten().tolist() == [token]
    rest = [v for name, v in found.model.text.state_dict().items() if name != "tokens.weight"]
    assert digest(*rest) == digest(*(v for name, v in b.text.state_dict().items() if name != "tokens.weight"))
    away = (found.model.text.tokens.weight[token] - b.text.tokens.weight[coarse]).abs()
    assert 0 < away.max() < 0.02 and found.prompt == "a zwx"  # it began at the class's own vector


def test_a_text_with_the_word_is_read_as_if_the_vector_stood_in_the_table(b):
    token, tokens = b.tokenizer.token("zwx"), b.tokenizer(["a zwx on a zwx", "a star"])
    word = torch.nn.Module()
    word.vector = torch.nn.Parameter(torch.linspace(-1, 1, 16))
    text = load_text(b, token, word.vector)
    torch.testing.assert_close(encode_with_word(b.text, word, token, tokens), text(tokens))
    encode_with_word(b.text, word, token, tokens).square().mean().backward()
    assert word.vector.grad.norm() > 0


def load_text(b, token, vector):
    text = copy.deepcopy(b.text)
    text.tokens.weight.data[token] = vector.detach()
    return text


# ---- identifiers ----


def test_word_identifiers_are_the_reserved_words_and_come_back():
    tokenizer = WordTokenizer(list(WORDS))
    assert rare_words(tokenizer) == list(RARE_WORDS) and find_identifier(tokenizer) == RARE_WORDS[0]
    assert all(comes_back(tokenizer, word) for word in RARE_WORDS) and not comes_back(tokenizer, "zwx star")
    assert {find_identifier(tokenizer, seed) for seed in range(60)} == set(RARE_WORDS)


def test_pictures_texts_and_times_are_drawn_evenly_and_texts_belong_to_their_picture():
    latents = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2)
    tokens = torch.tensor(
        [[[0, 0], [0, 1], [0, 2]], [[1, 0], [1, 1], [1, 2]]]
    )  # pictures 2, 3 share with 0, 1
    drawn = Examples(latents, tokens).draw(6000, 5, torch.Generator().manual_seed(0))
    x, said, t, eps = drawn
    for found, values in ((x[:, 0, 0, 0], range(4)), (said[:, 1], range(3)), (t, range(1, 6))):
        counts = torch.stack([(found == v).sum() for v in values])
        assert counts.sum() == 6000 and (counts / 6000 * len(values)).sub(1).abs().max() < 0.1
    assert torch.equal(said[:, 0], x[:, 0, 0, 0].long() % 2)
    assert eps.shape == x.shape and abs(eps.mean()) < 0.02 and abs(eps.var() - 1) < 0.03


def test_the_rate_of_a_run_falls_along_its_cosine_from_the_first_step(b, x, monkeypatch):
    told = []

    def only_told(loss, net, batch, settings, files, **how):
        told.append((settings, files))
        raise InterruptedError

    monkeypatch.setattr(module, "fit", only_told)
    with pytest.raises(InterruptedError):
        dreambooth(b, x, "star", course=Course(steps=7, batch=2, lr=1e-3, seed=5), prior=Prior(weight=0))
    ((settings, files),) = told
    assert (settings.steps, settings.lr, settings.warmup, settings.seed) == (7, 1e-3, 0, 5)
    assert settings.betas == (0.9, 0.999) and settings.accumulate == 1 and files.checkpoint is None


def test_a_step_draws_the_same_pictures_in_however_many_pieces(b, x, monkeypatch):
    drawn = []

    def only_drawn(loss, net, batch, settings, files, **how):
        drawn.append(batch(3, torch.Generator().manual_seed(1)))
        raise InterruptedError

    monkeypatch.setattr(module, "fit", only_drawn)
    for n in (1, 2):
        with pytest.raises(InterruptedError):
            dreambooth(b, x, "star", course=Course(batch=4, accumulate=n), prior=Prior(weight=0))
    (step, k, whole, prior), halves = drawn
    assert (step, k, prior) == (3, 0, None) and [half[:2] for half in halves] == [(3, 0), (3, 1)]
    first, second = (half[2] for half in halves)
    assert len(whole.x) == 4 and len(first.x) == len(second.x) == 2
    for column, parts in zip(whole, zip(first, second)):
        assert torch.equal(column, torch.cat(parts))


def test_the_changes_of_net_and_text_begin_from_two_seeds_and_at_strength_one(b):
    new = trainable_copy(b, rank=2, tune_text=True, seed=5)
    for part, plain, seed in ((new.net, b.net, 5), (new.text, b.text, 6)):
        expected = copy.deepcopy(plain)
        adapt(expected, 2, 2, generator_of(seed))
        pairs = list(zip(adapted(part).values(), adapted(expected).values(), strict=True))
        assert pairs and all(torch.equal(one.down, other.down) for one, other in pairs)
        assert all(one.scale == 1 for one, _ in pairs)
    strong = adapted(trainable_copy(b, rank=2, alpha=6, seed=5).net)
    assert all(change.scale == 3 for change in strong.values())


def test_there_is_no_search_where_no_rare_word_is_known():
    with pytest.raises(ValueError, match="^identifier: there is no search over a SimpleNamespace"):
        rare_words(SimpleNamespace(words=["sks"]))
    with pytest.raises(ValueError, match="^identifier: .* has no rare word to spare"):
        find_identifier(WordTokenizer(["a", "red", "star"], length=8))


def test_only_a_net_in_single_precision_with_the_channels_of_the_task_can_be_tuned():
    about = dict(name="net", dtype=torch.float32, channels=4, beside=4)
    check_can_be_tuned(SimpleNamespace(**about), beside=4)
    with pytest.raises(ValueError, match="^model: the net of net takes 8 channels, more than"):
        check_can_be_tuned(SimpleNamespace(**about))
    with pytest.raises(ValueError, match="^model: fine-tuning needs float32, and net is torch.float16"):
        check_can_be_tuned(SimpleNamespace(**about | dict(dtype=torch.float16)), beside=4)


def test_an_upsampler_is_tuned_at_a_factor_that_divides_its_side_and_not_one_for_inpainting():
    def upsampler(inpainting):
        return SimpleNamespace(
            name="up", size=16, net=SimpleNamespace(upsampling=True, inpainting=inpainting)
        )

    check_upsampler(upsampler(False), 4)
    with pytest.raises(ValueError, match="^factor: must divide 16, the side that up paints, got 5"):
        check_upsampler(upsampler(False), 5)
    with pytest.raises(ValueError, match="^model: up enlarges parts painted anew"):
        check_upsampler(upsampler(True), 4)


@pytest.mark.slow
def test_clip_identifiers_are_short_late_and_come_back():
    tokenizer = ClipTokenizer()
    words = rare_words(tokenizer)
    assert 100 < len(words) < 900 and len(set(words)) == len(words) and "sks" not in words
    for word in words:
        ((token,),) = tokenizer.pieces(word)
        assert token >= 40000 and len(word) <= 3 and tokenizer.decode([token]) == word
    assert tokenizer.pieces("sks") == [[48136]] and not comes_back(tokenizer, "xxy5syt00")
    assert find_identifier(tokenizer, 1) == find_identifier(tokenizer, 1) in words


@pytest.mark.parametrize(
    "identifier, words, what",
    [
        ("red", True, "'red' is a common word"),
        ("RED zwx", True, "'red' in 'RED zwx' is a common word"),
        ("xxy5syt00", False, "7 tokens"),
        ("bee", False, "'bee' is a common word"),
        ("sks", False, "common word"),
        ("SKS", False, "'sks' is a common word"),
        ("red dog", False, "'red' in 'red dog' is a common word"),
        ("photo of", False, "common word"),
        ("olis dog", False, "'dog' in"),
        ("sks-olis", False, "'sks' in 'sks-olis' is a common word"),
    ],
)
def test_an_identifier_with_a_meaning_is_warned_of(b, identifier, words, what):
    model = b if words else replace(b, tokenizer=ClipTokenizer())
    with pytest.warns(Caution, match=f"^identifier: .*{what}"):
        assert check_identifier(model, identifier) == identifier


@pytest.mark.parametrize(
    "identifier, words", [("zwx", True), ("ZWX", True), ("zwx kex", True), ("RARE", False), ("RARE 5", False)]
)
def test_a_rare_identifier_is_not_warned_of(b, identifier, words):
    model = b if words else replace(b, tokenizer=ClipTokenizer())
    rare = identifier.replace("RARE", rare_words(model.tokenizer)[0].upper())
    assert check_identifier(model, rare) == rare  # a warning is an error here


# ---- what is refused ----


@pytest.mark.parametrize(
    "given, what",
    [
        (
            dict(identifier="blarg"),
            "identifier: the model does not know the word \"blarg\"; its rare words are: zwx",
        ),
        (dict(identifier=" "), "identifier: is empty"),
        (dict(class_noun="dog"), "class_noun: the model does not know the word \"dog\""),
        (dict(class_noun=""), "class_noun: is empty.*the prior's weight to 0"),
        (dict(prior=Prior(prompts=["a star"] * 20 + ["a dog"])), "unknown word \"dog\""),
        (dict(prior=Prior(steps=1001)), "prior.steps: must lie between 1 and 1000, got 1001"),
        (dict(alpha=2.0), "alpha: 2 is the strength of a low-rank change, and rank is 0"),
        *[
            (dict(rank=2, alpha=value), "alpha: must be at least 0.*; 0 means the rank")
            for value in (-1.0, math.nan, math.inf)
        ],
        (dict(rank=-1), "rank: must be at least 0"),
        (dict(rank=99), "rank: must lie in 1"),
        (dict(pictures=[]), "pictures: there are none"),
        (
            dict(pictures=[torch.zeros(3, 32, 32), torch.zeros(3, 32, 24)]),
            "pictures: must be of one size, got 24×32, 32×32",
        ),
        (dict(pictures=torch.zeros(3, 3, 30, 30)), "pictures: must be .* divide by 8"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line_that_names_it_before_a_picture_is_painted(
    b, x, given, what, monkeypatch
):
    monkeypatch.setattr(the_prior, "generate", lambda *a, steps, w, eta, seed: pytest.fail("painted"))
    given = dict(pictures=x, class_noun="star") | QUICK | given
    with pytest.raises(ValueError, match=f"^{what}") as error:
        dreambooth(b, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "record, given, what",
    [
        (Course, dict(steps=0), "steps: must be at least 1"),
        (Course, dict(lr=0.0), "lr: must be above 0"),
        (Course, dict(ema=1.0), "ema: must lie in"),
        (Course, dict(accumulate=0), "accumulate: must be at least 1"),
        (Course, dict(seed=1.5), "seed: must be a whole number"),
        (Course, dict(batch=3, accumulate=2), "batch: 3 pictures cannot be shared"),
        (Course, dict(weight="snr"), "weight: must be a function"),
        *[(Prior, dict(weight=value), "weight: must be at least 0") for value in (-1.0, math.nan, math.inf)],
        *[(Prior, dict(w=value), "w: must be a finite number") for value in (math.nan, math.inf)],
        (Prior, dict(n=0), "n: must be at least 1, got 0; to learn without a prior, set its weight to 0"),
        (Prior, dict(steps=0), "steps: must be at least 1"),
        (Prior, dict(prompts=[]), "prompts: are none"),
    ],
)
def test_a_record_refuses_a_bad_field_in_one_line_that_names_it(record, given, what):
    with pytest.raises(ArgumentError, match=f"^{what}") as error:
        record(**given)
    assert "\n" not in str(error.value)


def test_pictures_may_be_files_or_pil_images_and_what_is_no_picture_is_refused(b, x, tmp_path):
    path = tmp_path / "star.png"
    write_picture(x[:1], path)
    found = given_pictures(b, [path, Image.open(path), x[0], x[1:2]])
    assert found.shape == (4, 3, 32, 32) and torch.equal(found[0], found[1])
    torch.testing.assert_close(found[[0, 2, 3]], x[[0, 0, 1]], atol=1 / 255, rtol=0)
    with pytest.raises(ArgumentError, match=r"^pictures: must lie in \[-1, 1\], got values from .* to 255"):
        given_pictures(b, 255 * (x + 1) / 2)


def test_one_picture_is_warned_of_and_a_model_that_cannot_learn_is_refused(b, x, monkeypatch):
    with pytest.warns(Caution, match="^pictures: only one"):
        assert given_pictures(b, x[:1]).shape == (1, 3, 32, 32)
    monkeypatch.setattr(the_prior, "generate", lambda *a, steps, w, eta, seed: pytest.fail("painted"))
    with pytest.raises(ValueError, match="^checkpointing: a UNet cannot make its activations again"):
        monkeypatch.delattr(b.net, "recompute")
        dreambooth(b, x, "star", course=Course(checkpointing=True))
    with pytest.raises(ValueError, match="^model: tiny reads no text"):
        dreambooth(replace(b, text=None, tokenizer=None), x, "star")
    with pytest.raises(ValueError, match="^model: fine-tuning needs float32"):
        dreambooth(
            replace(
                b,
                net=b.net.__class__(
                    in_channels=4, width=8, mult=(1,), attention=(True,), heads=2, ctx_width=16, norm_groups=4
                ).to(torch.bfloat16),
            ),
            x,
            "star",
        )


# ---- the command ----


@pytest.fixture
def room(tmp_path, monkeypatch, x):
    monkeypatch.chdir(tmp_path)
    for name, picture in zip("abc", x.split(1)):
        write_picture(picture, tmp_path / f"{name}.png")
    write_picture(x[:1, :, :, :16], tmp_path / "tall.png")
    (tmp_path / "prompts.txt").write_text("a [V] star on a red background\n\na star\n", encoding="utf-8")
    (tmp_path / "odd.txt").write_text("a [V] star\na [V] elephant\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "grounds.txt").write_text(
        "a [V] star on a red background\n\na red [V] star\na star left of a [V]\n", encoding="utf-8"
    )
    (tmp_path / "nameless.txt").write_text("a [V] star\n\na star\na [V]\n", encoding="utf-8")
    (tmp_path / "glued.txt").write_text("a [V] star\na [V]star\na [V]\n", encoding="utf-8")
    (tmp_path / "unread.txt").write_text("a [V] star\na [V]\n\na [V] elephant\n", encoding="utf-8")
    return tmp_path


RUN = (
    "dreambooth a.png b.png c.png --class-noun star "
    "--steps 1 --batch 1 --n-prior 1 --prior-steps 1 -n 1 --shown-steps 1 -o out --model TINY"
).split()


def argv(file, *more, without=()):
    pictures = [word for word in more if word in ("none.png", "tall.png")]
    options = [word for word in more if word not in pictures]
    words = [str(file) if word == "TINY" else word for word in RUN if word not in without]
    return [*words[:1], *pictures, *words[1:], *options]


@pytest.mark.parametrize(
    "how, say, kind",
    [
        ((), "a zwx star", "all weights"),
        (("--rank", "2"), "a zwx star", "LoRA of rank 2"),
        (("--word",), "a zwx", "a word"),
    ],
)
def test_the_command_writes_a_model_that_every_other_command_takes(room, file, capsys, how, say, kind):
    assert main(argv(file, "--prompts", "prompts.txt", *how)) == 0
    own = [] if how else ["tiny-vae.safetensors"]  # its autoencoder is no shipped one, so it goes along
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "000_0.png",
        "001_0.png",
        "learned.json",
        "model.safetensors",
        *own,
    ]
    said = capsys.readouterr()
    assert (
        said.err == ""
        and kind in said.out
        and repr(say) in said.out
        and "; 2 prompts, 1 picture each, " in said.out
    )
    record = json.loads(read_note("out/001_0.png"))
    assert "--prompts prompts.txt" in record["command"] and len(record["inputs"]) >= 2
    assert main(["again", "out/001_0.png"]) == 2 and "dreambooth trains" in capsys.readouterr().err
    small = Path("out/model.safetensors").stat().st_size < 0.5 * file.stat().st_size
    assert small == bool(how)
    assert (
        main(["generate", "--prompt", say, "--steps", "1", "--model", "out/model.safetensors", "-o", "g.png"])
        == 0
    )


WAYS = {"whole": (), "rank": ("--rank", "1"), "word": ("--word",)}


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_what_is_learned_on_top_of_what_was_learned_loads_and_paints_what_was_shown(
    room, file, capsys, first, second
):
    assert main(argv(file, *WAYS[first], "-o", "first")) == 0
    how = ("--identifier", "qev", "--seed", "1", *WAYS[second], "-o", "second")
    assert main(argv("first/model.safetensors", *how)) == 0
    said = json.loads(Path("second/learned.json").read_text(encoding="utf-8"))["prompt"]
    (room / "elsewhere").mkdir()
    os.chdir("elsewhere")  # a base is named from the file, not from where the command ran
    painted = ["generate", "--prompt", said, "--steps", "1", "--w", "3", "--seed", "1", "-o", "g.png"]
    assert main([*painted, "--model", "../second/model.safetensors"]) == 0, capsys.readouterr().err
    assert torch.equal(read_picture("g.png"), read_picture("../second/000_0.png"))
    learned, base = (load(f"../{name}/model.safetensors", "cpu") for name in ("second", "first"))
    assert digest_model(learned) != digest_model(base)


@pytest.mark.slow
def test_two_processes_learn_one_model_and_the_first_of_them_writes_it(room, file):
    """Under torchrun: both paint the prior, each draws its half of the batch; the state is there until
    the pictures are.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(free_port()),
            "-m",
            "palimpsest",
            *argv(file, "--steps", "3", "--batch", "2", "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
        timeout=300,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "000_0.png",
        "learned.json",
        "model.safetensors",
        "tiny-vae.safetensors",
    ]
    assert done.stdout.count("\n") == 1 and "1 prompt, 1 picture" in done.stdout
    curve = json.loads(Path("out/learned.json").read_text(encoding="utf-8"))
    assert len(curve["instance"]) == len(curve["prior"]) == 3 and min(curve["instance"] + curve["prior"]) > 0
    two = read_weights("out/model.safetensors")[1]
    assert main(argv(file, "--steps", "3", "--batch", "2", "--device", "cpu")) == 0
    one = read_weights("out/model.safetensors")[1]
    assert two.keys() == one.keys() and any(not torch.equal(two[k], one[k]) for k in two), (
        "two ranks see other pictures than one"
    )


@pytest.mark.parametrize(
    "more, without, what",
    [
        ((), ("a.png", "b.png", "c.png"), "IN: no pictures"),
        (("none.png",), (), "IN: none.png"),
        (
            ("tall.png",),
            ("a.png", "b.png", "c.png"),
            "IN: are 32×64 as the model sees them, and its prior pictures 32×32",
        ),
        (("tall.png",), (), "IN: the pictures have different proportions"),
        (("--identifier", "blarg"), (), "identifier: the model does not"),
        (("--class-noun", "dog"), (), "class-noun: the model does not know"),
        (
            ("--class-noun", ""),
            (),
            "class-noun: is empty, so there is no class whose prior could be kept; give one, or set the "
            "prior's weight to 0",
        ),
        (("--class-noun", "red star", "--word"), (), "class-noun: must be one token"),
        (("--prior-weight", "-1"), (), "prior-weight: must be at least 0, got -1.0"),
        (("--n-prior", "0"), (), "n-prior: must be"),
        (("--prior-steps", "0"), (), "prior-steps: must be at least 1, got 0"),
        (("--prior-steps", "1001"), (), "prior-steps: must lie between 1 and 1000, got 1001"),
        (("--rank", "99"), (), "rank: must lie in 1"),
        (("--alpha", "2"), (), "alpha: 2 is"),
        (("--accumulate", "2"), (), "batch: 1 pictures cannot be shared"),
        (
            ("--captions", "none.txt"),
            (),
            "captions: none.txt is not there; check the name, or write that file with a caption a line",
        ),
        (("--captions", "empty.txt"), (), "captions: empty.txt holds no caption"),
        (("--captions", "prompts.txt"), (), "captions: 2 for 3 pictures; give a line each"),
        (("--captions", "nameless.txt"), (), "captions: line 3: 'a star' has no [V]"),
        (("--captions", "glued.txt"), (), "captions: line 2: 'a [V]star' has no [V] as a word of its own"),
        (("--captions", "unread.txt"), (), 'captions: line 4: unknown word "elephant"'),
        (("--captions", "grounds.txt", "--word"), (), "captions: the word is looked for under templates"),
        (("--prompts", "none.txt"), (), "prompts: none.txt is not there; check the name"),
        (("--prompts", "empty.txt"), (), "prompts: empty.txt holds no prompt"),
        (("--prompts", "odd.txt"), (), "prompts: line 2: unknown word"),
        (("-o", "a.png"), (), "out: a.png must be a folder"),
        (("-o", "no/out"), (), "out: no/out must be"),
        (("-n", "0"), (), "n: must lie"),
        (("--word", "--rank", "2"), (), "word: looks for one vector"),
        (("--steps", "0"), (), "steps: must be at least 1, got 0"),
    ],
)
def test_a_users_mistake_ends_in_one_line_and_leaves_no_model(room, file, capsys, more, without, what):
    assert main(argv(file, *more, without=without)) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"palimpsest: error: {what}") and said.err.count("\n") == 1 and said.out == ""
    assert not Path("out").exists()


def test_a_run_that_is_refused_leaves_the_folder_that_was_there_and_what_it_kept(room, file, capsys):
    Path("out").mkdir()
    assert main(argv(file, "--rank", "99")) == 2 and Path("out").is_dir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(the_command, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(argv(file)) == 130
    kept = sorted(p.name for p in Path("out/state").iterdir())
    capsys.readouterr()
    assert main(argv(file, "--lr", "1")) == 2 and kept == ["checkpoint.pt", "prior.safetensors"]
    assert "belongs to a run with lr=0.0001 (now 1.0)" in capsys.readouterr().err
    assert sorted(p.name for p in Path("out/state").iterdir()) == kept


def test_captions_give_each_picture_its_text_in_the_order_of_the_files(room, file, monkeypatch):
    heard = []

    @wraps(dreambooth)
    def listening(*given, **how):
        heard.append(how)
        return dreambooth(*given, **how)

    monkeypatch.setattr(the_command, "dreambooth", listening)
    assert (
        main(
            argv(
                file, "--captions", "grounds.txt", "--identifier", "KEX", "--tune-text", "--prior-weight", "0"
            )
        )
        == 0
    )
    said = ["a KEX star on a red background", "a red KEX star", "a star left of a KEX"]
    assert (
        heard[0]["prompts"]
        == json.loads(Path("out/learned.json").read_text(encoding="utf-8"))["captions"]
        == said
        and heard[0]["tune_text"]
    )
    assert (
        main(argv(file, "--captions", "grounds.txt", "--identifier", "zwx kex", "--prior-weight", "0")) == 0
    )
    assert heard[1]["prompts"][1] == "a red zwx kex star"  # of two words


def test_the_pictures_at_the_end_have_a_bar_too_and_one_prompt_is_not_called_each(
    room, file, capsys, monkeypatch
):
    bars = []

    @contextmanager
    def bar(b, calls, what=""):
        bars.append((what, calls))
        yield

    monkeypatch.setattr(the_command, "progress", bar)
    for n, said in (("1", "; 1 prompt, 1 picture, "), ("2", "; 1 prompt, 2 pictures, ")):
        assert (
            main(argv(file, "-n", n, "--shown-steps", "2", "--prior-weight", "0")) == 0
            and said in capsys.readouterr().out
        )
    assert bars == 2 * [("prior pictures", 0), ("pictures", 2)]


@pytest.mark.filterwarnings("default")
def test_a_common_identifier_and_one_picture_are_notes_and_no_errors(room, file, capsys):
    assert main(argv(file, "--identifier", "red", "--prior-weight", "0", without=("b.png", "c.png"))) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("palimpsest: note: ") for line in said)
    assert "only one" in said[0] and "common word" in said[1]


def test_each_picture_may_have_a_text_of_its_own_and_so_may_each_prior_picture(b, x, monkeypatch):
    said, heard = [f"a zwx star on a {ground} background" for ground in ("red", "blue", "green")], []
    monkeypatch.setattr(module, "tune", lambda *a, **how: heard.append(a) or tune(*a, **how))
    asked = Prior(n=2, steps=1, prompts=["a red star", "a blue star"])
    dreambooth(b, x, "star", prompts=said, prior=asked, course=QUICK["course"])
    _, _, _, (latents, tokens), (prior, prior_tokens), _ = heard[0]
    assert torch.equal(tokens[:, 0], b.tokenizer(said)) and torch.equal(
        prior_tokens[:, 0], b.tokenizer(["a red star", "a blue star"])
    )
    assert len(latents) == len(tokens) == 3 and torch.equal(
        prior, prior_latents(b, ["a red star", "a blue star"], asked)
    )
    for wrong, text in (
        (said[:2], "must be one, or one for each of 3 pictures, got 2"),
        ([*said[:2], "a star on a green background"], "each must have the identifier 'zwx' in it"),
    ):
        with pytest.raises(ValueError, match=f"^prompts: {text}"):
            dreambooth(b, x, "star", prompts=wrong, **QUICK)


# ---- the upsampler ----


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory):
    return load(tiny_glide(tmp_path_factory.mktemp("up"), size=32, upsampling=True), "cpu", torch.float64)


def test_an_upsamplers_error_is_equation_9_beside_its_own_small_picture(upsampler, x):
    g = torch.Generator().manual_seed(0)
    pictures, t = x[:2].double(), torch.tensor([300, 700])
    noise = torch.randn((2, 6, 32, 32), generator=g, dtype=torch.float64)
    small = made_small(pictures, 2)
    ctx = upsampler.text(upsampler.tokenizer(["a zwx star"] * 2))
    both = torch.cat([pictures, small.repeat_interleave(2, 2).repeat_interleave(2, 3)], dim=1)
    found = upsampler_error(upsampler, ctx, both, t, noise, v_weight, aug=0.3, factor=2)
    for k in range(2):
        a, eps = upsampler.schedule.at(int(t[k])), noise[k, :3]
        low = small[k] + 0.3 * noise[k, 3:, ::2, ::2]
        seen = torch.nn.functional.interpolate(low[None], (32, 32), mode="bilinear", align_corners=False)
        z_t = a**0.5 * pictures[k] + (1 - a) ** 0.5 * eps
        out = upsampler.net(torch.cat([z_t[None], seen], 1), int(t[k]), ctx[k : k + 1])[0, :3]
        wanted = ((out - (a**0.5 * eps - (1 - a) ** 0.5 * pictures[k])) ** 2).mean()  # the error of v
        torch.testing.assert_close(found[k], wanted, rtol=1e-6, atol=0)


def test_a_small_picture_is_the_mean_of_its_pixels_in_256_levels():
    x = torch.tensor([[0.0, 1.0], [-0.5, 0.5]]).expand(1, 3, 2, 2)
    assert (
        made_small(x, 2).shape == (1, 3, 1, 1) and abs(made_small(x, 2)[0, 0, 0, 0].item() - 0.25) < 1 / 255
    )
    assert torch.equal(made_small(made_small(x, 2), 1), made_small(x, 2))


def test_an_upsampler_is_tuned_into_a_new_one_that_enlarges(upsampler, x):
    model, before = (
        replace(upsampler, net=upsampler.net.float(), text=upsampler.text.float()),
        digest_model(upsampler),
    )
    plain, noisy = (
        dreambooth_upsampler(model, x, "star", aug=aug, course=Course(steps=2, batch=2, lr=1e-3))
        for aug in (0.0, 0.5)
    )
    assert digest_model(model) == before != digest_model(plain.model) != digest_model(noisy.model)
    assert (
        plain.losses != noisy.losses
        and plain.prior == [0.0, 0.0]
        and plain.prompt == "a zwx star"
        and plain.prior_latents is None
    )
    made = upsample(plain.model, made_small(x, 2), plain.prompt, steps="2")
    assert made.shape == x.shape and not torch.equal(
        made, upsample(model, made_small(x, 2), plain.prompt, steps="2")
    )


@pytest.mark.parametrize(
    "given, what",
    [
        (dict(aug=-1.0), "aug: must be at least 0"),
        (dict(factor=5), "factor: must divide 32"),
        (dict(factor=1), "factor: must be at least 2"),
        (dict(pictures=torch.zeros(3, 3, 16, 16)), "pictures: must be 32×32"),
        (dict(prompts=["a zwx star"]), "prompts: 1 for 3 pictures"),
        (dict(class_noun="dog"), "class_noun: the model does not know"),
    ],
)
def test_what_an_upsampler_cannot_learn_is_refused(upsampler, x, given, what):
    model = replace(upsampler, net=upsampler.net.float(), text=upsampler.text.float())
    with pytest.raises(ValueError, match=f"^{what}"):
        dreambooth_upsampler(
            model, **dict(pictures=x, class_noun="star", course=Course(steps=1, batch=1)) | given
        )


def test_only_an_upsampler_is_tuned_as_one(b, x):
    with pytest.raises(ValueError, match="^model: tiny is not one of GLIDE's"):
        dreambooth_upsampler(b, x, "star")


def test_what_asks_for_gradients_is_what_was_asked_to_be_learned(b):
    def asks(part):
        return {p.requires_grad for p in part.parameters()}

    assert asks(trainable_copy(b).net) == {True} and asks(trainable_copy(b).text) == {False}
    assert asks(trainable_copy(b, tune_text=True).text) == {True}
    for given, scale in ((dict(rank=2), 1.0), (dict(rank=2, alpha=4.0), 2.0)):
        low = [m for m in trainable_copy(b, **given).net.modules() if isinstance(m, LoraLinear)]
        assert low and {m.scale for m in low} == {scale}
