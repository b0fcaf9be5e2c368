from __future__ import annotations

import copy
import math

import pytest
import torch
from random_weights import census, normal, relative_error, silent_parameters
from safetensors.torch import save_file
from torch.testing import assert_close
from towers import DINO_SIZES, small_dino

from palimpsest.nets.attention import at
from palimpsest.nets.judges.dino import DINO
from palimpsest.weights.public.tower_names import dino_official_names, dino_transformers_names, pack


@pytest.fixture(scope="module")
def dino():
    return small_dino()


@pytest.mark.parametrize(
    "sizes, parameters",
    [({}, 21_665_664), (dict(patch=8), 21_670_272), (dict(width=768, heads=12), 85_798_656)],
)
def test_the_published_sizes(sizes, parameters):
    with torch.device("meta"):
        net = DINO(**sizes)
    assert census(net)[0] == parameters
    assert len(pack(net, dino_official_names(net))) == 150
    assert net(torch.empty(2, 3, 224, 224, device="meta")).patches.shape == (
        2,
        784 if sizes.get("patch") == 8 else 196,
        net.cls.numel(),
    )


# --------------------------------------------------------------------------------------------------------------- parity


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equal_weights_give_the_tokens_of_timm(dino, dtype, tolerance):
    timm = pytest.importorskip("timm", reason="parity needs timm, which open_clip brings")
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0
    ).eval()
    theirs.load_state_dict(pack(dino, dino_official_names(dino)))
    ours, x = copy.deepcopy(dino).to(dtype)(normal(2, 3, 32, 32).to(dtype)), normal(2, 3, 32, 32).to(dtype)
    found = theirs.to(dtype).forward_features(x)
    assert relative_error(ours.cls, found[:, 0]) < tolerance
    assert relative_error(ours.patches, found[:, 1:]) < tolerance


@torch.no_grad()
def test_equal_weights_give_the_tokens_of_transformers(dino, tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")

    def theirs(eps):
        s = DINO_SIZES
        transformers.ViTConfig(
            image_size=s["size"],
            patch_size=s["patch"],
            hidden_size=s["width"],
            intermediate_size=4 * s["width"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            layer_norm_eps=eps,
        ).save_pretrained(tmp_path)
        save_file(
            pack(dino, dino_transformers_names(dino)),
            tmp_path / "model.safetensors",
            metadata={"format": "pt"},
        )
        net = transformers.ViTModel.from_pretrained(
            tmp_path, add_pooling_layer=False, attn_implementation="sdpa"
        ).eval()
        return net(normal(2, 3, 32, 32)).last_hidden_state

    ours = torch.cat([dino(normal(2, 3, 32, 32)).cls[:, None], dino(normal(2, 3, 32, 32)).patches], dim=1)
    assert relative_error(ours, theirs(1e-6)) < 1e-5
    assert relative_error(ours, theirs(1e-12)) < 1e-4  # what their copy of the weights says
    assert relative_error(ours, theirs(1e-2)) > 1e-3


# ------------------------------------------------------------------------------------------------------------- positions


def cubic(values, t):
    """Bicubic interpolation of a list at t, a = −3/4, the ends repeated: by its definition, one number at
    a time.
    """

    def weight(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    n = math.floor(t)
    return sum(weight(t - k) * values[min(max(k, 0), len(values) - 1)] for k in range(n - 1, n + 3))


@torch.no_grad()
@pytest.mark.parametrize("rows, columns", [(6, 4), (4, 6), (3, 7), (8, 8), (2, 8)])
def test_positions_are_stretched_by_a_tenth_more_than_the_grid(dino, rows, columns):
    net = copy.deepcopy(dino).double()
    wave, ramp = [0.3, -1.0, 2.0, 0.5], [1.0, 2.0, 4.0, 7.0]  # along y in one feature, along x in another
    grid = torch.zeros(4, 4, 128, dtype=torch.float64)
    grid[..., 0], grid[..., 1] = torch.tensor(wave)[:, None], torch.tensor(ramp)[None]
    net.positions[1:] = grid.reshape(16, 128)
    found = net.place(rows, columns)

    def at_place(i, n):
        return (i + 0.5) / ((n + 0.1) / 4) - 0.5

    want = torch.tensor(
        [
            [cubic(wave, at_place(i, rows)), cubic(ramp, at_place(j, columns))]
            for i in range(rows)
            for j in range(columns)
        ],
        dtype=torch.float64,
    )
    assert_close(found[1:, :2], want)
    assert torch.equal(found[0], net.positions[0]) and found.shape == (1 + rows * columns, 128)


@torch.no_grad()
def test_at_the_size_of_training_positions_are_those_of_the_file(dino):
    assert dino.place(4, 4) is dino.positions
    assert dino.place(2, 8).shape == dino.positions.shape and not torch.equal(
        dino.place(2, 8), dino.positions
    )


@torch.no_grad()
def test_any_size_that_patches_fill_is_read_row_by_row(dino):
    wide = normal(1, 3, 16, 48)
    seen = dino(wide)
    assert seen.cls.shape == (1, 128) and seen.patches.shape == (1, 12, 128)
    flat = copy.deepcopy(dino)
    flat.layers = torch.nn.ModuleList()  # without attention a patch is itself alone
    flat.positions.zero_()
    changed = wide.clone()
    changed[..., 8:16, 16:24] += 1  # row 1, column 2
    moved = (flat(changed).patches - flat(wide).patches).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert moved == [6 + 2]


# ------------------------------------------------------------------------------------------------------------- behaviour


@torch.no_grad()
def test_a_picture_is_read_alone(dino):
    x = normal(3, 3, 32, 32)
    assert_close(dino(x).cls[1:2], dino(x[1:2]).cls)
    assert_close(dino(x).patches[1:2], dino(x[1:2]).patches)


@torch.no_grad()
def test_where_the_class_token_looks_is_heard_in_the_last_layer(dino):
    looks = {}
    out = dino(
        normal(1, 3, 32, 48), tap=at(lambda probs, site: looks.setdefault(site, probs), name="layer01")
    )
    [(site, probs)] = looks.items()
    assert site == dino.sites((32, 48))[-1] and site.res == (4, 6) and probs.shape == (1, 2, 25, 25)
    blind = dino(normal(1, 3, 32, 48), tap=at(lambda p, s: p.roll(1, -1), name="layer01"))
    assert (out.cls - blind.cls).abs().max() > 1e-3
    assert_close(out.cls, dino(normal(1, 3, 32, 48)).cls)


def test_every_parameter_receives_a_gradient():
    net = small_dino()
    seen = net(normal(2, 3, 32, 32))
    silent = silent_parameters(net, seen.cls.pow(3).mean() + seen.patches.pow(3).mean())
    assert {name for name in silent if not name.endswith("attention.to_k.bias")} == set()


@pytest.mark.parametrize(
    "x, said", [(normal(1, 3, 32, 36), "divisible by 8"), (normal(3, 32, 32), r"\(b 3 y x\)")]
)
def test_pictures_that_patches_do_not_fill_are_refused_and_not_cropped(dino, x, said):
    with pytest.raises(ValueError, match=said):
        dino(x)


def test_a_tap_that_wants_no_layer_is_told_which_there_are(dino):
    with pytest.raises(ValueError, match="it has: layer00 to layer01, self, 4x4"):
        dino(normal(1, 3, 32, 32), tap=at(lambda p, s: p, name="layer02"))
