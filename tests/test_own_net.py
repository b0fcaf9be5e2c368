"""An own net and an own schedule, with nothing but what nets/net.py asks for, through the public verbs."""

import pytest
import torch
from torch import nn

from palimpsest import Model, diffedit, generate, invert, prompt_to_prompt, redo, sdedit
from palimpsest.arguments import ArgumentError
from palimpsest.methods.diffedit import MaskRule
from palimpsest.nets.net import channels_of, factor_of, in_channels_of
from palimpsest.samplers.ddim import sample
from palimpsest.samplers.schedule import Schedule

STEEP = Schedule(torch.linspace(1, 0.02, 101, dtype=torch.float64) ** 2)  # an own one, of 100 levels
COLOURS = {"": 0.0, "red": 0.5, "blue": -0.5}


class Mine(nn.Module):
    """ε of pictures whose pixels are N(0, 0.3²), around the colour of the text in the left half."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x_t, t, ctx=None, tap=None):
        a = STEEP.at(t)
        left = torch.arange(x_t.shape[-1]) < x_t.shape[-1] // 2
        mean = 0.0 if ctx is None else self.scale * ctx[:, 0, 0].view(-1, 1, 1, 1) * left
        return (1 - a) ** 0.5 * (x_t - a**0.5 * mean) / (0.09 * a + 1 - a)


def my_tokens(texts):
    return torch.tensor([[COLOURS[text]] for text in texts])


def my_text(tokens):
    return tokens[:, :, None]


plain = Model("mine", Mine(), STEEP, size=8)
with_text = Model("mine", Mine(), STEEP, size=8, text=my_text, tokenizer=my_tokens)
GUIDE = torch.full((2, 3, 8, 12), 0.4)


@pytest.mark.parametrize("model", [plain, with_text], ids=["plain", "with text"])
def test_an_own_net_generates_its_own_pictures(model):
    made = generate(model, "", n=3, steps=20, seed=1)
    assert made.picture.shape == (3, 3, 8, 8) and made.levels[0] == 98
    assert made.picture.mean().abs() < 0.1  # near the mean of the empty text, 0
    if model is with_text:
        red = generate(model, "red", steps=20, w=1.0).picture
        assert red[..., :4].mean() == pytest.approx(0.5, abs=0.1) and red[..., 4:].mean().abs() < 0.1


@pytest.mark.parametrize("model", [plain, with_text], ids=["plain", "with text"])
def test_an_own_net_edits_a_guide_and_gets_a_picture_back_from_its_inversion(model):
    edit = sdedit(model, GUIDE, t0=0.9, steps=20, seed=0)
    assert edit.picture.shape == GUIDE.shape
    assert edit.picture.mean().abs() < GUIDE.mean() / 2  # towards what the net knows
    found = invert(model, GUIDE, "", steps=90)
    back = sample(model.denoiser(""), STEEP, found.start, found.times)[-1]
    torch.testing.assert_close(back, GUIDE, atol=0.05, rtol=0)


def test_an_own_net_edits_where_its_two_texts_disagree():
    edit = diffedit(with_text, GUIDE, "red", "blue", steps=20, ratio=0.9, w=1.0, rule=MaskRule(maps=2))
    left = (torch.arange(12) < 6).expand(2, 1, 8, 12)
    assert torch.equal(edit.mask > 0, left) and edit.empty == []
    assert torch.equal(edit.picture[..., 6:], GUIDE[..., 6:])  # kept to the bit
    assert (edit.picture[..., :6] < 0).all()  # red became blue


def test_a_plain_function_is_a_net_too():
    model = Model("formula", lambda x_t, t, ctx=None, tap=None: x_t, STEEP, size=4)
    assert (model.device.type, model.dtype, model.grid) == ("cpu", torch.float32, 1)
    assert generate(model, "", steps=5).picture.shape == (1, 3, 4, 4)


def test_what_a_net_does_not_say_is_assumed():
    assert (channels_of(plain.net), in_channels_of(plain.net), factor_of(plain.net)) == (3, 3, 1)
    assert (plain.latent_shape, plain.beside, plain.grid) == ((3, 8, 8), 0, 1)
    said = Mine()
    said.channels, said.in_channels, said.factor = 2, 5, 4
    model = Model("said", said, STEEP, size=8)
    assert (model.latent_shape, model.beside, model.grid) == ((2, 8, 8), 3, 4)
    with pytest.raises(ArgumentError, match="^model: the net of said takes 5 channels .* is given 2"):
        model.eps(torch.zeros(1, 2, 8, 8), 5)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(prediction="noise"), "prediction: must be eps, v or velocity, got 'noise'"),
        (dict(size=0), "size: must be at least 1, got 0"),
        (dict(latent_scale=0.0), "latent_scale: must be above 0, got 0.0"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(change, said):
    with pytest.raises(ArgumentError) as e:
        Model(**{**dict(name="mine", net=Mine(), schedule=STEEP, size=8), **change})
    assert str(e.value) == said


def test_a_net_without_text_comes_back_from_its_inversion():
    found = invert(plain, GUIDE, "", steps=90)
    torch.testing.assert_close(plain.decode(redo(plain, found)[-1]), GUIDE, atol=0.05, rtol=0)
    with pytest.raises(ArgumentError, match="^prompt: the model mine was trained without text"):
        redo(plain, found, "red")


def test_one_text_is_one_for_all_rows_and_no_list_of_letters():
    found = invert(with_text, GUIDE, "red", steps=5)
    assert torch.equal(redo(with_text, found, "blue")[-1], redo(with_text, found, ["blue", "blue"])[-1])


class Answers(nn.Module):
    """A net that gives what it was made with."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.scale = answer, nn.Parameter(torch.ones(1))

    def forward(self, x_t, t, ctx=None, tap=None):
        return self.answer


class Wrapped:
    sample = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    "answer, said",
    [
        (torch.zeros(1, 1, 8, 8), r"must give \(1, 3, 8, 8\) for \(1, 3, 8, 8\), got \(1, 1, 8, 8\)"),
        (torch.zeros(1, 6, 8, 8), r"must give \(1, 3, 8, 8\)"),
        (
            Wrapped(),
            r"must give a tensor \(1, 3, 8, 8\), got Wrapped; of a network of diffusers take .sample",
        ),
    ],
)
def test_a_net_that_answers_in_another_shape_is_named(answer, said):
    with pytest.raises(ArgumentError, match=f"^net: {said}"):
        Model("odd", Answers(answer), STEEP, size=8).eps(torch.zeros(1, 3, 8, 8), 50)


def test_a_model_is_its_own_equal_and_wants_a_schedule_and_a_tokenizer():
    assert plain == plain and plain != with_text and len({plain, with_text}) == 2
    with pytest.raises(ArgumentError, match="^schedule: must be a Schedule such as"):
        Model("mine", Mine(), 1000, size=8)
    with pytest.raises(ArgumentError, match="^model: the model mine has no tokenizer"):
        Model("mine", Mine(), STEEP, size=8, text=my_text).embed("red")
    with pytest.raises(ArgumentError, match="^prompt: the model mine was trained without text"):
        plain.denoiser("", 3.0, negative="ugly")
    with pytest.raises(ArgumentError, match=r"^net: Mine has no sites\(res\)"):
        prompt_to_prompt(with_text, "red", "blue", steps=2)


def test_pixels_are_not_rounded_by_a_net_in_half_precision():
    half = Model("half", Mine().bfloat16(), STEEP, size=8)
    assert half.dtype == torch.bfloat16 and torch.equal(half.decode(half.encode(GUIDE)), GUIDE)


def test_a_model_is_moved_with_all_its_parts():
    model = Model("mine", Mine(), STEEP, size=8, text=nn.Embedding(3, 4), tokenizer=my_tokens)
    assert model.to("meta") is model and model.device.type == model.text.weight.device.type == "meta"
