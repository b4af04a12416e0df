"""Every script with --replace on results of its own: killed or stopped anywhere, two at once, a full disk.

The old results or the new ones are complete each time, and the next run makes the new ones. `--faults 1` tries every
moment, not a sample.
"""

import os
import random
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import kinds
from faults.forking import snapshot
from faults.judging import grammar
from faults.moments import disk_is_full, free_sizes, sample, wait_for_stop

SAMPLE = 6  # moments of a story, in the suite


class Story(NamedTuple):
    """A script that replaces results.

    Attributes:
        good: function of `faults.kinds`.
        script: the script.
        flags: of both runs, without --replace; "@" is the folder, and "@/disk/out" the output.
        first, second: further flags of the run that makes the old results, and of the one that replaces them.
        kept: folders of the results; more than disk/ if the script changes its input.
        keras: whether the script needs Keras; such a story is slow.
    """

    good: object
    script: str
    flags: str
    first: str
    second: str
    kept: tuple = ("disk",)
    keras: bool = False


STORIES = {
    "lists": Story(kinds.cases, "preprocess/2_write_lists.py", kinds.LISTS, "--seed 1", "--seed 2 --folds 2"),
    "lists with copies": Story(
        kinds.cases,
        "preprocess/2_write_lists.py",
        kinds.LISTS + " --copy-to @/out-other/copies",
        "--seed 1",
        "--seed 2",
    ),
    "packed": Story(
        kinds.cases,
        "preprocess/3_pack_hdf5.py",
        "--lists @/lists --packed @/out",
        "--seed 1",
        "--seed 2 --compression gzip",
    ),
    "images": Story(
        kinds.imported, kinds.IMPORT, "--images @/images --masks @/masks --cases @/out", "--size 24", "--size 16"
    ),
    "matrices": Story(
        kinds.matrices,
        "preprocess/0_import_matrices.py",
        "--images @/x --masks @/y --cases @/out",
        "--size 16",
        "--size 24",
    ),
    "volumes": Story(
        kinds.volumes, kinds.VOLUMES, "--images @/nii/x --labels @/nii/y --cases @/out", "--size 16", "--size 24"
    ),
    "nodules": Story(
        kinds.volumes,
        "preprocess/0_import_nodules.py",
        "--scans @/mha/x --annotations @/nodules.csv --cases @/out",
        "--size 16",
        "--size 24",
    ),
    "candidates": Story(
        kinds.volumes,
        "preprocess/0_import_candidates.py",
        "--scans @/mha/x --candidates @/nodules.csv --annotations @/nodules.csv --cases @/out",
        "--size 16",
        "--size 24",
    ),
    "surface": Story(
        kinds.surface, "preprocess/0_import_stl.py", "--surface @/s.stl --output @/out", "--size 16", "--size 24"
    ),
    "label volume": Story(
        kinds.surface,
        "preprocess/0_import_stl.py",
        "--volume @/v.nii.gz --output @/out.nii.gz",
        "--surface @/s.stl",
        "--surface @/small.stl",
    ),
    "shards": Story(
        kinds.cases,
        "preprocess/3_pack_hdf5.py",
        "--lists @/lists --packed @/out --shard-gb 1e-6",
        "",
        "--compression gzip",
    ),
    "packed volumes": Story(
        kinds.volumes,
        "preprocess/3_pack_volumes.py",
        "--data @/task --packed @/out --smallest-box 12",
        "--seed 1",
        "--seed 3",
    ),
    "comparison": Story(kinds.run, "compare_runs.py", "--output @/out/index.html", "--runs @/cv", "--runs @/"),
    "scores": Story(kinds.evaluated, "evaluate.py", kinds.EVALUATE, "--tolerance 1", "--tolerance 2"),
    "annotations": Story(
        kinds.annotated,
        kinds.ANNOTATE,
        "--images @/images --annotations @/labelme.json --cases @/out",
        "--size 16",
        "--size 24",
    ),
    "data set": Story(
        kinds.cases, "export_dataset.py", "--lists @/lists --output @/out/Dataset001_Discs", "", "--channel T2"
    ),
    "check": Story(kinds.cases, "check.py", "--output @/out/check.html --step False", "", "--cases @/cases"),
    "submission": Story(
        kinds.volumes,
        "submission.py",
        "--kind nodules --predicted @/nrrd/y --output @/out/s.csv",
        "",
        "--probability 0.5",
    ),
    "sample": Story(
        kinds.surface, "data/make_sample.py", "--cases @/out --count 1 --slices 6 --size 64", "--seed 1", "--seed 2"
    ),
    "drawn volumes": Story(
        kinds.surface, "data/make_volumes.py", "--data @/out --train 1 --test 0 --contrasts 1", "--seed 1", "--seed 2"
    ),
    "augmented": Story(
        kinds.imported,
        "preprocess/1_augment_cases.py",
        "--cases @/cases --part-margin 2",
        "--filters ['D'] --shapes ['','RTP']",
        "--filters ['C'] --shapes ['']",
        ("cases",),
    ),
    "predictions": Story(kinds.run, "predict.py", kinds.PREDICT, "", "--threshold 0.3", keras=True),
    "uncertain predictions": Story(
        kinds.run,
        "predict.py",
        kinds.PREDICT + " --probabilities True --viewer-files ['qupath']",
        "",
        "--uncertainty True",
        keras=True,
    ),
    "label volumes": Story(
        kinds.scanned,
        "predict.py",
        "--run @/run --input @/scans --output @/out",
        "--threshold 0.5",
        "--threshold 0.2 --uncertainty True --label-volumes .nrrd",
        keras=True,
    ),
    "pseudo-labels": Story(
        kinds.run,
        "pseudo_label.py",
        "--run @/run --input @/images --cases @/out --smallest 1",
        "--confidence 0.5",
        "--confidence 0.51",
        keras=True,
    ),
    "choice": Story(
        kinds.run,
        "choose.py",
        "--cross-validations @/cv",
        "--cleanings [{}]",
        "--cleanings [{'share':0.3}]",
        ("cv",),
        keras=True,
    ),
    "mlmodel": Story(
        kinds.run,
        "convert_coreml.py",
        "--run @/run --output @/out/m.mlmodel --checked 1",
        "",
        "--author me",
        keras=True,
    ),
    "exported": Story(
        kinds.run,
        "export.py",
        "--run @/run --output @/out/m --formats ['saved_model'] --checked 1",
        "",
        "--class-names ['disc']",
        keras=True,
    ),
    "mlpackage": Story(
        kinds.run,
        "convert_coreml.py",
        "--run @/run --output @/out/m.mlpackage --format mlpackage --checked 1",
        "",
        "--author me",
        keras=True,
    ),
}
NO_REPLACE = {"augmented", "comparison", "choice"}
ADDS = {"shards"}  # complete shards of the new sets stay for the next run


class Stage:
    """The folder of a story, with the old results in it, and what they and the new ones are.

    Attributes:
        request: for a run that replaces the old results.
        old, new: results, as `results` returns them.
        changes: number of changes of names on the disk that this run makes.
        seconds: how long it takes.
    """

    def __init__(self, story, name, forking, good_files, room):
        self.story, self.name, self.forking = story, name, forking(story.keras)
        self.room, self.here, self.good = room / "room", room / "room" / "trial", good_files(story.good)
        flags = story.flags.replace("@/out", "@/disk/out").split()
        replace = [] if name in NO_REPLACE else ["--replace"]
        base = {"script": story.script, "room": str(self.room), "writes": ("disk", *story.kept)}
        self.first = {**base, "flags": [*flags, *story.first.split()]}
        self.request = {**base, "flags": [*flags, *story.second.split(), *replace]}
        self.lay_out()
        self.old = self.results()
        answer = self.run(stop={"signal_number": 0})
        assert answer["status"] == 0, answer
        self.changes, self.seconds = int((room / "changes").read_text()), answer["seconds"]
        self.new = self.results()
        self.restore()
        again = self.run()
        assert again["status"] == 0, again
        other = self.results()
        self.varying = {path for path in self.new if self.new[path] != other.get(path)}  # dates and times
        assert self.same(other, self.new) and not self.same(self.old, self.new)

    def lay_out(self):
        """Make the folder with the old results."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.good, self.here)
        (self.here / "disk").mkdir()
        answer = self.run(self.first)
        assert answer["status"] == 0, answer
        shutil.rmtree(self.room / "laid_out", ignore_errors=True)
        for name in self.story.kept:
            shutil.copytree(self.here / name, self.room / "laid_out" / name, symlinks=True)

    def restore(self):
        """Make the old results again, from the copy; the input stays, since sets record when it last changed."""
        for name in self.story.kept:
            shutil.rmtree(self.here / name)
            shutil.copytree(self.room / "laid_out" / name, self.here / name, symlinks=True)

    def run(self, request=None, **more):
        (answer,) = self.forking.run([{**(request or self.request), **more}])
        return answer

    def results(self):
        """Everything in the folders of the results but unfinished work: dict of path to digest."""
        found = {}
        for name in self.story.kept:
            found |= {f"{name}/{path}": digest for path, digest in snapshot(self.here / name).items()}
        return {path: digest for path, digest in found.items() if ".part-" not in path}

    def is_complete(self, found):
        """Whether the results are the old or the new ones."""
        return any(self.same(found, expected, self.name in ADDS) for expected in (self.old, self.new))

    def same(self, found, expected, or_more=False):
        keep = getattr(self, "varying", set())
        found = {path: digest for path, digest in found.items() if path in expected} if or_more else found
        return found.keys() == expected.keys() and all(found[k] == expected[k] or k in keep for k in found)

    def unfinished(self):
        """What is left of work in progress; an empty folder goes after a minute."""
        found = [path for name in self.story.kept for path in (self.here / name).rglob(".part-*")]
        return [path for path in found if not path.is_dir() or any(path.iterdir())]

    def journals(self):
        return [path for path in self.unfinished() if (path / "journal.json").exists()]


@pytest.fixture
def stage(forking, good_files, room):
    return lambda name: Stage(STORIES[name], name, forking, good_files, room)


SLOW = {name: pytest.param(name, marks=pytest.mark.slow) for name in STORIES}
ALL = [SLOW[name] if story.keras else name for name, story in STORIES.items()]


def in_suite(*names, without=()):
    """All stories; those that are not in `names`, one for each mechanism, are slow tests."""
    return [name if name in names else SLOW[name] for name in STORIES if name not in without]


@pytest.mark.parametrize("name", ALL)
def test_stopped_at_any_change_of_the_disk(name, stage, request):
    staged = stage(name)
    rng = random.Random(name)
    for at in sample(request, rng, range(1, staged.changes + 1), SAMPLE):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
        staged.restore()
        answer = staged.run(stop={"signal_number": number, "at": at})
        where = f"signal {number} at change {at} of {staged.changes}"
        found = staged.results()
        complete = staged.is_complete(found) or staged.journals()
        assert complete, f"{where}: neither old nor new: {sorted(found.items() ^ staged.old.items())[:8]}"
        if number == signal.SIGINT:
            assert "Traceback" not in answer["err"], f"{where}: {answer['err']}"
            assert not staged.unfinished(), f"{where}: left {staged.unfinished()}"
        again = staged.run()
        assert again["status"] == 0, f"{where}, then {again}"
        assert staged.same(staged.results(), staged.new), f"{where}: the next run did not make the new results"
        assert not staged.unfinished(), f"{where}: the next run left {staged.unfinished()}"


@pytest.mark.parametrize("name", ALL)
def test_killed_at_any_time(name, stage, request):
    staged = stage(name)
    rng = random.Random(name)
    for after in sample(request, rng, [staged.seconds * share / 40 for share in range(1, 44)], 2):
        staged.restore()
        staged.run(stop={"signal_number": signal.SIGKILL, "after": after})
        found = staged.results()
        assert staged.is_complete(found) or staged.journals(), after
        again, found = staged.run(), staged.results()
        assert again["status"] == 0, (after, again)
        assert staged.same(found, staged.new), (after, sorted({path for path, _ in found.items() ^ staged.new.items()}))


WAITS = {"shards"}  # for the other process, which makes the same


@pytest.mark.parametrize("name", in_suite("lists", "images", "submission", "augmented", without=WAITS))
def test_two_at_once(name, stage, room, forking, request):
    """The first is stopped while it writes, and goes on when the second has ended."""
    staged = stage(name)
    late = max(staged.changes - 2, 1)
    by_hand = request.config.getoption("faults")
    others = random.Random(name).choices(range(1, staged.changes + 1), k=9)
    for at in [late, 3, *(others if by_hand else others[:1])]:
        staged.restore()
        (room / "stopped").unlink(missing_ok=True)
        staged.forking.start([{**staged.request, "stop": {"signal_number": signal.SIGSTOP, "at": at}}])
        first = wait_for_stop(room)
        try:
            (second,) = forking(staged.story.keras, 2).run([staged.request])
        finally:
            os.kill(first, signal.SIGCONT)
            (answer,) = staged.forking.answers(1)
        assert answer["status"] == 0, f"at {at}: {answer}"
        assert second["status"] == 1 or (second["status"] == 0 and at != late), f"at {at}: {second}"
        if second["status"]:
            assert not grammar(Path(staged.story.script).name, second["err"]), f"at {at}: {second}"
            assert f"process {first} on" in second["err"], f"at {at}: {second}"
        assert staged.same(staged.results(), staged.new) and not staged.unfinished(), f"at {at}"


NEEDS_SPACE = {"check"}  # reports a disk of 64 MB as a problem


@pytest.mark.parametrize("name", in_suite("lists", "scores", "surface", "packed", without=NEEDS_SPACE))
def test_a_full_disk(name, stage, small_disk, request):
    staged = stage(name)
    place = staged.here / staged.story.kept[0]
    refused = 0
    for free in free_sizes(place, request, name):
        small_disk.taken_down()
        staged.restore()
        small_disk(place, free)
        answer = staged.run()
        is_full = disk_is_full(answer, staged.story.script)
        refused += is_full
        expected, found = staged.old if is_full else staged.new, staged.results()
        assert staged.same(found, expected, name in ADDS), f"{free} bytes free: {answer}"
        assert not staged.unfinished(), f"{free} bytes free: {staged.unfinished()}"
        small_disk.resize("64m")
        again = staged.run()
        assert again["status"] == 0 and staged.same(staged.results(), staged.new), f"{free} bytes free, then {again}"
    assert refused
