"""Candidates: one seed each, the same whatever is made beside them, and the real photograph outside the mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.diffusion import harmonize
from diffharmony.diffusion.prepacked import PrepackedConvolutions
from diffharmony.inverse import candidate_seed, generate_candidates
from diffharmony.tests.made.inverse import inverse_pair
from diffharmony.tests.made.pretrained import make_vae

names = st.text(min_size=1, max_size=12)


@pytest.fixture(scope="module")
def pair():
    return inverse_pair()


@pytest.fixture(scope="module")
def photograph():
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(1, 3, 44, 60, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 44, 60)
    mask[..., 10:30, 20:40] = 1
    mask[..., 9, 20:40] = 0.3
    return real, mask


def test_a_candidate_depends_on_its_seed_only(pair, photograph):
    seeds = [11, 5, 2**63 - 1, 0]
    together = generate_candidates(*pair, *photograph, seeds)
    assert together.shape == (4, 3, 44, 60)
    for seed, candidate in zip(seeds, together):
        assert torch.equal(generate_candidates(*pair, *photograph, [seed])[0], candidate)
    assert torch.equal(generate_candidates(*pair, *photograph, seeds[::-1]).flip(0), together)
    inside = (photograph[1] == 1).expand_as(photograph[0])[0]
    distances = [(a - b)[inside].abs().mean() for i, a in enumerate(together) for b in together[:i]]
    assert min(distances) > 0.01


def test_outside_the_mask_it_is_the_real_image(pair, photograph):
    real, mask = photograph
    outside = (mask == 0).expand_as(real)[0]
    for size in (None, 64):
        for candidate in generate_candidates(*pair, real, mask, [1, 2], size=size):
            assert torch.equal(candidate[outside], real[0][outside])
            assert not torch.equal(candidate[~outside], real[0][~outside])
    whole = generate_candidates(*pair, real, mask, [1], paste_background=False)
    assert not torch.equal(whole[0][outside], real[0][outside])
    pasted = generate_candidates(*pair, real, mask, [1])
    torch.testing.assert_close(pasted, mask * whole + (1 - mask) * real, rtol=0, atol=1e-6)


def test_it_is_what_harmonize_gives_with_the_pair(pair, photograph):
    options = {"steps": 2, "size": 64, "paste_background": False, "keep_detail": False}
    both = generate_candidates(*pair, *photograph, [4, 9], **options)
    for seed, candidate in zip((4, 9), both):
        torch.testing.assert_close(harmonize(*pair, *photograph, seed=seed, **options)[0], candidate, rtol=0, atol=1e-4)


def test_packed_convolutions_are_the_models_own_to_rounding(pair):
    _, unet = pair
    sample, prompt = torch.randn(1, 9, 22, 30), torch.randn(1, 77, 8)

    def predict(sample=sample):
        with torch.no_grad():
            return unet(sample, 500.0, encoder_hidden_states=prompt).sample

    plain = predict()
    packed = PrepackedConvolutions(unet)
    with packed:
        first = predict()
        with PrepackedConvolutions(unet):
            assert torch.equal(predict(), first)
        larger = predict(sample.repeat(1, 1, 2, 2))
        assert torch.equal(predict(), first)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-5)
    assert torch.equal(predict(), plain)
    with PrepackedConvolutions(unet):  # packed for the larger image first
        assert torch.equal(predict(sample.repeat(1, 1, 2, 2)), larger) and torch.equal(predict(), first)
    assert not any("_conv_forward" in module.__dict__ for module in unet.modules())


def test_the_encoders_run_once(pair, photograph, monkeypatch):
    vae, unet = pair
    calls = []
    for name in ("encode", "encode_condition", "decode"):
        original = getattr(vae, name)
        monkeypatch.setattr(vae, name, lambda *args, name=name, original=original: calls.append(name) or original(*args))
    done = []
    generate_candidates(vae, unet, *photograph, [1, 2, 3], progress=lambda *at: done.append(at))
    assert sorted(calls) == ["decode"] * 3 + ["encode", "encode_condition"]
    assert done == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    harmonize(vae, unet, *photograph)
    assert sorted(calls) == ["decode", "encode", "encode_condition"]


def test_a_harmonizing_pair_is_refused(pair, photograph, monkeypatch):
    for model, name in zip(pair, ("vae", "unet")):
        with monkeypatch.context() as changed:
            changed.setattr(model, "direction", "harmonize")
            with pytest.raises(ValueError, match=f"{name} must be of direction 'invert', got 'harmonize'"):
                generate_candidates(*pair, *photograph, [1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds must be at least one, got none"),
        ({"seeds": [1.5]}, "seed must be a whole number"),
        ({"real": torch.zeros(2, 3, 44, 60)}, "real and mask must be one image and one mask, got a batch of 2"),
        ({"real": torch.full((1, 3, 44, 60), 7.0)}, r"real must lie in \[-1, 1\]"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, "mask must be as large as real"),
        ({"size": 3}, "size must be"),
        ({"steps": 0}, "steps must be"),
        ({"vae": make_vae()}, "vae must be a HarmonyVAE"),
    ],
)
def test_refusals(pair, photograph, change, message):
    given_ = {"vae": pair[0], "unet": pair[1], "real": photograph[0], "mask": photograph[1], "seeds": [1], **change}
    with pytest.raises(ValueError, match=message):
        generate_candidates(**given_)


def test_a_result_that_is_not_finite_is_an_error(pair, photograph):
    _, unet = inverse_pair()
    with torch.no_grad():
        unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(RuntimeError, match="must be finite"):
        generate_candidates(pair[0], unet, *photograph, [1])


@settings(max_examples=200, deadline=None)
@given(base=st.integers(-(2**70), 2**70), image=names, mask=names, k=st.integers(0, 10**6))
def test_a_seed_is_of_its_four_alone(base, image, mask, k):
    seed = candidate_seed(base, image, mask, k)
    assert 0 <= seed < 2**63 and seed == candidate_seed(base, image, mask, k)
    assert len({seed, candidate_seed(base, image, mask, k + 1), candidate_seed(base + 1, image, mask, k)}) == 3
    assert candidate_seed(base, image + "\x00", mask, k) != candidate_seed(base, image, "\x00" + mask, k)


def test_seeds_stay_what_they_are():
    """Folders made with an earlier version must go on: the numbers are part of the format."""
    assert candidate_seed(0, "a0001", "1", 1) == 7960689815541832123
    assert candidate_seed(7, "größe", "1", 10) == candidate_seed(7, "gro\u0308ße", "1", 10) == 1889882558469425910


def test_the_benchmark_takes_turns_and_names_its_floor():
    from diffharmony.applications.benchmarks.candidates import CandidatesBenchmark, run, table

    result = run(CandidatesBenchmark(model="tiny", size=32, candidates=2, steps=1))
    for clock in ("wall", "cpu"):
        times = result[clock]
        assert set(times["parts"]) == {"encode", "conditional encode", "order of weights", "UNet, 1 steps", "decode"}
        assert times["ratio"] == times["shared"][0] / times["separate"][0] and 0.5 < times["floor"] < 1
    assert "2 candidates at once, to as many separate ones" in table(result)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        run(CandidatesBenchmark(candidates=0))
