"""What benchmarks share: the CPU time of a process and its workers."""

import multiprocessing
import time

import pytest

from diffharmony.applications.benchmarks import decode
from diffharmony.applications.benchmarks._main import cpu_seconds
from diffharmony.applications.benchmarks.loader import LoaderBenchmark, _measure, table, write_pictures


def _work_until_told(told):
    while not told.is_set():
        pass


@pytest.mark.skipif(cpu_seconds() is None, reason="the system does not tell other processes' CPU time")
def test_cpu_time_counts_workers_and_not_waiting():
    context = multiprocessing.get_context("fork")
    told = context.Event()
    worker = context.Process(target=_work_until_told, args=(told,))
    worker.start()
    try:
        start = cpu_seconds()
        deadline = time.monotonic() + 30
        while cpu_seconds() - start < 0.2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cpu_seconds() - start >= 0.2  # the worker's, since this process slept
    finally:
        told.set()
        worker.join()
    start = cpu_seconds()
    time.sleep(0.2)
    assert cpu_seconds() - start < 0.1


def test_the_loaders_are_compared_by_both_clocks(tmp_path):
    write_pictures(tmp_path, {"small": 1.0}, 4)
    case = _measure(tmp_path, 64, LoaderBenchmark(images=4, rounds=2, batch_size=2, workers=1, repeats=1))
    for ratio, speeds in (("ratio", "images_per_second"), ("cpu_ratio", "images_per_cpu_second")):
        assert case[ratio] == pytest.approx(case[speeds]["diffharmony"] / case[speeds]["authors' pattern"]) and case[ratio] > 0
    shown = table([{"pictures": "640 x 480", "size": 64, **case}]).splitlines()
    assert "images per CPU second ×" in shown[0] and f"{case['cpu_ratio']:.2f}" in shown[-1]


def test_benchmark_is_in_ratios():
    (case,) = decode.run(decode.DecodeBenchmark(sizes=(64,), tile=32, repeats=1))
    reference = case["variants"][decode.REFERENCE]
    assert reference["time_ratio"] == 1.0 and len(case["variants"]) == 3
    assert "decode_tiled, tile 32" in decode.table([case])
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        decode.run(decode.DecodeBenchmark(repeats=0))
