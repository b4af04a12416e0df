"""Wrong values for every setting of every script, by flag and by settings file.

A script refuses them in one line that starts with the setting, with status 2, or it works.

    pytest tests/faults/test_wrong_settings.py -k train --faults 1     every value, not a sample
"""

import json
import random
import re

import pytest
from faults import kinds
from faults.damage import deep
from faults.judging import grammar
from running import SCRIPTS

from common.setting_checks import alternatives, is_typeddict
from common.settings import Settings, read_value

SAMPLE = 5  # values of a setting by flag, and as many by file, in the suite

WORDS = [
    *(
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "-0.5",
        "1e30",
        "1e-30",
        "1e308",
        "1e400",
        "nan",
        "-inf",
        "99999999999",
        "",
        " ",
    ),
    *(
        "1" + "0" * 400,
        "None",
        "true",
        "nonsense",
        "é",
        "a" * 300,
        "[]",
        "[1]",
        "[1,2]",
        "[2,1]",
        "[1,1,1]",
        "[0,0]",
        "[[1]]",
    ),
    *(
        "[None]",
        "['a',1]",
        "['a']",
        "[-1,1e30]",
        "[0,1e400]",
        "(1,2)",
        "{}",
        "{'a':1}",
        "{1:2}",
        "{1:300}",
        "{'a':{'b':[]}}",
    ),
    *(
        "1/0",
        "1/2",
        "{id}",
        "{id}{x}",
        "{id}_{",
        "..",
        "../..",
        "0x10",
        "1_000",
        "\x1b[31m",
        "1,5",
        "[",
        "{",
        "'",
        "a\nb",
    ),
    *(
        "x/" * 2000,
        "[" * 5000,
        "a" * 9999,
        "~/x",
        "{'../x': [1]}",
        "{1: 254}",
        "[True]",
        "[nan,1]",
        "1j",
        "\u2028",
        "/dev/full",
    ),
]
JSON_VALUES = [
    *(
        -1,
        0,
        1,
        2.5,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "nonsense",
        "\ud800",
        "a\0b",
        True,
        None,
        [],
        [1],
        [[]],
    ),
    *([None], {}, {"a": 1}, {"": []}, "2", "[1,2]", [1, "a"], [1e308, -1e308], {"a": {"b": {"c": []}}}),
    *("x/" * 3000, "a" * 10**6, {str(k): k for k in range(9999)}, [1] * 10**5, ["\ud800"], {"../x": [1]}, {"1": 254}),
]
INSIDE = [
    -1,
    0,
    0.5,
    2.5,
    1e30,
    float("inf"),
    float("nan"),
    "",
    "x",
    None,
    True,
    [],
    [1],
    [1, 2],
    {},
    {"a": 1},
    [[1, 2]],
]

BASE = {  # flags with which each script works on good files
    "check.py": (kinds.cases, kinds.CHECK_CASES),
    "choose.py": (kinds.run, "--cross-validations @/cv"),
    "compare_runs.py": (kinds.run, "--runs @/ --output @/out.html"),
    "convert_coreml.py": (kinds.run, "--run @/run --output @/out.mlmodel --checked 1"),
    "data/make_sample.py": (kinds.surface, "--cases @/out --count 1 --slices 6 --size 64"),
    "data/make_volumes.py": (kinds.surface, "--data @/out --train 1 --test 0 --contrasts 1"),
    "evaluate.py": (kinds.evaluated, kinds.EVALUATE),
    "export.py": (kinds.run, "--run @/run --output @/out --formats ['saved_model'] --checked 1"),
    "export_dataset.py": (kinds.cases, "--lists @/lists --output @/out/Dataset001_Liver"),
    "predict.py": (kinds.run, kinds.PREDICT),
    "preprocess/0_import_annotations.py": (kinds.annotated, kinds.ANNOTATED.format("labelme.json")),
    "preprocess/0_import_candidates.py": (kinds.volumes, kinds.CANDIDATES),
    "preprocess/0_import_images.py": (kinds.pictures, kinds.IMAGES.format("png")),
    "preprocess/0_import_matrices.py": (kinds.matrices, "--images @/x --masks @/y --cases @/out --size 16"),
    "preprocess/0_import_nodules.py": (
        kinds.volumes,
        "--scans @/mha/x --annotations @/nodules.csv --cases @/out --size 16",
    ),
    "preprocess/0_import_stl.py": (kinds.surface, "--surface @/s.stl --output @/out --size 16"),
    "preprocess/0_import_volumes.py": (kinds.volumes, kinds.FROM_VOLUMES.format("nii")),
    "preprocess/1_augment_cases.py": (kinds.cases, "--cases @/cases --filters ['C'] --shapes ['','RTP']"),
    "preprocess/2_write_lists.py": (kinds.cases, kinds.LISTS),
    "preprocess/3_pack_hdf5.py": (kinds.cases, "--lists @/lists --packed @/out"),
    "preprocess/4_plan_training.py": (kinds.run, "--packed @/packed --minutes 1"),
    "preprocess/3_pack_volumes.py": (kinds.volumes, "--data @/task --packed @/out --smallest-box 12"),
    "pseudo_label.py": (kinds.run, "--run @/run --input @/images --cases @/out"),
    "run_pipeline.py": (kinds.surface, "--cases @/gone --work @/out"),
    "submission.py": (kinds.evaluated, "--predicted @/predicted --output @/out.csv"),
    "train.py": (kinds.run, kinds.TRAIN + " --model-settings {'features':2,'depth':1}"),
    "tune.py": (kinds.study, kinds.TUNE),
}
KERAS = {
    "check.py",
    "choose.py",
    "convert_coreml.py",
    "export.py",
    "predict.py",
    "pseudo_label.py",
    "train.py",
    "tune.py",
}  # minutes if all values are run
CHANGES_INPUT = {"preprocess/1_augment_cases.py", "choose.py", "tune.py"}


def flag_of(name):
    return "--" + name.lower().replace("_", "-")


def without(flags, name):
    """Flags without that of a setting."""
    words = flags.split()
    pairs = [words[i : i + 2] for i in range(0, len(words), 2)]
    return [word for pair in pairs if pair[0] != flag_of(name) for word in pair]


def nested(annotation):
    """Dicts with one wrong value, for settings with known keys."""
    for kind in alternatives(annotation):
        if is_typeddict(kind):
            for key in kind.__annotations__:
                yield from ({key: value} for value in INSIDE)


def requests_of(script, name, annotation, rng, everything):
    """Wrong values of a setting, as (request for the forking process, value in words).

    In the suite, it is a sample, and scripts that need Keras get only values that the type refuses.
    """
    by_flag = [*WORDS, *map(repr, nested(annotation))]
    by_file = [*JSON_VALUES, *nested(annotation)]
    if not everything and script in KERAS:
        by_flag, by_file = ([v for v in values if not accepts(annotation, v)] for values in (by_flag, by_file))
    if not everything:
        by_flag, by_file = (rng.sample(values, min(SAMPLE, len(values))) for values in (by_flag, by_file))
    rest = without(BASE[script][1], name)
    for value in by_flag:
        yield {"flags": [*rest, f"{flag_of(name)}={value}"]}, f"{flag_of(name)}={value[:60]!r}"
    for text in [*(json.dumps({name: value}) for value in by_file), f'{{"{name}": {deep()}}}']:
        yield {"flags": ["--settings", "@/s.json", *rest], "files": {"s.json": text}}, f"--settings {text[:80]}"


def accepts(annotation, value):
    try:
        read_value(value, annotation)
    except ValueError:
        return False
    return True


def problem(script, name, names, answer):
    """Check a wrong value of a setting `name` of a script with settings `names`.

    Returns:
        what is wrong with the answer, as text; "" if nothing.
    """
    status, err = answer["status"], answer["err"]
    if status in ("hang", "crash", "mistake"):
        return f"{status}: {err}"
    if "Traceback" in err:
        return f"traceback: {' | '.join(err.strip().splitlines()[-5:])[-500:]}"
    found = list(answer["changed"][:3])
    if status:
        message = (
            err[err.find("run_pipeline.py: error") :] if "run_pipeline.py: error" in err else err
        )  # after a step's
        found += grammar(script.rpartition("/")[2], message)
    if status == 2 and not re.search(
        rf"\b({'|'.join(names)})\b|{flag_of(name)}\b|s.json: (not a JSON file|damaged)", err
    ):
        found.append(f"names no setting: {err[-300:]}")
    return "; ".join(found)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_wrong_value_is_refused_in_one_message_or_works(script, good_files, forking, room, request):
    everything = bool(request.config.getoption("faults"))
    rng = random.Random(script)
    folder = str(good_files(BASE[script][0]))
    annotations = Settings.of(script).annotations
    asked = [
        (name, *one)
        for name, annotation in annotations.items()
        for one in requests_of(script, name, annotation, rng, everything)
    ]
    base = {"script": script, "room": str(room / "room"), "good": folder, "adds": True}
    writes = {"writes": ("",)} if script in CHANGES_INPUT else {}
    requests = [{**base, **writes, **one} for _, one, _ in asked]
    answers = forking(script in KERAS).run(requests)
    bad = [
        f"{words}: {text}"
        for (name, _, words), answer in zip(asked, answers, strict=True)
        if (text := problem(script, name, annotations, answer))
    ]
    assert not bad, f"{script}: {len(bad)} of {len(asked)}\n" + "\n".join(bad[:40])
