"""Scheduler files of diffusers: every field is read, passed over knowingly, or refused by its name."""

import inspect
import json

import pytest
import torch

from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError
from palimpsest.weights.public.schedulers import HABITS, READ, REFUSED, read_scheduler, write_scheduler


def written(tmp_path, config):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path / "scheduler_config.json"


@pytest.mark.parametrize(
    "config, schedule, prediction",
    [
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, None, "eps"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, Schedule.linear(), "v"),
        ({"_class_name": "DDPMScheduler", "num_train_timesteps": 50}, Schedule.linear(50), "eps"),
        ({"_class_name": "HeunDiscreteScheduler"}, Schedule.linear(1000, 0.00085, 0.012), "eps"),
        ({"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}, Schedule.cosine(), "eps"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 2}, Schedule.linear(2, 0.1, 0.2), "eps"),
    ],
)
def test_the_schedule_of_the_training_is_read(tmp_path, config, schedule, prediction):
    found = read_scheduler(written(tmp_path, config))
    expected = Schedule.scaled_linear() if schedule is None else schedule
    torch.testing.assert_close(found[0].abar, expected.abar, rtol=1e-12, atol=0)
    assert found[1] == prediction


def test_without_a_file_it_is_stable_diffusions(tmp_path):
    schedule, prediction = read_scheduler(tmp_path / "none.json")
    assert torch.equal(schedule.abar, Schedule.scaled_linear().abar) and prediction == "eps"


def schedulers():
    """diffusers' classes that walk on betas, by name."""
    diffusers = pytest.importorskip("diffusers", reason="its classes say which fields there are")
    found = {}
    for name in dir(diffusers):
        if name.endswith("Scheduler") and not name.startswith("Flax"):
            try:
                fields = inspect.signature(getattr(diffusers, name).__init__).parameters
            except (ValueError, RuntimeError, ImportError):  # needs a package that is not here
                continue
            if "beta_start" in fields:
                found[name] = (getattr(diffusers, name), fields)
    assert len(found) > 12
    return found


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "HeunDiscrete", "UniPCMultistep"])
def test_the_defaults_are_those_of_each_class_of_diffusers(tmp_path, name):
    cls, _ = schedulers()[f"{name}Scheduler"]
    theirs = cls()
    theirs.save_pretrained(tmp_path)
    for file in ("as saved", "class alone"):
        config = json.loads((tmp_path / "scheduler_config.json").read_text(encoding="utf-8"))
        if file == "class alone":
            config = {"_class_name": config["_class_name"]}
        schedule, prediction = read_scheduler(written(tmp_path, config))
        abar = schedule.abar[1:].float()
        torch.testing.assert_close(abar, theirs.alphas_cumprod.float(), rtol=1e-3, atol=1e-6)
        assert prediction == "eps"


def test_every_field_that_diffusers_has_is_read_or_known_by_its_name():
    known = READ | HABITS | {field for field, *_ in REFUSED}
    # only flow matching and distilled models look at these
    other = {"use_dynamic_shifting", "shift_terminal", "original_inference_steps", "timestep_scaling"}
    fields = {name: set(fields) for name, (_, fields) in schedulers().items()}
    unknown = {name: left - known - other - {"self", "args", "kwargs"} for name, left in fields.items()}
    unknown = {name: left for name, left in unknown.items() if left and not name.startswith("CogVideoX")}
    assert unknown == {} and READ.isdisjoint(HABITS)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True.*zero terminal SNR"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "trained_betas": [0.1, 0.2]},
            "rescale_betas_zero_snr",
        ),
        ({"prediction_type": "sample"}, "prediction_type 'sample'.*known are epsilon and v_prediction"),
        ({"prediction_type": "sample", "trained_betas": [0.1]}, "prediction_type 'sample'"),
        ({"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "use_flow_sigmas True.*flow match"),
        ({"timestep_type": "continuous"}, "timestep_type 'continuous'"),
        ({"variance_type": "learned_range"}, "variance_type 'learned_range'.*a variance"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'; known are linear"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale 3.0, a field that is not known"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "a FlowMatchEuler.*flow matching"),
        ({"_class_name": "LCMScheduler"}, "an? LCMScheduler.*distilled"),
        ({"_class_name": "EDMEulerScheduler"}, "an? EDMEulerScheduler.*arXiv:2206.00364"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas that make no noise schedule"),
        (
            {"trained_betas": [0.1, 1.5], "num_train_timesteps": 2},
            "trained_betas that make no noise schedule",
        ),
        ({"trained_betas": "x"}, "trained_betas that make no noise schedule"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps, beta_start or beta_end that make no"),
        ({"beta_end": 2.0}, "num_train_timesteps, beta_start or beta_end that make no"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_name(tmp_path, config, said):
    with pytest.raises(WeightsError, match=said) as e:
        read_scheduler(written(tmp_path, {"_class_name": "DDIMScheduler"} | config))
    assert "\n" not in str(e.value) and str(e.value).startswith(f"model: {tmp_path}")


def test_the_samplers_habits_change_nothing(tmp_path):
    plain = {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "scaled_linear"}
    habits = {
        **{"timestep_spacing": "trailing", "steps_offset": 1, "clip_sample": True, "thresholding": True},
        **{"use_karras_sigmas": True, "set_alpha_to_one": True, "final_sigmas_type": "sigma_min"},
        **{"solver_order": 3, "variance_type": "fixed_small", "timestep_type": "discrete"},
        **{"rescale_betas_zero_snr": False, "use_flow_sigmas": None, "a_field_of_tomorrow": False},
    }
    a, b = (read_scheduler(written(tmp_path, config)) for config in (plain, plain | habits))
    assert torch.equal(a[0].abar, b[0].abar) and a[1] == b[1]


@pytest.mark.parametrize(
    "schedule", [Schedule.scaled_linear(), Schedule.cosine(100), Schedule.scaled_linear(9)]
)
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_what_is_written_is_read(tmp_path, schedule, prediction):
    write_scheduler(tmp_path, schedule, prediction)
    found = read_scheduler(tmp_path / "scheduler_config.json")
    torch.testing.assert_close(found[0].abar, schedule.abar, rtol=1e-12, atol=0)
    assert found[1] == prediction
