"""Work shared by processes: the bytes of one run, also if a worker is killed, and clear messages."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from drawings import as_volume, block, make_cases, nodule_scan, nodule_table, write, write_decathlon
from running import ROOT, assert_refused, bytes_of, kill_a_worker, leftovers, run_script

from common import workers
from common.command_line import flags_of
from common.errors import InputError, SettingError
from common.workers import run_batch, start_workers

FEW = {"FILTERS": ["O", "A"], "SHAPES": ["", "RTP", "HT", "DKP"]}
SHARING = (
    "preprocess/1_augment_cases.py",
    "preprocess/0_import_images.py",
    "preprocess/0_import_volumes.py",
    "preprocess/0_import_nodules.py",
    "preprocess/3_pack_hdf5.py",
    "preprocess/3_pack_volumes.py",
    "predict.py",
    "evaluate.py",
)
NO_DASK = "needs Dask; install tests/requirements.txt"


def test_a_killed_worker_costs_nothing(tmp_path):
    """In step 1: the files are those of one run, none is missing, and no incomplete one is left."""
    pytest.importorskip("distributed", reason=NO_DASK)
    alone, shared = (make_cases(tmp_path / name, cases=3, slices=16, size=128) for name in ("alone", "shared"))
    run_script("preprocess/1_augment_cases.py", CASES=alone, **FEW)
    command = [sys.executable, str(ROOT / "preprocess/1_augment_cases.py"), *flags_of({**FEW, "CASES": shared})]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script = subprocess.Popen([*command, "--workers", "2"], **pipes)
    kill_a_worker(script, lambda: sum(1 for _ in shared.glob(".part-*/new/*/x_A_RTP/*.png")) > 10)
    out, err = script.communicate(timeout=200)
    assert script.returncode == 0 and not err, (out, err)
    assert re.search(r"^workers: 2 at tcp://127\.0\.0\.1:\d+, dashboard http://127\.0\.0\.1:\d+/status$", out, re.M)
    assert bytes_of(shared) == bytes_of(alone) and not leftovers(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("script", SHARING[1:])
def test_a_worker_killed_in_the_middle_changes_nothing(script, tmp_path, request):
    pytest.importorskip("distributed", reason=NO_DASK)
    cases = make_cases(tmp_path / "cases", cases=4, slices=100, size=64)
    settings, output, begun = settings_of(script, tmp_path, cases, request)
    run_script(script, **settings, **{output: tmp_path / "alone" / "out"})
    shared = {output: tmp_path / "shared" / "out", "WORKERS": 2}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, str(ROOT / script), *flags_of(settings | shared)], **pipes)
    kill_a_worker(process, lambda: begun(tmp_path / "shared", process))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and not err, (out, err)
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone") and not leftovers(tmp_path)


def settings_of(script, folder, cases, request):
    """Settings of a script for cases, the name of its output, and a function that tells whether it works by now."""
    if script == "predict.py":
        run, _ = request.getfixturevalue("trained")
        return {"RUN": run, "INPUT": cases}, "OUTPUT", lambda f, _: sum(1 for _ in f.rglob("00*.png")) > 10
    if script == "evaluate.py":  # writes nothing before its end
        return {"PREDICTED": cases, "TRUTH": cases}, "OUTPUT", lambda _, process: "scoring" in process.stdout.readline()
    if script == "preprocess/0_import_images.py":
        settings = {"IMAGES": cases, "MASKS": cases, "SIZE": 256}
        return settings, "CASES", lambda f, _: any(f.glob("out/.part-*/new/*/x/0005.png"))
    if script == "preprocess/0_import_volumes.py":
        for number in range(6):
            write(folder / "volumes", f"{number}.nrrd", as_volume(block((100, 64, 64), seed=number)[0]))
        settings = {"IMAGES": folder / "volumes", "SIZE": 256, "FIT": "resize", "BITS": 16}
        return settings, "CASES", lambda f, _: any(f.glob("out/.part-*/new/*/x/0005.png"))
    if script == "preprocess/0_import_nodules.py":
        (folder / "scans").mkdir()
        image, nodules = nodule_scan(np.eye(3))
        for number in range(8):
            write(folder / "scans", f"{number}.nrrd", image)
        rows = [(str(number), *nodule) for number in range(8) for nodule in nodules]
        settings = {"SCANS": folder / "scans", "ANNOTATIONS": nodule_table(folder / "t.csv", rows), "SLICES": "all"}
        return settings, "CASES", lambda f, _: any(f.glob("out/.part-*/new/*/x/0005.png"))
    if script == "preprocess/3_pack_volumes.py":
        return {"DATA": write_decathlon(folder / "data", cases=40)}, "PACKED", is_packing
    run_script("preprocess/2_write_lists.py", CASES=cases, LISTS=folder / "lists")
    return {"LISTS": folder / "lists"}, "PACKED", is_packing


def is_packing(shared, _):
    return any(file.stat().st_size > 10**5 for file in shared.rglob("*.h5*"))


# --- two machines: network namespaces of this one, which share its disk


def on_machine(name, *command):
    return ["ip", "netns", "exec", name, *map(str, command)]


@pytest.fixture
def two_machines():
    """Names of two network namespaces, and the address of the first; needs root on Linux."""
    names = [f"machine{number}-{os.getpid()}" for number in (1, 2)]
    links = [f"link{number}-{os.getpid() % 10**6}" for number in (1, 2)]
    made = [["ip", "netns", "add", name] for name in names]
    made.append(["ip", "link", "add", links[0], "type", "veth", "peer", "name", links[1]])
    for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
        made.append(["ip", "link", "set", link, "netns", name])
        made.append(on_machine(name, "ip", "address", "add", f"10.213.7.{number}/24", "dev", link))
        made += [on_machine(name, "ip", "link", "set", device, "up") for device in ("lo", link)]
    try:
        for command in made:
            if not shutil.which("ip") or subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("cannot make network namespaces here (needs root on Linux)")
        yield *names, "10.213.7.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.fixture
def four_workers(two_machines, tmp_path):
    """First machine, and the address of its scheduler with two workers on each machine, as docs/scaling.md says."""
    pytest.importorskip("distributed", reason=NO_DASK)
    first, second, host = two_machines
    address, dask, started = f"tcp://{host}:8786", [sys.executable, "-m", "dask"], []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    of_worker = "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory"
    commands = [on_machine(first, *dask, "scheduler", "--host", host, "--port", "8786", "--no-dashboard")]
    for name in (first, second):
        commands.append(on_machine(name, *dask, "worker", address, *of_worker, tmp_path / name))
    try:
        for command in commands:
            started.append(subprocess.Popen(command, **quiet))
        yield first, address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


@pytest.mark.slow
def test_four_workers_on_two_machines_do_what_one_run_does(four_workers, folded, request, tmp_path):
    first, address = four_workers
    cases = make_cases(tmp_path / "cases", cases=3, slices=12, size=48)
    steps = [(script, *settings_of(script, tmp_path, cases, request)[:2]) for script in SHARING[1:]]
    made = {}
    for name in ("alone", "shared"):
        base = tmp_path / name
        runs = [(script, settings | {output: base / Path(script).stem}) for script, settings, output in steps]
        runs.append((SHARING[0], FEW | {"CASES": make_cases(base / "cases", cases=3, slices=12, size=48)}))
        folds = shutil.copytree(folded[1], base / "folds")
        runs.append(("choose.py", {"CROSS_VALIDATIONS": folds, "CLEANINGS": [{"share": 1}]}))
        for script, settings in runs:
            if name == "alone":
                run_script(script, **settings)
                continue
            command = on_machine(first, sys.executable, ROOT / script, *flags_of(settings | {"WORKERS": address}))
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            assert result.returncode == 0, result.stderr
            assert f"workers: 4 at {address}" in result.stdout
        made[name] = {path: written.replace(os.fsencode(base), b"") for path, written in bytes_of(base).items()}
    assert set(made["alone"]) == set(made["shared"]) and "folds/choice.json" in made["alone"]
    assert not [path for path, written in made["alone"].items() if written != made["shared"][path]]


# --- messages


def test_dask_is_named_if_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"WORKERS: Dask is not installed \(found 2\); run: pip install"),
        start_workers(2),
    ):
        pass
    assert workers.INSTALL.split('"')[1] in (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "host:8786", "tcp://host", "tcp://host:99999"])
def test_wrong_workers(value, tmp_path):
    make_cases(tmp_path, cases=1, slices=1)
    assert_refused("preprocess/1_augment_cases.py", "WORKERS", status=2, CASES=tmp_path, WORKERS=value)


def test_more_processes_than_a_machine_can_start():
    message = r"WORKERS: too many processes for this machine \(found 1000 for "
    with pytest.raises(SettingError, match=message), start_workers(1000):
        pass


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "ucx://127.0.0.1:9"])
def test_a_scheduler_that_is_not_there(place, monkeypatch):
    pytest.importorskip("distributed", reason=NO_DASK)
    monkeypatch.setattr(workers, "SECONDS_TO_JOIN", 1)
    with pytest.raises(InputError, match=f"WORKERS: no Dask scheduler at {place} "), start_workers(place):
        pass


def test_a_web_server_is_no_scheduler(monkeypatch):
    """Dask takes the start of its answer for a length, and runs out of memory."""
    pytest.importorskip("distributed", reason=NO_DASK)
    monkeypatch.setattr(workers, "SECONDS_TO_JOIN", 5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + bytes(99))

        threading.Thread(target=answer, daemon=True).start()
        place = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"WORKERS: no Dask scheduler at {place} "), start_workers(place):
            pass


def double(number):
    if number == 3:
        raise InputError("three: not a number to double (found 3); use another")
    print("doubling", number)
    return 2 * number


def refuse(number):
    raise SettingError("NUMBER: wrong")


def test_a_task_reports_what_cannot_be_done_and_does_the_rest():
    here = {"folder": os.getcwd(), "digest": workers.digest_of_code()}
    found = run_batch(double, [1, 3, 4], **here)
    assert [result for result, *_ in found] == [2, None, 8] and "three" in str(found[1][1])
    assert [printed for *_, printed in found] == ["doubling 1\n", "", "doubling 4\n"]
    with pytest.raises(InputError, match=r"does not see /nowhere.*use a folder that all machines share"):
        run_batch(double, [1], "/nowhere", here["digest"])
    with pytest.raises(InputError, match="another version of the toolkit"):
        run_batch(double, [1], here["folder"], "0")


class Now:
    """A client of a scheduler that does each task at once."""

    def __init__(self):
        self.most, self.waiting = 0, 0

    def nthreads(self):
        return {"a": 1}

    def submit(self, task, items, pure):
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return partial(self.done, task(items))

    def done(self, result):
        self.waiting -= 1
        return result

    def cancel(self, futures, force):
        assert len(futures) == self.waiting
        self.waiting = 0


def test_results_have_the_order_of_the_items_and_memory_is_bounded(monkeypatch, capsys):
    monkeypatch.setattr(workers, "_result", lambda future: future())
    client = Now()
    processes, problems = workers.Processes(client), []
    doubled = list(workers.Threads().map_large(double, range(50), []))
    printed = capsys.readouterr().out
    assert (
        list(processes.map(double, range(50), problems))
        == doubled
        == list(workers.Threads().map(double, range(50), []))
    )
    assert printed.startswith("doubling 0\n") and capsys.readouterr().out.startswith(printed)
    assert list(processes.map_large(double, range(50), [])) == doubled and capsys.readouterr().out == printed
    assert problems == ["three: not a number to double (found 3); use another"] and client.most == 4
    with pytest.raises(InputError, match="three"):
        list(processes.map(double, range(50)))
    with pytest.raises(SettingError, match="NUMBER"):
        list(processes.map(refuse, range(50), problems))


def test_digest_of_the_code_changes_with_it(tmp_path, monkeypatch):
    before = workers.digest_of_code()
    monkeypatch.setattr(workers, "ROOT", tmp_path)
    Path(tmp_path, "common").mkdir()
    workers.digest_of_code.cache_clear()
    assert workers.digest_of_code() != before
    workers.digest_of_code.cache_clear()
