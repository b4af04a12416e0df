"""What many scores come to: means with intervals over cases, quartiles, and differences between two results."""

import numpy as np
import pandas as pd

RESAMPLES = 9999
AT_ONCE = 2_000_000  # cases drawn at a time, so that memory does not grow with their number
INTERVAL = (2.5, 97.5)  # percentiles of the resampled means: a 95 % interval


def interval_of_mean(values, cases):
    """Bootstrap interval of a mean over images: cases are drawn with replacement, each with all of its images.

    Percentile bootstrap of Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13; the same numbers give
    the same interval.

    Args:
        values: (N,) array.
        cases: (N,) case of each.

    Returns:
        (low, high); NaN for fewer than two cases.
    """
    _, number = np.unique(np.asarray(cases, str), return_inverse=True)
    count = number.max(initial=-1) + 1
    if count < 2:
        return np.nan, np.nan
    sums, sizes = np.bincount(number, values), np.bincount(number)
    rng, means = np.random.default_rng(0), []
    for part in np.array_split(np.empty(RESAMPLES), 1 + RESAMPLES * count // AT_ONCE):
        drawn = rng.integers(0, count, (len(part), count))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return tuple(np.percentile(np.concatenate(means), INTERVAL).tolist())


def summarise_scores(table, scores):
    """What the scores of a table come to.

    Args:
        table: DataFrame with columns case, class and the scores, NaN for none.
        scores: names of the columns.

    Returns:
        DataFrame with a row for each class and score: class, score, n, left_out (rows without the score), mean,
        low and high (its interval), median, q1, q3, least, greatest.
    """
    rows = []
    for number, of_class in table.groupby("class", sort=True):
        for score in scores:
            known = of_class[of_class[score].notna()]
            values = known[score].to_numpy(float)
            row = {"class": number, "score": score, "n": len(known), "left_out": len(of_class) - len(known)}
            if len(values):
                low, high = interval_of_mean(values, known["case"])
                q1, median, q3 = np.percentile(values, [25, 50, 75])
                row |= {"mean": values.mean(), "low": low, "high": high, "median": median, "q1": q1, "q3": q3}
                row |= {"least": values.min(), "greatest": values.max()}
            rows.append(row)
    columns = ["class", "score", "n", "left_out", "mean", "low", "high", "median", "q1", "q3", "least", "greatest"]
    return pd.DataFrame(rows, columns=columns)


def compare_scores(ours, theirs, scores):
    """Paired differences, ours less theirs, over the cases that both have.

    Args:
        ours, theirs: DataFrames with columns case, class and the scores.
        scores: names of the columns.

    Returns:
        DataFrame with a row for each class and score: class, score, n, difference (mean), low and high (its
        interval), more, less (cases where ours is the greater, the smaller).
    """
    both = ours.merge(theirs, on=["case", "class"], suffixes=("", "_theirs"))
    rows = []
    for number, of_class in both.groupby("class", sort=True):
        for score in scores:
            differences = (of_class[score] - of_class[f"{score}_theirs"]).dropna()
            row = {"class": number, "score": score, "n": len(differences)}
            if len(differences):
                low, high = interval_of_mean(differences.to_numpy(float), of_class.loc[differences.index, "case"])
                row |= {"difference": differences.mean(), "low": low, "high": high}
                row |= {"more": int((differences > 0).sum()), "less": int((differences < 0).sum())}
            rows.append(row)
    return pd.DataFrame(rows, columns=["class", "score", "n", "difference", "low", "high", "more", "less"])
