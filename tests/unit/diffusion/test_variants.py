"""Seeds and order of variants."""

import pytest

from diffharmony.diffusion.inference import default_steps
from diffharmony.diffusion.variants import most_harmonious_first, variant_label, variant_seeds


def test_the_first_seed_is_the_given_one_and_no_seed_depends_on_their_number():
    seeds = variant_seeds(7, 8)
    assert seeds[0] == 7 and len(set(seeds)) == 8 and all(0 <= seed < 2**32 for seed in seeds)
    assert variant_seeds(7, 3) == seeds[:3] and not set(variant_seeds(8, 8)) & set(seeds)
    for count in (0, 9, True, 2.0):
        with pytest.raises(ValueError, match="variants must be a whole number in 1..8"):
            variant_seeds(7, count)


def test_the_least_probable_composite_comes_first_and_equals_stay_in_order():
    assert most_harmonious_first([0.5, 0.1, 0.9, 0.1]) == [1, 3, 0, 2]
    assert variant_label(2, 7, 0.25) == "2: 0.250, seed 7" and variant_label(1, 7, None) == "1: seed 7"


def test_variants_are_sampled_not_all_the_mean():
    class Unet:
        steps = 1

    assert (default_steps(Unet, "transfer"), default_steps(Unet, "transfer", 3), default_steps(Unet, "change")) == (1, 5, 5)
