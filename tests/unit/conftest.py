"""Shared by the trainers' tests."""

import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of six composites, in iHarmony4's layout, one name with a space and one with an umlaut."""
    from diffharmony.tests.made.training import make_pairs

    return make_pairs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small plain VAE's file."""
    from diffharmony.tests.made.training import write_vae

    return write_vae(tmp_path_factory.mktemp("base") / "vae.safetensors")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Starts training commands as processes."""
    from diffharmony.tests.made.forked_runs import ForkedRuns

    with ForkedRuns(tmp_path_factory.mktemp("runs")) as started:
        yield started
