"""A small share of the hostile inputs of `python -m diffharmony.tests.faults.fuzz`, each loader's."""

import sys

import pytest

from diffharmony.tests.faults.fuzz import fuzz, shares, warm_up
from diffharmony.tests.faults.targets import make_good

INPUTS = 48


@pytest.mark.skipif(sys.platform != "linux", reason="memory and changes are looked at as Linux tells them")
def test_hostile_inputs_are_refused_or_loaded(tmp_path):
    make_good(tmp_path)
    warm_up(tmp_path)
    report = fuzz(shares(INPUTS), seed=1, good=tmp_path)
    assert not {name: one["failed"] for name, one in report.items() if one["failed"]}
    outcomes = {outcome for one in report.values() for outcome in one["outcomes"]}
    assert {"loaded", "refused"} <= outcomes and sum(one["inputs"] for one in report.values()) >= INPUTS
