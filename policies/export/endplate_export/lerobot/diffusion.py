"""Diffusion Policy: ``condition.onnx`` once, ``epsilon.onnx`` once a step, the schedule in the runtime.

The rows a bundle plays begin at the newest observation: of the ``horizon`` rows the network makes, the first
``n_obs_steps - 1`` lie in the past.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from . import ExportError, graphs
from .bundle import Sample, Source, Table, timed
from .checkpoint import CONFIG, STATE

#: Names of LeRobot's configuration -> of policy.toml.
SCHEDULERS = {"DDPM": "ddpm", "DDIM": "ddim"}
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")


class Condition(torch.nn.Module):
    """Observations, oldest first, to the network's global condition, [1, G]."""

    def __init__(self, source: Source, size: tuple[int, int]):
        super().__init__()
        self.images, self.model = graphs.Images(source.checkpoint), copy.deepcopy(source.policy.diffusion)
        config = source.policy.config
        encoders = self.model.rgb_encoder if config.use_separate_rgb_encoder_per_camera else [self.model.rgb_encoder]
        for encoder in encoders:  # at a fixed size resizing is nothing and a crop is a slice
            encoder.resize = None
            if config.crop_shape is not None:
                encoder.center_crop = CentreCrop(size, config.crop_shape)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state = inputs
        stacked = torch.stack([self.images(i, image) for i, image in enumerate(images)], 1)[None]  # [1, n, C, 3, h, w]
        return self.model._prepare_global_conditioning({"observation.images": stacked, STATE: state[None]})


class CentreCrop(torch.nn.Module):
    """torchvision's, for images of one size at least as large as the crop."""

    def __init__(self, size: tuple[int, int], crop: tuple[int, int]):
        super().__init__()
        self.rows, self.columns = (slice(int(round((one - part) / 2.0)), int(round((one - part) / 2.0)) + part) for one, part in zip(size, crop))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[..., self.rows, self.columns]


class Epsilon(torch.nn.Module):
    """What the network predicts of a noisy chunk, [1, horizon, D]."""

    def __init__(self, source: Source):
        super().__init__()
        self.unet = source.policy.diffusion.unet

    def forward(self, noisy: torch.Tensor, step: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, step, global_cond=condition)


class Diffusion:
    """See ``bundle.Family``."""

    def __init__(self, source: Source):
        config = source.checkpoint.config
        for key, value, known in (
            ("noise_scheduler_type", config["noise_scheduler_type"], tuple(SCHEDULERS)),
            ("beta_schedule", config["beta_schedule"], BETAS),
            ("prediction_type", config["prediction_type"], ("epsilon", "sample")),
        ):
            if value not in known:
                raise ExportError(CONFIG, key, value, f"the runtime knows {', '.join(known)}")
        self.source, self.config = source, config
        self.observations, self.rows = config["n_obs_steps"], config["horizon"]
        self.dims = len(source.embodiment.action)
        model = source.policy.diffusion
        self.steps = model.num_inference_steps
        self.is_ddpm = config["noise_scheduler_type"] == "DDPM"
        #: Noise of one inference: the start and, for DDPM, what every step but the last adds.
        self.draws = self.steps if self.is_ddpm else 1
        table = {
            "observation_steps": self.observations, "horizon": self.rows, "condition": model.unet.down_modules[0][0].cond_encoder[1].in_features - config["diffusion_step_embed_dim"],
            "scheduler": SCHEDULERS[config["noise_scheduler_type"]], "steps": self.steps, "train_steps": config["num_train_timesteps"],
            "beta_schedule": config["beta_schedule"], "beta_start": float(config["beta_start"]), "beta_end": float(config["beta_end"]), "prediction": config["prediction_type"],
        }
        if config["clip_sample"]:
            table["clip"] = float(config["clip_sample_range"])
        self.table = Table(
            self.rows - self.observations + 1, config["n_action_steps"], resize="bilinear_antialiased" if config.get("resize_shape") else "none",
            observations=self.observations, tables={"diffusion": table}, costs=("condition_ms", "step_ms"), probes=("condition", "epsilon"),
        )
        self.sessions = None

    def sizes(self) -> dict[str, tuple[int, int]]:
        """The network resizes what the runtime has not; a frame of that size passes unchanged."""
        resized = self.config.get("resize_shape")
        return {name: tuple(resized) for name in self.source.sizes()} if resized else self.source.sizes()

    def write(self, folder: Path, shared: graphs.Shared) -> None:
        n, width = self.observations, self.table.tables["diffusion"]["condition"]
        inputs = {f"image_{i}": torch.zeros(n, 3, h, w) for i, (h, w) in enumerate(self.sizes().values())}
        inputs["state"] = torch.zeros(n, len(self.source.embodiment.state))
        graphs.export(Condition(self.source, next(iter(self.sizes().values()))), inputs, ["condition"], folder / "condition.onnx", shared)
        inputs = {"noisy": torch.zeros(1, self.rows, self.dims), "step": torch.zeros(1, dtype=torch.int64), "condition": torch.zeros(1, width)}
        graphs.export(Epsilon(self.source), inputs, ["epsilon"], folder / "epsilon.onnx", shared)

    @torch.no_grad()
    def reference(self, sample: Sample) -> None:
        noise = torch.from_numpy(np.random.default_rng(int(sample.state.sum() * 1e6) % 2**32).normal(size=(self.draws, self.rows, self.dims)).astype(np.float32))
        sample.arrays["noise"] = noise.numpy()
        model, policy = self.source.policy.diffusion, self.source.policy
        batches = [self.source.preprocessor(self.source.batch(past)) for past in (*sample.past, sample)]
        stacked = {STATE: torch.stack([batch[STATE] for batch in batches], 1)}
        stacked["observation.images"] = torch.stack([torch.stack([batch[key] for key in policy.config.image_features], -4) for batch in batches], 1)
        condition = model._prepare_global_conditioning(stacked)
        model.noise_scheduler.set_timesteps(self.steps)
        sample.arrays["condition"] = condition.numpy()
        sample.arrays["epsilon"] = model.unet(noise[:1], model.noise_scheduler.timesteps[:1], global_cond=condition)[0].numpy()
        with given_noise(noise[1:]):
            rows = model.conditional_sample(1, global_cond=condition, noise=noise[:1])
        sample.actions = self.source.answer(rows[:, self.observations - 1 :])

    def replay(self, folder: Path, sample: Sample) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, float]]:
        if self.sessions is None:
            self.sessions = tuple(graphs.session(folder / f"{name}.onnx") for name in ("condition", "epsilon"))
        moments = (*sample.past, sample)
        inputs = {f"image_{i}": np.stack([moment.images[name].transpose(2, 0, 1) for moment in moments]).astype(np.float32) / 255 for i, name in enumerate(sample.images)}
        inputs["state"] = np.stack([self.source.normalised_state(moment) for moment in moments])
        times: dict[str, float] = {}
        condition = timed(times, "condition_ms", lambda: self.sessions[0].run(["condition"], inputs))[0]
        scheduler = self.source.policy.diffusion.noise_scheduler
        scheduler.set_timesteps(self.steps)
        noise, first = torch.from_numpy(sample.arrays["noise"]), None
        x = noise[:1]
        with given_noise(noise[1:]):
            for step in scheduler.timesteps:
                feed = {"noisy": x.numpy(), "step": step.numpy()[None], "condition": condition}
                epsilon = timed(times, "step_ms", lambda feed=feed: self.sessions[1].run(["epsilon"], feed))[0]
                first = epsilon[0] if first is None else first
                x = scheduler.step(torch.from_numpy(epsilon), step, x).prev_sample
        times["step_ms"] /= self.steps
        return {"condition": condition, "epsilon": first}, x[0, self.observations - 1 :].numpy(), times


class given_noise:  # noqa: N801 (used as a function)
    """Inside, the scheduler draws these, [N, horizon, D], one after the other, instead of random numbers."""

    def __init__(self, noise: torch.Tensor):
        self.noise = iter(noise)

    def __enter__(self):
        from diffusers.schedulers import scheduling_ddpm

        self.module, self.drawn = scheduling_ddpm, scheduling_ddpm.randn_tensor
        scheduling_ddpm.randn_tensor = lambda shape, **_: next(self.noise).reshape(shape)

    def __exit__(self, *_):
        self.module.randn_tensor = self.drawn
