"""Every kind of file that the toolkit reads, damaged many times: one message, nothing else touched, no hang, no crash.

pytest tests/faults/test_damaged_files.py -k "png" --faults 5000
pytest tests/faults/test_damaged_files.py -k "png" --fault 1234        one trial again, with its traceback
"""

import pytest
from faults import kinds
from faults.judging import problems_of

TRIALS = [40, pytest.param(200, marks=pytest.mark.slow)]  # of a kind; more by hand: --faults 5000


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("name", kinds.KINDS)
def test_damaged(name, trials, good_files, forking, room, request):
    kind = kinds.KINDS[name]
    option = request.config.getoption
    if name not in kinds.IN_THE_SUITE and not option("faults"):
        pytest.skip("by hand only: --faults 5000")
    seeds = range(round((option("faults") or trials) * kind.share))
    seeds = seeds if option("fault") is None else [option("fault")]
    good = good_files(kind.good)
    base = {"script": kind.script, "flags": kind.flags.split(), "room": str(room / "room"), "writes": kind.writes}
    base["good"] = str(good)
    requests = [{**base, "damage": kind.damage, "file": kind.file, "seed": seed} for seed in seeds]
    sound, *answers = forking(kind.keras).run([base, *requests])
    assert sound["status"] == kind.status and not sound["changed"], sound
    bad = [(seed, p) for seed, answer in zip(seeds, answers, strict=True) if (p := problems_of(kind, answer, sound))]
    if option("fault") is not None:
        print(answers[0])
    texts = [f"--fault {seed}: {found}" for seed, found in bad]
    assert not bad, f"{name}: {len(bad)} of {len(answers)} trials\n" + "\n".join(texts[:30])
