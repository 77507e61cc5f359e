"""The fused solver: its numbers in Triton's interpreter, its code for GPUs that are not here, and the choice between it and tensors."""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from faal_lab.dro import AMBIGUITY_SETS, KLBall, fused
from faal_lab.models import doctor

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton: pip install -e .[gpu-tests]")
CUDA = torch.device("cuda", 0)


@needs_triton
@pytest.mark.parametrize(
    "chosen",
    ["radii and not 1024 or takes or bad", pytest.param("not (radii and not 1024 or takes or bad)", marks=pytest.mark.slow)],
)
def test_the_interpreter_gives_the_numbers_of_the_exact_solvers(chosen: str) -> None:
    """In a process of its own: Triton reads the variable as it is imported."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "tests/dro/in_interpreter.py",
        "-k",
        chosen,
    ]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout


@needs_triton
@pytest.mark.parametrize("kind", ["kl", *(pytest.param(k, marks=pytest.mark.slow) for k in fused.KINDS if k != "kl")])
def test_it_compiles_to_machine_code_without_a_gpu(kind: str, tmp_path: Path) -> None:
    code = f"""
import json
from fused import CAPABILITIES, STEPS, kernel
for capability in CAPABILITIES:
    cases = [(16, dict()), (1024, dict())] + [(2, dict(bare=True, scores="*fp32", ones=(*STEPS, "classes", "rows", "radius_row")))] * (capability == 90)
    for block, more in cases:
        entry, ptx = kernel({kind!r}, block, capability, **more)
        print(json.dumps([entry, "sm_%d" % capability in ptx, ptx.count("div.rn.f64"), ptx.count("div.full.f32") + ptx.count("add.f32")]))
"""
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    env.pop("TRITON_INTERPRET", None)
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    made = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(made) == 5
    for entry, aimed, double, single in made:
        assert aimed
        assert double > 0
        assert single == 0, "no arithmetic in float32"
        assert 16 <= entry["registers"] <= 255
        assert entry["stack, bytes a thread"] <= 256, "a few spills at most"
        assert entry["shared, bytes"] <= 48 * 1024


def test_the_benchmark_states_every_kernel() -> None:
    kernels = json.loads((ROOT / "benchmarks" / "fused.json").read_text())["kernels"]
    assert {k["set"] for k in kernels} == set(fused.KINDS)
    assert {(k["classes"], k["capability"]) for k in kernels} == {(c, p) for c in (16, 128, 1024) for p in (80, 90)}
    page = " ".join((ROOT / "docs" / "gpu.md").read_text().split())
    small, large = ([k for k in kernels if k["classes"] == c] for c in (16, 1024))
    assert f"{min(k['registers'] for k in small)} to {max(k['registers'] for k in small)} registers up to 16 classes" in page
    assert f"{min(k['registers'] for k in large)} to {max(k['registers'] for k in large)} at 1,024" in page
    assert max(k["stack, bytes a thread"] for k in small) == 0
    assert f"with a stack for spills of at most {max(k['stack, bytes a thread'] for k in kernels)} bytes a thread" in page


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device of capability 9.0, with everything that the kernel needs; nothing is launched on it."""
    monkeypatch.delenv("FAAL_LAB_FUSED", raising=False)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(fused, "_unfit", fused._unfit.__wrapped__)  # no memory of other devices
    monkeypatch.setattr(fused, "_failed", {})
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(fused.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")


def test_reasons_for_tensors(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fused.refusal(CUDA, 1024) == ""
    assert fused.refusal(torch.device("cpu")) == fused.refusal(torch.device("mps")) == "the kernel is for CUDA"
    assert fused.refusal(CUDA, 1025) == "1025 classes are more than the kernel's 1024"
    with monkeypatch.context() as patch:
        patch.setenv("FAAL_LAB_FUSED", "0")
        assert fused.refusal(CUDA) == "FAAL_LAB_FUSED=0"
    for name, value, reason in (
        ("_failed", {"cuda:0": "the kernel's launch failed with OSError: x"}, "the kernel's launch failed with OSError: x"),
        ("util.find_spec", lambda name: None, "triton is missing: pip install triton"),
        ("torch.version.hip", "6.0", "the kernel was compiled for CUDA alone, not for ROCm"),
        ("torch.cuda.get_device_capability", lambda device: (6, 1), "compute capability 6.1 is older than 7.0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"faal_lab.dro.fused.{name}", value)
            assert fused.refusal(CUDA) == reason
    monkeypatch.delenv("CC")
    monkeypatch.setattr(fused.shutil, "which", lambda name: None)
    assert fused.refusal(CUDA) == "triton needs a C compiler: install gcc or clang, or name one in CC"


def test_doctor_states_which_solver_runs(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_trial", lambda device: 2e-16)
    assert doctor._solvers() == (
        [
            "cpu: tensors, and plain floats for one small KL problem",
            "cuda:0 (a card): one fused Triton kernel, tried: its weights are within 2e-16 of the CPU's",
        ],
        [],
    )
    monkeypatch.setattr(doctor, "_trial", lambda device: 0.1)
    (_, line), faults = doctor._solvers()
    assert "WRONG: weights of the fused kernel are off by 1e-01; set FAAL_LAB_FUSED=0" in line
    assert faults == ["a sound fused solver on cuda:0"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert doctor._solvers()[0][1] == "cuda:0 (a card): tensors, because compute capability 6.1 is older than 7.0"
    monkeypatch.setattr("faal_lab.models.layout.examine", lambda: ("right", True))
    assert "solver         cuda:0 (a card): tensors, because" in doctor.examine()[0]


@pytest.mark.parametrize("shift, off", [(0.0, 0.0), (1e-3, 1e-3), (float("nan"), float("inf"))])
def test_doctor_tries_the_kernel_of_every_set(shift: float, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    sets = {ball.kernel: ball for make in AMBIGUITY_SETS.values() if getattr(ball := make(), "kernel", "")}

    def solve(kind: str, scores: torch.Tensor, *rest: object) -> tuple[torch.Tensor, ...]:
        tried.append(kind)
        return (sets[kind].worst_case(scores).weights + shift,)

    monkeypatch.setattr(fused, "solve", solve)
    assert doctor._trial(torch.device("cpu")) == pytest.approx(off, abs=1e-12)
    assert sorted(tried) == sorted(fused.KINDS)


@pytest.mark.parametrize("shift, kept", [(0.0, True), (1e-6, False), (float("nan"), False)])
def test_the_first_answer_is_held_to_the_tensors(shift: float, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ball, scores = KLBall(0.3), torch.sin(torch.arange(12.0)).view(3, 4)
    sound, asked = ball.worst_case(scores), []

    def solve(kind: str, *rest: object) -> tuple[torch.Tensor, ...]:
        asked.append(kind)
        return sound.weights + shift, sound.value, sound.divergence, sound.dual

    for name, value in (
        ("solve", solve),
        ("_failed", {}),
        ("proven", set()),
        ("refusal", lambda device, classes: fused._failed.get("cpu", "")),
    ):
        monkeypatch.setattr(fused, name, value)
    with nullcontext() if kept else pytest.warns(RuntimeWarning, match="its weights for KLBall were wrong"):
        found = ball._fused(scores, 0.3, None, None, None)
    assert found is not None
    torch.testing.assert_close(found.weights, sound.weights)
    assert fused.proven == ({("kl", "cpu")} if kept else set())
    assert (ball._fused(scores, 0.3, None, None, None) is not None) == kept, "tensors solve from then on"
    assert asked == ["kl"] * (2 if kept else 1)


def test_a_subclass_solves_by_its_own_form() -> None:
    class Mine(KLBall):
        def _solve(self, posed: object) -> object:
            raise AssertionError

    assert Mine()._fused(torch.zeros(2, 3), 0.5, None, None, None) is None


def test_no_rows_need_no_kernel() -> None:
    assert fused.solve("kl", torch.zeros(0, 3), 0.5, None, None) is None


@pytest.mark.gpu
@pytest.mark.skipif(bool(fused.refusal(CUDA)) if torch.cuda.is_available() else True, reason="needs a GPU that the kernel fits")
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("kind", fused.KINDS)
def test_a_gpu_runs_the_kernel(kind: str, classes: int) -> None:
    (ball,) = (ball for make in AMBIGUITY_SETS.values() if getattr(ball := make(), "kernel", "") == kind)
    scores = torch.randn(64, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    found, exact = fused.solve(kind, scores.cuda(), ball.radius, None, None), ball.worst_case(scores)
    assert found is not None
    for one, other in zip(found[:3], exact[:3], strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-9, rtol=1e-9)
