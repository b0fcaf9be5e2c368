"""GLIDE's published files: the names and sizes of their tensors, and small nets that come back out of
such files as they went in.
"""

import re
from collections import Counter

import pytest
import torch
from random_weights import census, normal, randomised

from palimpsest.nets.glide import UPSAMPLER, GlideText, GlideUNet
from palimpsest.nets.judges import clip
from palimpsest.nets.judges.noised_clip import NoisedCLIP
from palimpsest.nets.tokenizer import WordTokenizer
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError, write_weights
from palimpsest.weights.load import load
from palimpsest.weights.public.glide import glide_of_shapes, glide_text_names, glide_unet_names
from palimpsest.weights.public.tower_names import noised_clip_names
from palimpsest.weights.public.towers import load_clip, load_noised_clip

SMALL = dict(
    width=32, mult=(1, 2, 4), blocks=1, attention=(False, True, True), ctx_width=64
)  # heads of 64, as nobody can tell
WORDS = dict(vocab=50257, length=6, width=64, layers=2, heads=1)
CLIP = dict(
    size=8,
    patch=4,
    width=64,
    layers=2,
    heads=1,
    times=10,
    embed=6,
    vocab=40,
    length=5,
    text_width=64,
    text_layers=1,
    text_heads=1,
    end=39,
)


def published(net, text):
    """The one state dict of GLIDE's own files: 1×1 convolutions of a line of pixels where we have linear
    maps in the U-Net.
    """

    def as_there(name, value):
        return value[..., None] if re.search(r"\.(qkv|encoder_kv|proj_out)\.weight$", name) else value

    state = {glide_unet_names(net)[k]: v for k, v in net.state_dict().items()}
    state |= {glide_text_names(text)[k]: v for k, v in text.state_dict().items()}
    return {name: as_there(name, value) for name, value in state.items()}


def shapes_of(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def written(tmp_path, **changes):
    net, text = randomised(GlideUNet(**SMALL | changes)).eval(), randomised(GlideText(**WORDS)).eval()
    torch.save(published(net, text), tmp_path / "base.pt")
    return net, text, tmp_path / "base.pt"


# ------------------------------------------------------------------------------------------------------------------------ the names


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        text = GlideText()
        return {
            name: published(GlideUNet(**a), text)
            for name, a in (("base", {}), ("upsample", UPSAMPLER | dict(inpainting=True)))
        }


@pytest.mark.slow
def test_the_published_files_have_their_names_and_sizes(full):
    base, up = shapes_of(full["base"]), shapes_of(full["upsample"])
    assert (len(base), len(up)) == (783, 797)
    part = Counter(name.split(".")[0].split("_block")[0] for name in base)
    assert (part["input"], part["middle"], part["output"], part["out"]) == (230, 28, 318, 4) and sum(
        part.values()
    ) - 580 == 203
    for name, size in {
        "token_embedding.weight": (50257, 512),
        "positional_embedding": (128, 512),
        "padding_embedding": (128, 512),
        "final_ln.bias": (512,),
        "transformer_proj.weight": (768, 512),
        "time_embed.0.weight": (768, 192),
        "time_embed.2.bias": (768,),
        "transformer.resblocks.15.attn.c_qkv.weight": (1536, 512),
        "transformer.resblocks.0.attn.c_proj.bias": (512,),
        "transformer.resblocks.3.mlp.c_fc.weight": (2048, 512),
        "transformer.resblocks.3.mlp.c_proj.weight": (512, 2048),
        "transformer.resblocks.7.ln_2.weight": (512,),
        "input_blocks.0.0.weight": (192, 3, 3, 3),
        "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),
        "input_blocks.4.0.emb_layers.1.weight": (384, 768),
        "input_blocks.5.0.skip_connection.weight": (384, 192, 1, 1),
        "input_blocks.5.1.qkv.weight": (1152, 384, 1),
        "input_blocks.13.1.encoder_kv.weight": (1536, 512, 1),
        "middle_block.1.proj_out.weight": (768, 768, 1),
        "middle_block.2.out_layers.3.weight": (768, 768, 3, 3),
        "output_blocks.0.0.in_layers.0.weight": (1536,),
        "output_blocks.3.2.in_layers.0.weight": (768,),
        "output_blocks.7.0.in_layers.0.bias": (960,),
        "output_blocks.11.2.out_layers.0.weight": (384,),
        "output_blocks.12.0.in_layers.0.weight": (576,),
        "out.0.weight": (192,),
        "out.2.weight": (6, 192, 3, 3),
    }.items():
        assert base[name] == size, name
    assert not any(
        name.startswith(("input_blocks.16", "output_blocks.16", "input_blocks.4.1", "output_blocks.12.1"))
        for name in base
    )
    for name, size in {
        "input_blocks.0.0.weight": (192, 10, 3, 3),
        "input_blocks.17.1.norm.weight": (768,),
        "output_blocks.2.2.in_layers.0.weight": (768,),
        "output_blocks.5.0.in_layers.0.weight": (1152,),
        "output_blocks.8.2.in_layers.0.weight": (384,),
        "output_blocks.11.1.in_layers.0.weight": (384,),
        "output_blocks.14.1.in_layers.0.weight": (192,),
        "output_blocks.11.0.in_layers.0.weight": (576,),
    }.items():
        assert up[name] == size, name
    assert "output_blocks.11.1.qkv.weight" not in up and "output_blocks.9.1.in_layers.0.weight" not in up


@pytest.mark.slow
@pytest.mark.parametrize("name, inpainting, upsampling", [("base", False, False), ("upsample", True, True)])
def test_the_sizes_tell_what_the_nets_were_built_with(full, name, inpainting, upsampling):
    unet, text = glide_of_shapes(shapes_of(full[name]))
    assert text == dict(vocab=50257, length=128, width=512, layers=16, heads=8)
    assert unet == dict(
        channels=3,
        inpainting=inpainting,
        upsampling=upsampling,
        width=192,
        mult=list(UPSAMPLER["mult"]) if upsampling else [1, 2, 3, 4],
        blocks=2 if upsampling else 3,
        attention=list(UPSAMPLER["attention"]) if upsampling else [False, True, True, True],
        head_width=64,
        ctx_width=512,
    )


# ------------------------------------------------------------------------------------------------------------------------- the files


@torch.no_grad()
@pytest.mark.parametrize(
    "changes, beside, size, schedule",
    [
        ({}, 0, 64, "cosine"),
        (dict(inpainting=True), 4, 64, "cosine"),
        (dict(upsampling=True), 3, 256, "linear"),
        (dict(upsampling=True, inpainting=True), 7, 256, "linear"),
    ],
)
def test_a_small_net_comes_back_out_of_a_file_with_the_published_names(
    tmp_path, changes, beside, size, schedule
):
    net, text, path = written(tmp_path, **changes)
    model = load(path, "cpu")
    assert (model.size, model.latent_shape, model.shift, model.prediction, model.learned_variance) == (
        size,
        (3, size, size),
        1,
        "eps",
        True,
    )
    assert torch.equal(model.schedule.abar, getattr(Schedule, schedule)().abar)
    assert (model.net.inpainting, model.net.upsampling) == (net.inpainting, net.upsampling)
    rows = torch.tensor([[5, 9, 50256, 50256, 50256, 50256], [1, 2, 3, 4, 5, 6]])
    x, ctx = normal(2, 3 + beside, 8, 12), text(rows)
    for ours, theirs in ((model.net, net), (model.text, text)):
        assert all(torch.equal(p, theirs.get_parameter(name)) for name, p in ours.named_parameters())
    torch.testing.assert_close(model.text(rows), ctx)  # a product rounds by where in memory its numbers lie
    expected = net(x, 41, ctx)
    torch.testing.assert_close(model.net(x, 41, ctx), expected)
    eps, v = model.eps_and_v(x, 42, ctx)  # its levels count from 0
    torch.testing.assert_close((eps, v), (expected[:, :3], expected[:, 3:]))
    assert torch.equal(model.eps(x, 42, ctx), eps)
    torch.testing.assert_close(
        model.embed(""), text(torch.full((1, 6), 50256))
    )  # the empty prompt is all padding


@pytest.mark.parametrize(
    "spoil, said",
    [
        (
            lambda s: s.pop("input_blocks.1.0.out_layers.3.bias"),
            "1 missing .input_blocks.1.0.out_layers.3.bias",
        ),
        (lambda s: s.update(more=torch.zeros(1)), "1 left over .more"),
        (lambda s: s.pop("token_embedding.weight"), "lacks 'token_embedding"),
        (
            lambda s: s.update({"middle_block.1.qkv.weight": torch.zeros(384, 128, 2)}),
            "of another size .*middle_block.1.qkv.weight 384×128×2",
        ),
        (
            lambda s: s.update({"input_blocks.0.0.weight": torch.zeros(32, 5, 3, 3)}),
            "5 channels and paints 3, where GLIDE's take 3, 7, 6, 10",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if re.match(r"output_blocks\.\d+\.[12]\.in", k)],
            "lacks 'output_blocks",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, spoil, said):
    _, _, path = written(tmp_path)
    state = torch.load(path)
    spoil(state)
    torch.save(state, path)
    with pytest.raises(WeightsError, match=said) as e:
        load(path, "cpu")
    assert "\n" not in str(e.value)


def test_a_small_model_of_our_own_is_kept_and_loaded_as_glide(tmp_path):
    words = ["red", "star"]
    config = dict(
        kind="glide",
        prediction="eps",
        schedule=dict(name="cosine", T=1000),
        vae=None,
        size=16,
        net=SMALL,
        text=dict(vocab=5, length=6, width=64, layers=1, heads=2, pad=0),
        words=words,
    )
    net, text = randomised(GlideUNet(**SMALL)).eval(), randomised(GlideText(**config["text"])).eval()
    model = load(
        write_weights(tmp_path / "mine.safetensors", {"net": net, "text": text}, config, torch.float32), "cpu"
    )
    x, tokens = normal(1, 3, 16, 16), WordTokenizer(words, 6)
    assert (model.latent_shape, model.learned_variance, model.shift, model.grid) == ((3, 16, 16), True, 0, 4)
    with torch.no_grad():
        expected = net(x, 42, text(tokens(["red star"])))
        torch.testing.assert_close(model.denoiser("red star")(x, 42), expected[:, :3])


# ------------------------------------------------------------------------------------------------------------------ the noised CLIP


def tower(net, name):
    """What the file of one tower holds."""
    return {noised_clip_names(net)[k]: v for k, v in net.state_dict().items() if k.startswith(name)}


def test_the_noised_clip_has_the_published_census_and_names():
    with torch.device("meta"):
        net = NoisedCLIP()
    assert tuple(a + b for a, b in zip(census(net.image), census(net.image_projection))) == (86_443_776, 188)
    assert tuple(a + b for a, b in zip(census(net.text), census(net.text_projection))) == (71_679_488, 185)
    image, text = shapes_of(tower(net, "image")), shapes_of(tower(net, "text"))
    layer = {
        f"f_attn.{k}" for k in ("ln.g", "ln.b", "f_q.w", "f_q.b", "f_k.w", "f_v.w", "f_v.b", "f_c.w", "f_c.b")
    }
    layer |= {f"f_mlp.{k}" for k in ("ln.g", "ln.b", "f_1.w", "f_1.b", "f_2.w", "f_2.b")}
    blocks = {f"blocks.block_{n}.{k}" for n in range(12) for k in layer} | {
        f"blocks.output.{k}" for k in ("ln.g", "ln.b", "f.w")
    }
    assert set(image) == blocks | {
        f"blocks.input.{k}" for k in ("w_t", "patch_proj", "w_pos", "ln.g", "ln.b")
    }
    assert set(text) == blocks | {"blocks.input.w_voc", "blocks.input.w_pos"}
    assert [image[f"blocks.input.{k}"] for k in ("w_t", "patch_proj", "w_pos")] == [
        (1000, 768),
        (768, 3, 4, 4),
        (257, 768),
    ]
    assert [text[k] for k in ("blocks.input.w_voc", "blocks.input.w_pos", "blocks.block_0.f_mlp.f_1.w")] == [
        (65536, 512),
        (77, 512),
        (2048, 512),
    ]


@torch.no_grad()
def test_both_towers_come_back_out_of_their_files_and_are_nothing_else(tmp_path):
    net = NoisedCLIP(**CLIP).eval()
    for part in net.children():
        randomised(part)
    paths = [tmp_path / "clip_image_enc.pt", tmp_path / "clip_text_enc.pt"]
    for path, name in zip(paths, ("image", "text")):
        torch.save(tower(net, name), path)
    again = load_noised_clip(*paths)
    x, t, tokens = (
        normal(2, 3, 8, 8),
        torch.tensor([0, 9]),
        torch.tensor([[3, 4, 39, 0, 0], [39, 1, 1, 39, 0]]),
    )
    assert all(torch.equal(p, net.get_parameter(name)) for name, p in again.named_parameters())
    torch.testing.assert_close(again(x, t, tokens), net(x, t, tokens))
    assert not any(p.requires_grad for p in again.parameters())
    with pytest.raises(
        WeightsError,
        match="holds the text encoder of a noised CLIP, and the image encoder of a noised CLIP is needed",
    ):
        load_noised_clip(*paths[::-1])
    with pytest.raises(
        WeightsError,
        match="holds the image encoder of a noised CLIP, and CLIP is needed here; load_noised_clip reads it",
    ):
        load_clip(paths[0])
    for path in paths:
        with pytest.raises(
            WeightsError,
            match="holds the (image|text) encoder of a noised CLIP, which paints nothing; load_noised_clip of ",
        ):
            load(path, "cpu")
    torch.save(tower(net, "text") | {"more": x}, paths[1])
    with pytest.raises(WeightsError, match="1 left over .more"):
        load_noised_clip(*paths)


@torch.no_grad()
def test_time_is_the_class_token_and_the_tower_is_clips_else():
    net = NoisedCLIP(**CLIP).eval()
    for part in net.children():
        randomised(part)
    sizes = {k: v for k, v in CLIP.items() if k != "times"}
    plain = clip.CLIP(**sizes, activation=torch.nn.functional.gelu).eval()
    state = {k: v for k, v in net.state_dict().items() if "times" not in k}
    state |= {
        k: normal(*v.shape, seed=7) for k, v in plain.state_dict().items() if k.endswith("to_k.bias")
    }  # softmax does not see it
    x, tokens = normal(2, 3, 8, 8), torch.tensor([[3, 4, 39, 0, 0], [5, 1, 1, 39, 0]])
    for t in (0, 7):
        plain.load_state_dict(
            state | {"image.cls": net.image.times.weight[t], "logit_scale": torch.tensor(100.0).log()}
        )
        views = (
            (x + 1) * 127.5 - torch.tensor([122.77093945, 116.74601272, 104.09373519])[:, None, None]
        ) / torch.tensor([68.50053285, 66.63215831, 70.32316309])[
            :, None, None
        ]  # as the published code writes it
        torch.testing.assert_close(net(x, t, tokens), plain(views, tokens), rtol=1e-4, atol=1e-3)
    assert (net.encode_image(x, 0) - net.encode_image(x, 7)).abs().max() > 1e-2
    torch.testing.assert_close(net.encode_image(x, torch.tensor([0, 7]))[1], net.encode_image(x, 7)[1])


def test_gradients_reach_the_noisy_picture_and_bad_times_are_named():
    net = NoisedCLIP(**CLIP)
    x = normal(2, 3, 8, 8).requires_grad_()
    (net.encode_image(x, 3) * net.encode_text(torch.tensor([[3, 39, 0, 0, 0]] * 2))).sum().backward()
    assert x.grad.abs().amax(dim=(1, 2, 3)).gt(0).all()
    for t in (10, -1, 2.5, torch.ones(3)):
        with pytest.raises(
            ValueError, match="t: must be a whole number, or a tensor of 2 of them, from 0 to 9"
        ):
            net.encode_image(x, t)
    with pytest.raises(ValueError, match="pictures: must be 8x8, not 12x12"):
        net.encode_image(normal(1, 3, 12, 12), 3)
    with pytest.raises(ValueError, match="row 0 has no end token 39"):
        net.encode_text(torch.tensor([[3, 4, 5, 0, 0]]))


# ------------------------------------------------------------------------------------------------- half a U-Net as its image tower


def half():
    net = NoisedCLIP(**CLIP | dict(size=16, width=8, heads=2, mult=[1, 2], queries=3)).eval()
    for part in net.children():
        randomised(part)
    return net


@torch.no_grad()
def test_half_a_unet_adds_up_what_its_queries_find():
    net, x = half(), normal(2, 3, 16, 16)
    found = net.image(x, 4)
    assert list(found) == ["vector 1", "vector 2", "vector 3"] and not hasattr(net, "image_projection")
    torch.testing.assert_close(net.encode_image(x, 4, unit=False), sum(found.values()))
    torch.testing.assert_close(net.encode_image(x, 4).norm(dim=1), torch.ones(2))
    text = net.encode_text(torch.tensor([[3, 4, 39, 0, 0], [5, 1, 1, 39, 0]]))
    cosines = net(x, 4, torch.tensor([[3, 4, 39, 0, 0], [5, 1, 1, 39, 0]])) / net.scale
    torch.testing.assert_close(cosines, net.encode_image(x, 4) @ text.mT)
    assert (net.encode_image(x, 0) - net.encode_image(x, 7)).abs().max() > 1e-3


def test_gradients_reach_the_picture_through_half_a_unet_and_what_it_cannot_do_is_named():
    net, x = half(), normal(2, 3, 16, 16).requires_grad_()
    (net.encode_image(x, 3) * net.encode_text(torch.tensor([[3, 39, 0, 0, 0]] * 2))).sum().backward()
    assert x.grad.abs().amax(dim=(1, 2, 3)).gt(0).all()
    with pytest.raises(ValueError, match="tap: sees the attention of a vision transformer"):
        net.encode_image(x, 3, tap=lambda site, maps: maps)
    with pytest.raises(ValueError, match="t: must lie between 0 and 9"):
        net.encode_image(x, 10)
    with pytest.raises(ValueError, match=r"x_t: must be \(b, 3, 16, 16\), not \(1, 3, 32, 32\)"):
        net.encode_image(normal(1, 3, 32, 32), 3)
