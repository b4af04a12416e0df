"""The state of a run, to compare one that was interrupted with one that was not."""

import io
import json
import zipfile

import h5py
import numpy as np
import pandas as pd


def state_of(run):
    """Everything of a run that a resumed one must have too: weights of its checkpoints by name, and its log."""
    found = {}
    for name in ("last", "best_dice", "best_iou"):
        with zipfile.ZipFile(run / f"{name}.keras") as archive:
            assert archive.testzip() is None
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                file.visititems(
                    lambda key, item, name=name: (
                        found.update({f"{name} {key}": item[()]}) if isinstance(item, h5py.Dataset) else None
                    )
                )
            found[f"{name} epoch"] = np.array(json.loads(archive.read("run_state.json"))["epoch"])
    log = pd.read_csv(run / "training_log.csv").drop(columns="seconds")
    return found | {f"log {name}": log[name].to_numpy() for name in log}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
