"""Processes that scripts start: what they import, and that they end with them."""

import os
import signal
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout
from running import ROOT

from common.child import run_in_background


def test_files_in_the_users_folder_shadow_no_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("common", "filelock", "runpy", "statistics"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')")
    script = tmp_path / "script.py"
    script.write_text(
        "import statistics, sys, common.files\nprint(statistics.mean([1, 3]), common.__file__, sys.argv[1])"
    )
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "output.txt").symlink_to(tmp_path / "thesis.txt")  # of a stranger's study
    with run_in_background(script, ["argument"], tmp_path / "lock", tmp_path / "output.txt") as process:
        assert process.wait() == 0, (tmp_path / "output.txt").read_text()
    assert (tmp_path / "output.txt").read_text().split() == ["2", str(ROOT / "common" / "__init__.py"), "argument"]
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_script_holds_its_lock_until_it_ends_and_ends_with_its_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.1)")
    parent = tmp_path / "parent.py"
    parent.write_text(f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from common.child import run_in_background
with run_in_background("script.py", [], "lock", "output.txt"):
    while b"started" not in open("output.txt", "rb").read():
        time.sleep(0.05)
    try:
        from filelock import FileLock, Timeout
        FileLock("lock", timeout=0).acquire()
    except Timeout:
        print("held", flush=True)
    os.kill(os.getpid(), 9)
""")
    killed = subprocess.run([sys.executable, parent], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert killed.returncode == -9 and killed.stdout == "held\n", killed.stderr
    try:
        FileLock(tmp_path / "lock", timeout=20).acquire()
    except Timeout:
        pytest.fail("the script goes on without its parent")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_step_ends_in_order_with_the_script_that_called_it(tmp_path, number):
    """Half a second is more than `subprocess.run` leaves a process after Ctrl-C."""
    (tmp_path / "step.py").write_text("""
import time
try:
    print("started", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("saved", flush=True)
    raise
""")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from common.jobs import call; call(sys.argv[1])"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "step.py")], **pipes) as script:
        assert script.stdout.readline() == "started\n"
        script.send_signal(number)
        assert script.stdout.read() == "saved\n"  # until both have ended
    assert script.returncode == -number
