"""What benchmarks share: the CPU time of a process and its workers."""

import multiprocessing
import time

import pytest
import torch

from diffharmony.applications.benchmarks import decode, page, precision, seams
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


def test_the_decode_is_measured_in_ratios_and_becomes_a_page(tmp_path):
    (case,) = decode.run(decode.DecodeBenchmark(sizes=(64,), tile=32, latents=2, repeats=1))
    variants = case["variants"]
    assert variants[decode.REFERENCE]["time_ratio"] == 1.0 and len(variants) == 8
    assert variants["exact tiles"]["time_ratio"] == pytest.approx(variants["exact tiles"]["seconds"] / variants[decode.CONDITIONAL]["seconds"])
    assert case["feature_bytes"] == 64 * 64 * 4 * (2 * 32 + 2 * 32 / 4 + 2 * 64 / 16 + 3 * 64 / 64)
    assert "2 latents, one condition" in decode.table([case])
    quality = {"model": "tiny", "size": 64, "tile": 32, "ways": {"exact": {"mean": 0.0, "max": 0.0, "seams": None, "shift": 0.0}}}
    results = {"decode": [case, {**case, "model": "sd"}], "seams": [quality], "precision": [{"model": "tiny", "size": 64, "psnr": {"float16": 60.0, "bfloat16": None}}]}
    machine = {"device": "cpu", "threads": 1, "torch": "2", "processor": "x"}
    page.write_page({**results, "machine": machine, "minutes": 1.0}, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "| tiny 64 px | exact tiles |" in text and "| bounded tiles, 4096 over 2048 px, memory | 1.10 | - |" in text
    assert (tmp_path / "benchmarks.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        decode.run(decode.DecodeBenchmark(repeats=0))


def test_seams_and_shifts_are_seen_where_there_are_some():
    whole = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.01
    shifted = whole.clone()
    shifted[..., :32] += 0.1
    found = seams.figures(shifted, whole, 32)
    assert found["mean"] == pytest.approx(6.375, rel=1e-3) and found["shift"] == pytest.approx(12.75, rel=1e-3)
    assert found["seams"] is None or found["seams"] > 100
    assert seams.figures(whole, whole, 32) == {"mean": 0.0, "max": 0.0, "seams": None, "shift": 0.0}


@torch.no_grad()
def test_tiles_that_overlap_are_the_whole_where_one_tile_is():
    vae = decode.made_up("tiny")[1]
    image, mask = seams.photograph(64, "cpu")
    z = vae.encode(image).latent_dist.mode()
    whole = vae.decode(z, vae.encode_condition(image, mask)).sample
    torch.testing.assert_close(seams.blended(vae, z, image, mask, 64), whole, atol=1e-5, rtol=0)
    assert (seams.blended(vae, z, image, mask, 32) - whole).abs().mean() > 1e-3


def test_half_precision_is_measured_in_decibels():
    (case,) = precision.run(precision.PrecisionBenchmark(size=64))
    assert case["psnr"]["float16"] > case["psnr"]["bfloat16"] > 20
    assert f"{case['psnr']['float16']:.1f}" in precision.table([case])
