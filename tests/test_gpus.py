"""GPUs that no backend uses: what is installed, what is chosen, and the line that says what to install."""

import os
import shutil
import sys
import types

import pytest
from running import ROOT, run_script

from common import gpus
from common.checking.packages import read_requirements
from common.errors import InputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is an executable script")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Function that sets what is installed: packages, and the CUDA of PyTorch ("None" without)."""

    def use(*packages, cuda="None"):
        (tmp_path / "version.py").write_text(f"__version__ = '2.14.1'\ncuda: Optional[str] = {cuda}\nhip = None\n")
        spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr(gpus, "find_spec", lambda name: spec if name in packages else None)
        monkeypatch.setattr(gpus, "is_installed", lambda name: name in packages)
        extra = ["numpy>=2", "nvidia-cudnn-cu12<10; extra == 'and-cuda'", 'nvidia-cublas-cu12; extra == "and-cuda"']
        monkeypatch.setattr(gpus, "requires", lambda name: extra)
        monkeypatch.delenv("KERAS_BACKEND", raising=False)

    return use


def test_gpus_of_the_driver(driver):
    driver("NVIDIA H200, 143771, 143000", "NVIDIA A100, 80 GB, [N/A], 500")
    first, second = gpus.find_gpus()
    assert first.name == "NVIDIA H200" and 150 < first.memory < 151 and second.name == "NVIDIA A100, 80 GB"
    assert second.memory == 0


TENSORFLOW_GPU = ("tensorflow", "nvidia-cudnn-cu12", "nvidia-cublas-cu12")


@pytest.mark.parametrize(
    ("packages", "cuda", "chosen"),
    [
        (("tensorflow",), "None", "tensorflow"),
        (("tensorflow", "torch"), "'13.0'", "torch"),
        (("tensorflow", "torch"), "None", "tensorflow"),
        (("tensorflow", "jax", "jax-cuda12-plugin"), "None", "jax"),
        (("tensorflow", "jax", "torch"), "'12.6'", "torch"),
        ((*TENSORFLOW_GPU, "torch"), "'13.0'", "tensorflow"),
        (("tensorflow", "nvidia-cudnn-cu12", "torch"), "'12.6'", "torch"),  # not all that TensorFlow needs
        (("jax",), "None", "jax"),
        ((), "None", "tensorflow"),  # whose import then says what is missing
    ],
)
def test_the_installed_backend_that_can_use_the_gpu_is_chosen(driver, installed, packages, cuda, chosen):
    driver("NVIDIA T4, 16000, 15000")
    installed(*packages, cuda=cuda)
    assert gpus.choose_backend() == chosen


def test_without_a_gpu_the_first_backend_is_chosen(driver, installed, monkeypatch):
    installed("tensorflow", "torch", cuda="'13.0'")
    assert gpus.choose_backend() == "tensorflow"
    driver("NVIDIA T4, 16000, 15000")
    assert gpus.choose_backend() == "torch"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus.choose_backend() == "tensorflow"


def test_the_users_backend_wins(driver, installed, monkeypatch):
    driver("NVIDIA T4, 16000, 15000")
    installed("tensorflow", "torch", cuda="'13.0'")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert gpus.choose_backend() == "tensorflow"
    line = gpus.unused_gpu("tensorflow", "tensorflow on cpu:0")
    assert "set KERAS_BACKEND=torch, which can use it" in line
    for wanted, words in (("jax", "jax is not installed (found tensorflow, torch)"), ("pytorch", "unknown backend")):
        monkeypatch.setenv("KERAS_BACKEND", wanted)
        with pytest.raises(InputError, match="KERAS_BACKEND: ") as refused:
            gpus.choose_backend()
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("system", "machine", "command"),
    [
        ("linux", "x86_64", "pip install -r requirements-gpu.txt"),
        ("win32", "AMD64", "pip install -r requirements-windows-gpu.txt"),
        ("darwin", "arm64", "pip install -r requirements-gpu.txt"),
    ],
)
def test_the_line_names_the_gpu_and_the_command(driver, installed, monkeypatch, system, machine, command):
    driver("NVIDIA T4, 16000, 15000", "NVIDIA T4, 16000, 15000")
    installed("tensorflow")
    if system != "darwin":
        gpus.names_to_use()  # asks the stand-in, which Windows would not find
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(gpus.platform, "machine", lambda: machine)
    line = gpus.unused_before_import()
    assert line.startswith("GPU: tensorflow does not use it (found ") and "and tensorflow on cpu:0); run: " in line
    assert f"run: {command}" in line and (ROOT / command.split()[-1]).is_file()
    assert ("2 of NVIDIA T4" in line) == (system != "darwin") == ("set CUDA_VISIBLE_DEVICES=-1" in line)
    installed("tensorflow", "torch", cuda="'13.0'")
    assert gpus.choose_backend() == "torch" and not gpus.unused_before_import()


def test_a_backend_that_should_see_the_gpu_and_does_not(driver, installed):
    driver("NVIDIA T4, 16000, 15000")
    installed("torch", cuda="'13.0'")
    line = gpus.unused_gpu("torch", "torch on cpu:0")
    assert 'see "If the GPU is not used" in docs/install.md' in line
    assert "\n## If the GPU is not used\n" in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def test_a_driver_that_does_not_work_is_one_line(driver, installed):
    driver("NVIDIA-SMI has failed because it could not communicate.", status=9)
    installed("tensorflow", "torch", cuda="'13.0'")
    assert gpus.choose_backend() == "tensorflow"
    assert "does not work (found NVIDIA-SMI has failed" in gpus.unused_gpu("tensorflow", "tensorflow on cpu:0")


def test_what_tensorflow_needs_is_read_from_its_own_metadata():
    added = [line for line in gpus.requires("tensorflow") if "and-cuda" in line]
    assert len(added) > 5 and any("cudnn" in line for line in added)


def test_a_script_says_so_in_one_line(driver, packed, tmp_path):
    """By 4_plan_training.py, the quickest script that imports Keras."""
    driver("NVIDIA T4, 16000, 15000")
    shutil.copytree(packed["packed"], tmp_path / "packed")
    result = run_script("preprocess/4_plan_training.py", PACKED=tmp_path / "packed")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("GPU: ")]
    assert "does not use it (found NVIDIA T4, and " in line and "nvidia-smi" not in result.stderr


@pytest.mark.parametrize("name", ["requirements-gpu.txt", "requirements-windows-gpu.txt"])
def test_gpu_requirements_add_to_the_usual_ones(name):
    """With the versions that fit them."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert "-r requirements.txt" in lines
    usual = read_requirements()
    for package, versions in read_requirements(ROOT / name).items():
        assert package == "torch" or versions == f"[and-cuda]{usual[package]}"
    assert is_built_for_cuda(lines) or 'sys_platform == "darwin"' in lines[-1]


def is_built_for_cuda(lines):
    """Whether PyTorch comes from the index with CUDA: without its label, pip could take the one for CPUs."""
    index = next((line.rsplit("/", 1)[-1] for line in lines if line.startswith("--extra-index-url")), "none")
    return f"+{index}" in lines[-1]
