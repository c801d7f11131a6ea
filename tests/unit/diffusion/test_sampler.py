"""Sampling: parity with the reference, noise per image, refusals (SPEC §2, §11)."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from diffharmony.diffusion import build_scheduler, sample_generators, sample_latents
from diffharmony.diffusion.sampler import model_input

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def golden_unet():
    with safe_open(DATA / "unet_tiny.weights.safetensors", "pt") as file:
        unet = UNet2DConditionModel.from_config(json.loads(file.metadata()["config"]))
    unet.load_state_dict(load_file(DATA / "unet_tiny.weights.safetensors"))
    unet.empty_prompt_embeds = load_file(DATA / "unet_tiny.expected.safetensors")["empty_prompt"]
    unet.prediction_type = "epsilon"
    return unet.eval()


@pytest.fixture(scope="module")
def expected():
    return load_file(DATA / "unet_tiny.expected.safetensors")


def test_one_call_equals_the_reference(golden_unet, expected):
    x = model_input(expected["noise"], expected["mask"], expected["condition_latent"])
    with torch.no_grad():
        eps = golden_unet(x, 500, encoder_hidden_states=expected["empty_prompt"].expand(2, -1, -1)).sample
    assert (eps - expected["eps_t500"]).abs().max() <= 1e-5


def test_five_euler_steps_equal_the_reference(golden_unet, expected):
    got = sample_latents(golden_unet, expected["condition_latent"], expected["mask"], noise=expected["noise"], ancestral=False)
    assert (got - expected["euler5"]).abs().max() <= 1e-4 * expected["euler5"].abs().max()


@pytest.mark.parametrize("ancestral", [True, False])
def test_noise_levels_and_timesteps_equal_the_reference(expected, ancestral):
    scheduler = build_scheduler(ancestral=ancestral)
    scheduler.set_timesteps(5)
    torch.testing.assert_close(scheduler.sigmas, expected["sigmas"])
    torch.testing.assert_close(scheduler.timesteps, expected["timesteps"])


def test_an_image_of_a_batch_equals_the_image_alone(golden_unet, expected):
    condition, mask = expected["condition_latent"], expected["mask"]
    both = sample_latents(golden_unet, condition, mask, generator=sample_generators(7, 2))
    second = sample_latents(golden_unet, condition[1:], mask[1:], generator=sample_generators(8, 1))
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_latents_and_another_one_others(golden_unet, expected):
    condition, mask = expected["condition_latent"], expected["mask"]
    runs = [sample_latents(golden_unet, condition, mask, generator=sample_generators(seed, 2)) for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def _perfect_unet(target, prediction_type):
    """A stand-in whose every prediction points at `target`, so that any correct sampler must land on it."""
    alphas = build_scheduler().alphas_cumprod

    class Perfect:
        dtype = torch.float32
        config = type("Config", (), {"cross_attention_dim": 8})
        empty_prompt_embeds = torch.zeros(1, 77, 8)

        def __call__(self, x, timestep, encoder_hidden_states):
            low = int(timestep)
            sigmas = ((1 - alphas) / alphas).sqrt()
            sigma = torch.lerp(sigmas[low], sigmas[min(low + 1, 999)], timestep - low)
            scaled = x[:, :4]
            noisy = scaled * (sigma**2 + 1).sqrt()
            eps = (noisy - target) / sigma
            if prediction_type == "v_prediction":
                eps = (eps - sigma * target) / (sigma**2 + 1).sqrt()
            return type("Output", (), {"sample": eps})

    unet = Perfect()
    unet.prediction_type = prediction_type
    return unet


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("ancestral", [True, False])
def test_a_perfect_prediction_is_reached_in_any_number_of_steps(prediction_type, steps, ancestral):
    target = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    seen = []
    got = sample_latents(
        _perfect_unet(target, prediction_type), torch.zeros(2, 4, 3, 5), torch.ones(1, 1, 3, 5), steps=steps,
        generator=sample_generators(0, 2), ancestral=ancestral, progress=lambda done, total: seen.append((done, total)),
    )
    torch.testing.assert_close(got, target, rtol=0, atol=2e-4)
    assert seen == [(index + 1, steps) for index in range(steps)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(golden_unet, expected, dtype):
    import copy

    half = copy.deepcopy(golden_unet).to(dtype)
    got = sample_latents(half, expected["condition_latent"], expected["mask"], noise=expected["noise"], ancestral=False)
    assert got.dtype == torch.float32
    assert (got - expected["euler5"]).abs().max() <= 0.05 * expected["euler5"].abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"mask_latent": torch.ones(1, 1, 9, 9)}, "mask_latent must have shape"),
        ({"condition_latent": torch.zeros(2, 3, 16, 12)}, "condition_latent must have shape"),
        ({"noise": torch.zeros(1, 4, 16, 12)}, "noise must have shape"),
        ({"generator": [torch.Generator()]}, "generator must be one or one per image"),
        ({"empty_prompt_embeds": torch.zeros(1, 77, 9)}, "empty_prompt_embeds must have shape"),
    ],
)
def test_refusals_say_what_to_do(golden_unet, expected, change, message):
    arguments = {"condition_latent": expected["condition_latent"], "mask_latent": expected["mask"], **change}
    with pytest.raises(ValueError, match=message):
        sample_latents(golden_unet, **arguments)


def test_a_unet_without_embedding_is_refused_with_the_command(golden_unet, expected):
    golden_unet.empty_prompt_embeds, kept = None, golden_unet.empty_prompt_embeds
    try:
        with pytest.raises(ValueError, match="diffharmony convert"):
            sample_latents(golden_unet, expected["condition_latent"], expected["mask"])
    finally:
        golden_unet.empty_prompt_embeds = kept


def test_seeds_given_as_a_list_must_match_the_batch():
    assert [g.initial_seed() for g in sample_generators([5, 9], 2)] == [5, 9]
    with pytest.raises(ValueError, match="one per image"):
        sample_generators([1, 2, 3], 2)
