"""scheduler_config.json of diffusers: on which noise schedule a net was trained, and what it predicts.

The file describes a sampler, of which only two things belong to the net. They are read; what stands there
of how diffusers would walk (HABITS) is passed over, since the samplers here choose their own steps. A field
that changes the training and cannot be said with a `Schedule` is refused by its name, and so is one that is
not known here and switched on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from palimpsest.samplers.convert import Prediction
from palimpsest.samplers.schedule import Schedule
from palimpsest.weights.files import WeightsError, write_json
from palimpsest.weights.public.mapped import read_json

PREDICTIONS: dict[str, Literal["eps", "v"]] = {"epsilon": "eps", "v_prediction": "v"}
SCHEDULES: dict[str, Callable[[int, float, float], Schedule]] = {
    "linear": Schedule.linear,
    "scaled_linear": Schedule.scaled_linear,
    "squaredcos_cap_v2": lambda T, start, end: Schedule.cosine(T),  # its betas have no ends of their own
}
READ = {
    *("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas"),
    "prediction_type",
}
HABITS = {  # of the sampler alone: with other values the same net gives the same answers
    *("timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps"),  # which times it visits
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "flow_shift"),
    *("sigma_min", "sigma_max", "final_sigmas_type", "interpolation_type", "rho", "lambda_min_clipped"),
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
    *("solver_order", "solver_type", "solver_p", "algorithm_type", "predict_x0", "lower_order_final"),
    *("euler_at_final", "disable_corrector", "predictor_order", "corrector_order", "tau_func", "eta"),
    *("variance_type", "timestep_type", "time_shift_type"),  # but for the values in REFUSED
    *("noise_sampler_seed", "s_churn", "s_noise", "s_tmin", "s_tmax"),
}
REFUSED: list[tuple[str, Callable[[Any], Any], str]] = [  # field, whether a value is meant, and why
    (
        "rescale_betas_zero_snr",
        bool,
        "its noise schedule ends at zero terminal SNR, where nothing is left of the picture and the noise "
        "does not tell x_0",
    ),
    ("use_flow_sigmas", bool, "it was trained by flow matching, on straight lines from picture to noise"),
    ("timestep_type", lambda value: value != "discrete", "its net is told log σ and not the time"),
    ("variance_type", lambda value: "learned" in str(value), "its net predicts a variance beside the noise"),
    ("prediction_type", lambda value: value not in PREDICTIONS, f"known are {' and '.join(PREDICTIONS)}"),
]
OTHERS = {  # the beginning of a class's name -> what its models are
    "FlowMatch": "trained by flow matching, on straight lines from picture to noise",
    "LCM": "distilled to a few steps: its net does not predict the noise",
    "TCD": "distilled to a few steps: its net does not predict the noise",
    "CMStochastic": "a consistency model: its net does not predict the noise",
    "EDM": "trained on scaled pictures by the levels of arXiv:2206.00364",
    "CosineDPM": "trained on scaled pictures by the levels of arXiv:2206.00364",
    "ScoreSdeV": "trained on the levels of a score SDE",
    "KarrasVe": "trained on variance-exploding levels",
    "VQDiffusion": "a model of discrete codes",
    "Amused": "a model of discrete codes",
    "DDPMWuerstchen": "Stable Cascade's or Würstchen's",
}
MEND = "take a Stable Diffusion v1 or v2 model that predicts ε or v"
V1_ENDS, DDPM_ENDS = (0.00085, 0.012), (1e-4, 0.02)  # beta_start and beta_end where a file leaves them out
WITH_V1_ENDS = ("HeunDiscrete", "KDPM2", "DPMSolverSDE")  # diffusers' defaults differ by class


def read_scheduler(path: Path) -> tuple[Schedule, Literal["eps", "v"]]:
    """(ᾱ of the training, what the net predicts); those of Stable Diffusion v1 where there is no such file.

    Raises WeightsError with the field that cannot be followed."""
    if not path.is_file():
        return Schedule.scaled_linear(), "eps"
    config = read_json(path)
    _refuse(path, config)
    named = str(config.get("_class_name", ""))
    ends = V1_ENDS if named.startswith(WITH_V1_ENDS) else DDPM_ENDS
    T, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    kind = config.get("beta_schedule", "linear")
    if betas is None and kind not in SCHEDULES:
        raise WeightsError(
            f"model: {path} asks for beta_schedule {kind!r}; known are {', '.join(SCHEDULES)}; {MEND}"
        )
    field = "trained_betas" if betas is not None else "num_train_timesteps, beta_start or beta_end"
    try:
        if betas is not None:
            schedule = Schedule.from_betas(torch.tensor(betas, dtype=torch.float64).reshape(T))
        else:
            schedule = SCHEDULES[kind](T, config.get("beta_start", ends[0]), config.get("beta_end", ends[1]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"model: {path} holds {field} that make no noise schedule ({str(error).splitlines()[0]}); "
            "fetch it again"
        ) from None
    return schedule, PREDICTIONS[config.get("prediction_type", "epsilon")]


def _refuse(path: Path, config: dict[str, Any]) -> None:
    """Raises WeightsError for a class or a field that this library cannot follow."""
    named = str(config.get("_class_name", ""))
    for start, what in OTHERS.items():
        if named.startswith(start):
            raise WeightsError(
                f"model: {path} is a {named}, so its model is {what}, which is not supported; {MEND}"
            )
    for field, meant, why in REFUSED:
        if field in config and config[field] is not None and meant(config[field]):
            raise WeightsError(
                f"model: {path} has {field} {config[field]!r}, which is not supported ({why}); {MEND}"
            )
    known = READ | HABITS | {field for field, *_ in REFUSED}
    for field, value in config.items():  # what is None or False is switched off
        if field not in known and not field.startswith("_") and value is not None and value is not False:
            raise WeightsError(
                f"model: {path} has {field} {value!r}, a field that is not known here and may change what "
                f"the net means; {MEND}"
            )


def write_scheduler(folder: Path, schedule: Schedule, prediction: Prediction) -> None:
    """scheduler_config.json of a DDIM sampler; a schedule that is not Stable Diffusion's is written as its
    betas. Raises WeightsError for a prediction that this sampler does not know."""
    if prediction not in PREDICTIONS.values():
        raise WeightsError(
            f"prediction: this file knows {' and '.join(PREDICTIONS)}, and this model has {prediction!r}"
        )
    betas = 1 - schedule.abar[1:] / schedule.abar[:-1]
    usual = torch.equal(schedule.abar, Schedule.scaled_linear(schedule.T).abar)
    config = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.T,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "trained_betas": None if usual else betas.tolist(),
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": {name: theirs for theirs, name in PREDICTIONS.items()}[prediction],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scheduler_config.json", config)
