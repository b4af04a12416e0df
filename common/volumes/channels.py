"""Volumes with a file for each channel, such as contrasts of MRI."""

import re
from pathlib import Path

from common.errors import InputError, summarize
from common.slices.nnunet import join_channels
from common.volumes.finding import find_volumes


def group_channels(volumes, patterns, setting):
    """Group volumes that are channels of one.

    Args:
        volumes: dict of name to Path, from `find_volumes`; names have "/" between folders.
        patterns: list of their file names without ending, such as "{id}_flair", or "flair" in a folder for each volume.
        setting: setting name for messages.

    Returns:
        dict of name of the volume, the folder and {id}, to the list of the Paths of its channels.

    Raises:
        InputError: if no name fits, or a channel is missing.
    """
    own = re.escape(patterns[0]).replace(r"\{id\}", "(?P<id>[^/]+)")
    expression = re.compile(f"(?P<folder>(?:.*/)?){own}", re.DOTALL)
    grouped, problems = {}, []
    for name, path in volumes.items():
        if not (found := expression.fullmatch(name)):
            continue
        folder, own = found["folder"], found.groupdict().get("id", "")
        names = [folder + pattern.replace("{id}", own) for pattern in patterns]
        problems += [f"{path}: its channel {missing} is missing" for missing in names if missing not in volumes]
        grouped[(folder + own).rstrip("/") or name] = [volumes.get(other) for other in names]
    if problems:
        raise InputError(summarize(problems, "volumes lack a channel; see --channels"))
    if not grouped:
        raise InputError(f"{setting}: no volume fits {patterns[0]} (found {next(iter(volumes))}); see --channels")
    return grouped


def channels_of_input(path, patterns):
    """Channels of the volumes in a folder, or of the volume of which a file is a channel.

    Args:
        path: Path of a folder of volumes, or of one file.
        patterns: as for `group_channels`.

    Returns:
        dict as of `group_channels`.

    Raises:
        InputError: as `group_channels`, or if a file is no channel.
    """
    if path.is_dir():
        return group_channels(find_volumes(path), patterns, "INPUT")
    grouped = group_channels(find_volumes(path.parent), patterns, "INPUT")
    own = {name: files for name, files in grouped.items() if any(file.samefile(path) for file in files)}
    if not own:
        raise InputError(f"INPUT: {path} fits no pattern of its channels ({', '.join(patterns)}); see --channels")
    return own


def first_files(grouped):
    """dict of name to Path of the first channel."""
    return {name: Path(files[0]) for name, files in grouped.items()}


def find_files(source, patterns):
    """Find the volumes of INPUT and their channels.

    Args:
        source: setting INPUT.
        patterns: name patterns of the files of a volume, or None; "rgb" and others are not for volumes.

    Returns:
        dict of volume name to Path of its only or first file, and dict of this Path to those of its further channels.

    Raises:
        InputError: if there are no volumes, or one lacks a channel.
    """
    if not isinstance(patterns, list) or not patterns:
        return join_channels(source, find_volumes(source))
    grouped = channels_of_input(Path(source), patterns)
    return first_files(grouped), {Path(files[0]): files[1:] for files in grouped.values()}
