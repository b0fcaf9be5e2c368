from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from random_weights import census, normal, randomised, relative_error, silent_parameters
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode
from towers import CLIP_SIZES, TOKENS, small_clip

from palimpsest.nets.attention import at
from palimpsest.nets.judges.clip import CLIP, MEAN, STD, VIT_B_32, clip_view, contrastive_loss
from palimpsest.nets.judges.dino import dino_view
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.judges.vit import VisionTransformer
from palimpsest.weights.public.tower_names import clip_openai_names, clip_transformers_names, pack


@pytest.fixture(scope="module")
def clip():
    return small_clip()


def views(n=3, seed=1):
    return normal(n, 3, 32, 32, seed=seed)


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "sizes, parameters, tensors, image",
    [
        (VIT_B_32, 151_277_313, 302, 87_849_216),
        ({}, 427_616_513, 446, 303_966_208),
        (dict(size=336), 427_944_193, 446, 304_293_888),
    ],
)
def test_the_published_sizes(sizes, parameters, tensors, image):
    with torch.device("meta"):
        clip = CLIP(**sizes)
    assert census(clip)[0] == parameters
    assert len(pack(clip, clip_openai_names(clip))) == tensors  # query, key and value maps are one there
    assert census(clip.image)[0] + census(clip.image_projection)[0] == image


def test_the_temperature_begins_at_seven_hundredths(clip):
    assert_close(clip.logit_scale.exp().item(), 1 / 0.07)


@pytest.mark.parametrize("cls", [CLIP, NoisedCLIP])
def test_at_the_start_both_projections_keep_the_variance_of_what_they_map(cls):
    """Of a tower's numbers, which its last layer norm gives variance 1, whatever the tower's width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = cls(**CLIP_SIZES)
    for projection, width in ((clip.image_projection, 128), (clip.text_projection, 64)):
        assert_close(projection(normal(2000, width, seed=2)).std().item(), 1.0, rtol=0.1, atol=0)


# --------------------------------------------------------------------------------------------------------------- parity


def of_transformers(clip, sizes=CLIP_SIZES, meta=False, **changes):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    text = dict(
        vocab_size=sizes["vocab"],
        max_position_embeddings=sizes["length"],
        hidden_size=sizes["text_width"],
        intermediate_size=4 * sizes["text_width"],
        num_hidden_layers=sizes["text_layers"],
        num_attention_heads=sizes["text_heads"],
        bos_token_id=sizes["vocab"] - 2,
        eos_token_id=sizes["vocab"] - 1,
        pad_token_id=sizes["vocab"] - 1,
        **changes,
    )
    image = dict(
        image_size=sizes["size"],
        patch_size=sizes["patch"],
        hidden_size=sizes["width"],
        intermediate_size=4 * sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        **changes,
    )
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=sizes["embed"])
    with torch.device("meta" if meta else "cpu"):
        theirs = transformers.CLIPModel(config).eval()
    buffers = {
        key: value for key, value in theirs.state_dict().items() if key.endswith("position_ids")
    }  # of older versions
    theirs.load_state_dict(pack(clip, clip_transformers_names(clip)) | buffers, assign=meta)
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_logits_and_embeddings_of_transformers(clip, dtype, tolerance):
    ours, x = copy.deepcopy(clip).to(dtype), views().to(dtype)
    theirs = of_transformers(clip).to(dtype)
    found = theirs(input_ids=TOKENS, pixel_values=x)
    assert relative_error(ours.encode_image(x), found.image_embeds) < tolerance
    assert relative_error(ours.encode_text(TOKENS), found.text_embeds) < tolerance
    assert relative_error(ours(x, TOKENS), found.logits_per_image) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("change", [dict(hidden_act="gelu"), dict(layer_norm_eps=1e-2)])
def test_parity_would_notice_another_activation_and_another_eps(clip, change):
    found = of_transformers(clip, **change)(input_ids=TOKENS, pixel_values=views())
    assert relative_error(clip.encode_image(views()), found.image_embeds) > 1e-3
    assert relative_error(clip.encode_text(TOKENS), found.text_embeds) > 1e-3


@torch.no_grad()
def test_another_activation_can_be_asked_for(clip):
    ours = small_clip(activation=F.gelu)
    assert (
        relative_error(
            ours(views(), TOKENS),
            of_transformers(clip, hidden_act="gelu")(input_ids=TOKENS, pixel_values=views()).logits_per_image,
        )
        < 1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
def test_equal_weights_give_the_embeddings_of_open_clip(quick):
    open_clip = pytest.importorskip("open_clip", reason="parity needs open_clip")
    ours, s = small_clip(**({} if quick else dict(activation=F.gelu))), CLIP_SIZES
    theirs = open_clip.model.CLIP(
        embed_dim=s["embed"],
        quick_gelu=quick,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=s["layers"], width=s["width"], head_width=64, patch_size=8, image_size=32
        ),
        text_cfg=open_clip.CLIPTextCfg(context_length=12, vocab_size=50, width=64, heads=1, layers=3),
    ).eval()
    theirs.load_state_dict(pack(ours, clip_openai_names(ours)))
    tokens = F.pad(TOKENS, (0, 4))
    assert relative_error(ours.encode_image(views(), unit=False), theirs.encode_image(views())) < 1e-5
    assert relative_error(ours.encode_text(tokens, unit=False), theirs.encode_text(tokens)) < 1e-5
    assert relative_error(ours.encode_text(tokens), theirs.encode_text(tokens, normalize=True)) < 1e-5
    assert relative_error(ours(views(), tokens), theirs.get_logits(views(), tokens)[0]) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_vit_b_32_at_full_size_gives_the_logits_of_transformers():
    clip = CLIP(**VIT_B_32).eval()
    for part in clip.children():
        randomised(part)
    sizes = dict(size=224, vocab=49408, length=77, **VIT_B_32)
    theirs = of_transformers(clip, sizes, meta=True).eval()  # shares the weights: one copy in memory
    for tower in (theirs.text_model, theirs.vision_model):  # what assign leaves on the meta device
        there = torch.arange(tower.embeddings.position_embedding.num_embeddings)[None]
        tower.embeddings.position_ids = there
    x, tokens = (
        normal(2, 3, 224, 224),
        torch.randint(49406, (2, 77), generator=torch.Generator().manual_seed(0)),
    )
    tokens[:, 0], tokens[0, 20:], tokens[1, 76:] = 49406, 49407, 49407
    assert relative_error(clip(x, tokens), theirs(input_ids=tokens, pixel_values=x).logits_per_image) < 1e-4


# ------------------------------------------------------------------------------------------------------------- behaviour


@torch.no_grad()
def test_logits_are_scaled_cosines(clip):
    image, text = clip.encode_image(views(), unit=False), clip.encode_text(TOKENS, unit=False)
    want = F.cosine_similarity(image[:, None], text[None], dim=-1) * math.exp(clip.logit_scale.item())
    assert_close(clip(views(), TOKENS), want)
    assert_close(clip.encode_image(views()).norm(dim=1), torch.ones(3))
    assert_close(clip.encode_text(TOKENS), F.normalize(text, dim=1))


def test_a_patch_divides_the_side_of_the_pictures():
    with pytest.raises(ValueError, match="^patch: must divide the size 30 of the pictures, got 8"):
        VisionTransformer(size=30, patch=8, width=8, layers=1, heads=2)


def test_the_contrastive_loss_is_the_mean_of_both_searches_by_plain_loops():
    logits = normal(4, 4, seed=3).double()
    rows = [-math.log(math.exp(logits[i, i]) / sum(math.exp(v) for v in logits[i])) for i in range(4)]
    columns = [-math.log(math.exp(logits[i, i]) / sum(math.exp(v) for v in logits[:, i])) for i in range(4)]
    assert contrastive_loss(logits).item() == pytest.approx(sum(rows + columns) / 8)
    assert sum(rows) != pytest.approx(sum(columns), rel=1e-3)


@torch.no_grad()
def test_a_text_is_read_at_its_first_end_whatever_pads_it(clip):
    zeros, ends = TOKENS[:1], TOKENS[:1].clone()
    ends[:, 6:] = 49
    assert_close(clip.encode_text(zeros), clip.encode_text(ends), rtol=0, atol=0)
    earlier = zeros.clone()
    earlier[:, 4] = 17
    assert (clip.encode_text(zeros) - clip.encode_text(earlier)).abs().max() > 1e-3


@torch.no_grad()
def test_tokens_beyond_the_end_do_not_draw_the_reading_away():
    longer = small_clip(vocab=52, end=49)  # two words that were added later
    row = torch.tensor([[48, 51, 9, 49, 0, 0]])
    read_at_end = longer.text_projection(longer.text(row)[:, 3])
    assert_close(longer.encode_text(row, unit=False), read_at_end, rtol=0, atol=0)


@torch.no_grad()
def test_the_tap_sees_the_image_towers_attention_and_changes_nothing_by_looking(clip):
    seen = {}
    out = clip.encode_image(views(), tap=lambda probs, site: seen.setdefault(site, probs))
    assert_close(out, clip.encode_image(views()))
    assert [site.name for site in seen] == ["layer00", "layer01"] and {site.res for site in seen} == {(4, 4)}
    for probs in seen.values():
        assert probs.shape == (3, 2, 17, 17)
        assert_close(probs.sum(-1), torch.ones(3, 2, 17))
    blind = clip.encode_image(views(), tap=at(lambda probs, site: probs.roll(1, -1), name="layer01"))
    assert (out - blind).abs().max() > 1e-4


def test_every_parameter_receives_a_gradient():
    clip = small_clip()
    every = torch.cat([torch.arange(49).reshape(7, 7), torch.full((7, 5), 49)], dim=1)
    every[:, -5:-1] = torch.arange(28).reshape(7, 4)  # and each of the 12 positions is before the end
    silent = silent_parameters(clip, clip(views(7), every).pow(3).mean())
    assert {
        name for name in silent if not name.endswith("attention.to_k.bias")
    } == set()  # which moves no softmax


# ------------------------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 97), (33, 34), (224, 224), (300, 401)])
def test_a_view_is_cut_as_torchvision_cuts_it(size):
    x = F.interpolate(normal(2, 3, 5, 5).tanh() * 0.8, size, mode="bilinear")  # smooth: nothing overshoots
    for view, resize, side, mean, std in (
        (clip_view(x, 32), 32, 32, MEAN, STD),
        (dino_view(x, 28, 32), 32, 28, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        want = TF.resize((x + 1) / 2, resize, InterpolationMode.BICUBIC, antialias=True)
        assert_close(view, TF.normalize(TF.center_crop(want, side), mean, std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (90, 50)])
def test_a_view_is_what_openais_own_steps_make_of_the_picture_file_but_for_rounding(size):
    open_clip = pytest.importorskip("open_clip", reason="parity needs open_clip")
    pixels = torch.randint(
        60, 196, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )  # no overshoot
    steps = open_clip.image_transform(32, is_train=False)  # bicubic, short side, centre: on 8-bit pictures
    theirs = steps(TF.to_pil_image(pixels))
    ours = clip_view(pixels[None].float() / 127.5 - 1, 32)[0]
    levels = (ours - theirs).abs() * 255 * torch.tensor(STD)[:, None, None]
    assert levels.max() < 2 and levels.mean() < 0.5  # they round to grey levels twice
    squeezed = clip_view(
        F.interpolate(pixels[None].float() / 127.5 - 1, (32, 32), mode="bicubic", antialias=True), 32
    )[0]
    assert ((squeezed - theirs).abs() * 255 * torch.tensor(STD)[:, None, None]).mean() > 5


def test_black_and_white_have_the_values_of_zero_and_one_and_overshoot_is_clamped():
    for level, want in ((-1.0, 0.0), (1.0, 1.0), (3.0, 1.0)):
        want = (torch.tensor(want) - torch.tensor(MEAN)) / torch.tensor(STD)
        assert_close(clip_view(torch.full((1, 3, 16, 20), level), 8)[0, :, 4, 4], want)


def test_a_view_passes_gradients():
    x = (normal(1, 3, 24, 48) / 4).requires_grad_()
    clip_view(x, 16).square().sum().backward()
    assert x.grad[..., 12, 24].abs().min() > 0 and x.grad[..., :8].abs().max() == 0  # the sides are cut off


def test_at_black_and_white_a_view_has_no_gradient_with_every_torch():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).repeat(3, 5, 1)[None].requires_grad_()
    clip_view(x, 5).sum().backward()
    assert (x.grad != 0).all((0, 1, 2)).tolist() == [False, False, True, False, False]


# ---------------------------------------------------------------------------------------------------------------- mistakes


def all_start(rows):
    return torch.full((rows, 4), 48)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda c: c.encode_image(normal(1, 3, 40, 40)), "pictures: must be 32x32, not 40x40"),
        (lambda c: c.encode_image(normal(1, 3, 33, 32)), "divisible by 8"),
        (lambda c: c.encode_image(normal(1, 4, 32, 32)), r"\(b 3 y x\)"),
        (
            lambda c: c.encode_image(normal(1, 3, 32, 32), tap=at(lambda p, s: p, kind="cross")),
            "tap: wants no attention layer",
        ),
        (lambda c: c.encode_text(torch.cat([TOKENS[:1, :4], all_start(1)])), "row 0 has no end token 49"),
        (lambda c: c.encode_text(torch.cat([TOKENS[:, 4:], all_start(1)])), "row 3 has no end token 49"),
        (lambda c: c.encode_text(torch.full((1, 13), 49)), "length=12"),
        (lambda c: clip_view(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "floats .* not torch.uint8"),
        (lambda c: clip_view(torch.zeros(3, 8, 8)), "floats"),
        (lambda c: dino_view(torch.zeros(1, 3, 8, 8), size=300), "size: must not exceed resize 256"),
        (lambda c: CLIP(patch=15), "patch: must divide the size 224 .*got 15"),
    ],
)
def test_what_does_not_fit_is_named(clip, call, said):
    with pytest.raises(ValueError, match=said):
        call(clip)
