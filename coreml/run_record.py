"""What the folder of a run says of a network, for the metadata of the model that is made of it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.files import read_json


@dataclass
class Record:
    """The record beside a trained network.

    Attributes:
        source: Path of the .keras file.
        settings, state: dicts of settings.json and state.json; empty for a network that stands alone.
        scores: metrics of the validation set in the epoch that the network was kept in, as a dict, or None.
    """

    source: Path
    settings: dict
    state: dict
    scores: dict | None

    def facts(self, network):
        """What is known of a network, as a dict; None for what is not known."""
        data, planes = self.state.get("data") or {}, network.output_shape[-1]
        return {
            "network": self.settings.get("MODEL") or network.name,
            "run": self.source.resolve().parent.name if self.settings else None,
            "weights": self.source.name,
            "score": (self.state.get(self.source.stem) or {}).get("score"),
            "scores": self.scores,
            "classes": max(planes - 1, 1),
            "spacing": data.get("spacing"),
            "window": data.get("window"),
            "settings": self.settings or None,
        }


def read(source):
    """Record beside a .keras file.

    Raises:
        InputError: if one of its files is damaged.
    """
    found = []
    for name in ("settings.json", "state.json"):
        path = source.with_name(name)
        found.append(read_json(path) if path.is_file() else {})
        if not isinstance(found[-1], dict):
            raise InputError(f"{path} is damaged: it is not a JSON object")
    _, state = found
    return Record(source, *found, _scores(source, (state.get(source.stem) or state).get("epoch")))


def _scores(source, epoch):
    log = source.with_name("training_log.csv")
    if epoch is None or not log.is_file():
        return None
    try:
        table = pd.read_csv(log)
        row = table[table["epoch"] == epoch].iloc[-1]
    except (ValueError, KeyError, IndexError):
        raise InputError(f"{log} is damaged, or does not hold epoch {epoch}") from None
    names = [name for name in table.columns if name.startswith("val_") and pd.notna(row[name])]
    return {name.removeprefix("val_"): round(float(row[name]), 5) for name in names}
