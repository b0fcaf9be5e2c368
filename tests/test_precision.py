"""In what precision nets run: half on a GPU, where it is safe; the walk in float32 wherever; null-text
never in half.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import palimpsest.weights.load
from palimpsest.cli.main import main
from palimpsest.cli.manners import Mistake
from palimpsest.methods.null_text import null_text
from palimpsest.methods.sdedit import sdedit
from palimpsest.nets.ddpm import DDPM
from palimpsest.weights.load import load, pick_device, pick_dtype
from palimpsest.weights.public.layouts import ddpm_names
from palimpsest.worlds.files import write_picture
from tests.tiny import tiny_weights

X = torch.linspace(-1, 1, 3 * 32 * 40).reshape(1, 3, 32, 40)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("tiny"))


def test_nets_are_half_on_a_gpu_and_float32_elsewhere_unless_said_otherwise(tiny):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype(cuda, 10**9) == torch.float16 and pick_dtype(cpu, 10**6) == torch.float32
    assert (
        load(tiny, "cpu").dtype == torch.float32
        and load(tiny, "cpu", torch.bfloat16).vae.decoder.conv_in.weight.dtype == torch.bfloat16
    )
    with pytest.raises(ValueError, match="dtype: float16 is neither fast nor exact on a CPU"):
        load(tiny, "cpu", torch.float16)


@pytest.mark.parametrize("units", [True, False])
def test_a_large_model_is_bfloat16_on_a_cpu_that_has_units_for_it(tiny, units, monkeypatch):
    monkeypatch.setattr(palimpsest.weights.load, "cpu_has_bfloat16", lambda: units)
    cpu, wanted = torch.device("cpu"), torch.bfloat16 if units else torch.float32
    assert pick_dtype(cpu, 10**8) == torch.float32 and pick_dtype(cpu, 10**8 + 1) == wanted
    assert pick_dtype(cpu, 10**9, "float32") == pick_dtype(cpu, 10**9, torch.float32) == torch.float32
    monkeypatch.setattr(palimpsest.weights.load, "LARGE", 1000)
    assert load(tiny, "cpu").dtype == wanted and load(tiny, "cpu", "float32").dtype == torch.float32


def test_a_public_checkpoint_is_as_large_as_its_parameters(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(palimpsest.weights.load, "cpu_has_bfloat16", lambda: True)
    net = DDPM(width=32, mult=(1, 1), attention=(False, True))
    named = {ddpm_names(net)[key]: tensor for key, tensor in net.state_dict().items()}
    torch.save(named, tmp_path / "public.ckpt")
    assert load(tmp_path / "public.ckpt", "cpu").dtype == torch.float32
    monkeypatch.setattr(palimpsest.weights.load, "LARGE", 1000)
    assert load(tmp_path / "public.ckpt", "cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float64", "half", 3, torch.int8, None])
def test_a_dtype_that_is_none_is_refused(tiny, dtype):
    with pytest.raises(ValueError, match="dtype: must be auto, float32, bfloat16 or float16, got"):
        load(tiny, "cpu", dtype)


def test_what_takes_gradients_stays_in_float32_and_says_so(tiny, tmp_path, capsys):
    write_picture(X[..., :32], tmp_path / "in.png")
    words = ["null-text", str(tmp_path / "in.png"), "--prompt", "a red star", "--steps", "2", "--inner", "1"]
    assert main([*words, "--model", str(tiny), "--dtype", "bfloat16", "-o", str(tmp_path / "out.png")]) == 0
    assert "note: dtype: float32 is taken, not bfloat16" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nets_are_half_channels_last_and_agree_with_float32(tiny):
    half, full = load(tiny, "cuda"), load(tiny, "cuda", torch.float32)
    assert half.dtype == torch.float16 and full.dtype == torch.float32
    for b in (half, full):
        for conv in (b.net.down[0].stages[0].res.conv1, b.vae.decoder.conv_in):
            assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    edits = [sdedit(b, X, "a red star", steps=4).picture.cpu() for b in (half, full)]
    torch.testing.assert_close(*edits, atol=0.05, rtol=0)


def test_a_device_of_shapes_alone_is_to_be_had_everywhere(tiny):
    model = load(tiny, "meta", torch.float16)
    assert (
        pick_device("meta").type == "meta"
        and model.device.type == "meta"
        and model.dtype == model.vae.decoder.conv_in.weight.dtype == torch.float16
    )
    assert model.decode(model.encode(torch.empty(1, 3, 32, 40, device="meta"))).shape == (1, 3, 32, 40)


def test_the_walk_is_float32_whatever_the_nets_are_and_a_half_edit_is_near_the_full_one(tiny):
    half, full = load(tiny, "cpu", torch.bfloat16), load(tiny, "cpu")
    z = half.encode(X)
    assert (
        z.dtype
        == half.decode(z).dtype
        == half.eps(z.bfloat16(), 500, half.embed("a red star")).dtype
        == torch.float32
    )
    edits = [sdedit(b, X, "a red star", steps=4, w=1.0) for b in (half, full)]
    assert all(z_t.dtype == torch.float32 for z_t in edits[0].path)
    assert 0 < (edits[0].picture - edits[1].picture).abs().mean() < 0.02


def test_float64_stays_float64(tiny):
    model = load(tiny, "cpu", torch.float64)
    assert model.encode(X).dtype == model.eps(model.encode(X), 500, model.embed("")).dtype == torch.float64


@pytest.mark.parametrize("grid", [8])
def test_the_grid_is_the_autoencoders_factor_times_the_unets(tiny, grid):
    model = load(tiny, "cpu")
    assert model.grid == model.vae.factor * model.net.factor == grid
    with pytest.raises(ValueError, match="divisible by"):
        model.eps(
            model.encode(torch.zeros(1, 3, 32, 36)), 500, model.embed("")
        )  # of the autoencoder's grid, but not of the U-Net's


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_null_text_refuses_half_precision_in_one_line(tiny, dtype):
    model = load(tiny, "meta" if dtype == torch.float16 else "cpu", dtype)
    with pytest.raises(
        ValueError, match="model: null-text optimisation needs float32, and .* is torch.*; load it in float32"
    ) as error:
        null_text(model, X, "a red star", steps=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "command, module, dtype",
    [
        ("null-text in.png --prompt STAR", "null_text", torch.float32),
        ("invert in.png --prompt STAR", "invert", torch.float32),
        ("prompt-to-prompt STAR STAR --input in.png", "prompt_to_prompt", torch.float32),
        ("prompt-to-prompt STAR STAR --input in.png --inversion ddim", "prompt_to_prompt", "auto"),
    ],
)
def test_commands_that_tune_null_texts_ask_for_float32(command, module, dtype, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("in.png")
    wanted = []

    def spy(a, dtype=None):
        wanted.append(dtype)
        raise Mistake("model: enough seen")

    monkeypatch.setattr(f"palimpsest.cli.commands.{module}.load_model", spy)
    assert main([*command.replace("STAR", "star").split(), "-o", "out.png"]) == 2 and wanted == [dtype]
