"""What the author of a network recommends, and published, as settings of train.py."""

import models
from common.errors import SettingError, as_setting_error
from common.training.optimizer import make_optimizer

RECOMMENDED = "recommended for {}"  # the reason for a value recommended by a network's author
PUBLISHED = "as the author of {} trained it"


def with_published(settings):
    """Settings with which the network's author trained, except those that a flag or a settings file sets."""
    if settings.MODEL is None:
        raise SettingError("AS_PUBLISHED: needs MODEL (not set); choose a network as --model")
    with as_setting_error("AS_PUBLISHED"):
        size = settings.BATCH_SIZE if "BATCH_SIZE" in settings.given and settings.BATCH_SIZE != "auto" else None
        found = models.published(settings.MODEL, size)
    found["SCHEDULE_SETTINGS"] = found["SCHEDULE_SETTINGS"] | settings.SCHEDULE_SETTINGS
    found["EPOCHS"] = max(found["EPOCHS"] - found["SCHEDULE_SETTINGS"].get("skip", 0), 1)
    kept = settings.given - {"SCHEDULE_SETTINGS"}
    kept |= {"CONTROLLER", "EARLY_STOP"} if settings.VALIDATION == "" else set()
    kept |= {"EPOCHS"} if settings.EPOCHS_FROM else set()
    if kept & {"LEARNING_RATE", "OPTIMIZER"} and found["SCHEDULE"] == "graph":
        found = _without_graph(found)
    if "OPTIMIZER" in kept:
        del found["LEARNING_RATE"]
    found = {name: value for name, value in found.items() if name not in kept}
    return settings.replace(PUBLISHED.format(settings.MODEL), **found)


def _without_graph(recommended):
    """Recommended settings for a learning rate of the user's own, instead of those in a graph."""
    others = {name: value for name, value in recommended["SCHEDULE_SETTINGS"].items() if name != "points"}
    return recommended | {"SCHEDULE": "constant", "SCHEDULE_SETTINGS": others}


def with_recommended(settings):
    """Settings with the author's recommendations instead of None, and EPOCHS from a graph schedule."""
    has_own_graph = "points" in settings.SCHEDULE_SETTINGS and not _is_published(settings)
    if settings.MODEL is not None:
        settings = _with_recommended(settings)
    points = settings.SCHEDULE_SETTINGS.get("points") if settings.SCHEDULE == "graph" else None
    if points and (has_own_graph or "EPOCHS" not in settings.given):  # EPOCHS as a flag cuts the author's graph short
        epochs = int(points[-1][0]) - settings.SCHEDULE_SETTINGS.get("skip", 0)
        settings = settings.replace("end of the graph in SCHEDULE_SETTINGS", EPOCHS=max(epochs, 1))
    return settings


def _is_published(settings):
    return settings.reasons.get("SCHEDULE_SETTINGS") == PUBLISHED.format(settings.MODEL)


def _with_recommended(settings):
    with as_setting_error("MODEL"):
        size = settings.BATCH_SIZE
        recommended = models.recommended(settings.MODEL, None if size == "auto" else size)
    if settings.OPTIMIZER is not None and settings.LEARNING_RATE is None:
        with as_setting_error("OPTIMIZER"):
            chosen = make_optimizer(settings.OPTIMIZER)
        if type(chosen) is not type(
            make_optimizer(recommended["OPTIMIZER"])
        ):  # the recommended rate is for another optimizer
            settings = settings.replace("default of OPTIMIZER", LEARNING_RATE=float(chosen.learning_rate))
    if recommended["SCHEDULE"] == "graph" and settings.LEARNING_RATE is not None:
        recommended = _without_graph(recommended)
    missing = {name for name in recommended if settings.values[name] is None}
    if "SCHEDULE" in missing and (own := recommended.get("SCHEDULE_SETTINGS")):
        recommended["SCHEDULE_SETTINGS"] = own | settings.SCHEDULE_SETTINGS
        missing.add("SCHEDULE_SETTINGS")
    return settings.replace(RECOMMENDED.format(settings.MODEL), **{name: recommended[name] for name in missing})
