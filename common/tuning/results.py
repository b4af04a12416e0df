"""Results of a search: a table of its trials, and which settings mattered."""

import math
import statistics

import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from common import tables
from common.files import whole_file
from common.lazy import Lazy
from common.training.progress import class_columns
from common.training.training_log import Log

figures = Lazy("matplotlib.figure")

STATE_NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
NONE = (-math.inf, 0)  # score of a trial without one
ENOUGH_TRIALS = 30  # importances of fewer trials are only a hint
MAX_PANELS = 6


def best_epoch(trial):
    """(validation Dice, epoch) of a trial's best epoch, the earliest if several are equal; (-inf, 0) if none.

    Of a trial on folds: (mean over the folds of the best Dice, number of the last epoch reported).
    """
    if trial.user_attrs.get("folds"):
        return max(((dice, epoch) for epoch, dice in trial.intermediate_values.items()), key=_epoch, default=NONE)
    return Log({"epoch": epoch, "val_dice": dice} for epoch, dice in trial.intermediate_values.items()).best("dice")


def _epoch(score):
    return score[1]


def score_as_text(trial):
    """Score of a trial as text; "" if it has none."""
    dice, epoch = best_epoch(trial)
    folds = trial.user_attrs.get("folds")
    return f"{dice:.4f}, mean of {folds} folds" * bool(epoch) if folds else f"{dice:.4f} in epoch {epoch}" * bool(epoch)


def values_as_text(params):
    """Values of a trial as text, from its dict of parameters."""
    return ", ".join(f"{name} {_value_as_text(value)}" for name, value in params.items()) or "nothing to choose"


def _value_as_text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def dice_by_class(runs):
    """Validation Dice of each class as text: mean over a trial's runs, each in its best epoch; "" for one class."""
    rows = [next((row for row in run.log.rows if row["epoch"] == run.log.best("dice")[1]), {}) for run in runs]
    names = class_columns(rows[0], runs[0].class_names(runs[0].data)) if rows else {}
    means = {name: statistics.fmean(row.get(column, 0) for row in rows) for column, name in names.items()}
    return ", ".join(f"{name} {dice:.4f}" for name, dice in means.items())


def write_table(trials, path):
    """Write `trials.csv`, one row per trial, and return the trials, best first; `trials` as in `make_table`."""
    best_first, table = make_table(trials)
    with whole_file(path) as unfinished:
        tables.write_table(unfinished, table)
    return best_first


def make_table(trials):
    """Table of trials, best first.

    Args:
        trials: list of finished FrozenTrials.

    Returns:
        (the trials, best first; DataFrame with a row for each: trial, state, dice, epoch, epochs, minutes, a column for
        each parameter, run, reason).
    """
    best_first = sorted(trials, key=lambda t: (t.state != TrialState.COMPLETE, -best_epoch(t)[0], t.number))
    rows = []
    for trial in best_first:
        dice, epoch = best_epoch(trial)
        row = {"trial": trial.number, "state": STATE_NAMES[trial.state], "dice": dice if epoch else None}
        row |= {"epoch": epoch, "epochs": len(trial.intermediate_values), "minutes": trial.user_attrs.get("minutes")}
        row |= {name: str(value) if value is None else value for name, value in trial.params.items()}
        rows.append(row | {name: trial.user_attrs.get(name, "") for name in ("run", "reason")})
    table = pd.DataFrame(rows, dtype=object)  # as objects, so that missing values do not turn whole numbers into floats
    return best_first, table[[*table.columns.drop(["run", "reason"]), "run", "reason"]]


def importances(trials):
    """Importance of each parameter by PED-ANOVA (Watanabe et al., arXiv 2304.10255).

    A trial that was stopped early counts with its best epoch.

    Args:
        trials: list of FrozenTrials without the failed ones.

    Returns:
        dict of parameter to share, largest first; the shares add up to 1. Empty if the trials are too few or too
        similar.
    """
    scores = sorted((best_epoch(trial)[0] for trial in trials), reverse=True)
    good = min(max(math.ceil(len(scores) / 4), 5), len(scores) // 2)  # with fewer than five, the shares are unstable
    while good and scores[good - 1] == scores[good]:  # equal trials are all good or all not good
        good -= 1
    if good < 2 or not any(trial.params for trial in trials):
        return {}
    study = optuna.create_study(direction="maximize")
    for trial, score in ((trial, best_epoch(trial)[0]) for trial in trials):
        study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=score))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(good - 0.5) / len(trials))
    return get_param_importances(study, evaluator=evaluator)


def draw_importances(trials, path):
    """Draw the importance of each parameter, and the Dice of the trials against the most important ones.

    Args:
        trials: list of FrozenTrials, best first.
        path: PNG file to write.
    """
    scored = [trial for trial in trials if best_epoch(trial)[1]]
    shares = importances(scored)
    names = list(shares) or list(dict.fromkeys(name for trial in scored for name in trial.params))
    figure = figures.Figure(figsize=(14, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
    hint = ", only a hint" if len(scored) < ENOUGH_TRIALS else ""
    left.suptitle(f"which settings mattered (trials: {len(scored)}{hint})", fontsize=11)
    _draw_shares(left.subplots(), shares)
    axes = right.subplots(2, math.ceil(MAX_PANELS / 2), sharey=True)
    legend = {}
    for axis, name in zip(axes.flat, names, strict=False):
        legend |= {dots.get_label(): dots for dots in _draw_parameter(axis, name, trials) if len(dots.get_offsets())}
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("best validation Dice")
    right.legend(handles=list(legend.values()), loc="outside lower center", ncols=4, frameon=False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _draw_shares(axis, shares):
    if not shares:
        axis.axis("off")
        axis.text(0.5, 0.5, "too few trials, or too similar, to tell", ha="center", transform=axis.transAxes)
        return
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    bars = axis.barh(names, values, color="tab:blue")
    axis.bar_label(bars, [f"{value:.0%}" for value in values], padding=3, fontsize=9)
    axis.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.15 * max(values)))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_parameter(axis, name, trials):
    """Draw the Dice of the trials, best first, against one parameter; failed trials at the bottom.

    Returns:
        list of the scatter plots, with labels.
    """
    with_parameter = [trial for trial in trials if name in trial.params]
    choices = _set_parameter_axis(axis, with_parameter[0].distributions[name])
    scores = [best_epoch(trial)[0] for trial in trials if best_epoch(trial)[1]]
    bottom = min(scores) - 0.07 * (max(scores) - min(scores))

    def scatter(label, dotted, **style):
        x = [trial.params[name] for trial in dotted]
        if choices:  # spread the dots of a choice by the golden ratio
            x = [choices.index(value) + 0.5 * (0.618 * t.number % 1 - 0.5) for value, t in zip(x, dotted, strict=True)]
        y = [best_epoch(trial)[0] if trial.state != TrialState.FAIL else bottom for trial in dotted]
        return axis.scatter(x, y, label=label, **style)

    complete, pruned, failed = ([trial for trial in with_parameter if trial.state == state] for state in STATE_NAMES)
    axis.set_title(name, fontsize=10)
    axis.grid(alpha=0.3)
    return [
        scatter("failed", failed, s=28, marker="x", color="tab:red"),
        scatter("stopped early", pruned, s=28, facecolors="none", edgecolors="tab:gray"),
        scatter("complete", complete, s=28, color="tab:blue", alpha=0.8),
        scatter("best", [t for t in with_parameter if t is trials[0]], s=160, marker="*", color="tab:orange"),
    ]


def _set_parameter_axis(axis, distribution):
    """Set the x axis of a parameter; its choices in the order of their ticks, or None for a range of numbers."""
    choices = getattr(distribution, "choices", None)
    if not choices:
        low, high = distribution.low, distribution.high
        margin = 0.05 * (high - low)
        limits = (0.9 * low, high / 0.9) if distribution.log else (low - margin, high + margin)
        axis.set(xscale="log" if distribution.log else "linear", xlim=limits)
        return None
    choices = sorted(choices) if all(type(choice) in (int, float) for choice in choices) else list(choices)
    names = [_value_as_text(choice) for choice in choices]
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=20 if len("".join(names)) > 30 else 0)
    axis.set_xlim(-0.5, len(names) - 0.5)
    return choices
