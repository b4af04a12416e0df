"""Probabilities of each class: 16-bit PNG images of slices, and volumes on the grid of the source."""

import numpy as np

from common.slices.images import write_png

FOLDER = "probabilities"


class Probabilities:
    """Writes OUTPUT/probabilities/<class>/<case>/<name>.png, or <case><ending> for a volume.

    Args:
        folder: Path of OUTPUT.
        names: folder names of the classes from 1 up.
        channels: channels of the probabilities; the last ones are the classes.
        ending: ending of volumes, such as ".nii.gz"; "": their slices become images too.
    """

    def __init__(self, folder, names, channels, ending):
        self.folder, self.names, self.ending = folder / FOLDER, names, ending
        self.classes = slice(channels - len(names), channels)
        self.case, self.record, self.planes = None, None, {}

    def add(self, s, case, record, probabilities, numbers=None):
        """Write a slice, or keep it until its volume is complete; arguments as of `Uncertainty.add`."""
        planes = probabilities[..., self.classes]
        if self.ending and "volume" in record and s.name in record["slices"]:
            if case != self.case:
                self._write()
                self.case, self.record = case, record
            self.planes[s.name] = planes.astype(np.float16)
            return
        for i, name in enumerate(self.names):
            levels = np.rint(65535 * np.clip(planes[..., i], 0, 1)).astype(np.uint16)
            write_png(self.folder / name / s.case / f"{s.name}.png", levels, atomic=False)

    def close(self):
        """Write the last volume."""
        self._write()

    def _write(self):
        if not self.planes:
            return
        from common.volumes.values import volume_of_slices  # needs SimpleITK, images do not

        for i, name in enumerate(self.names):
            image = volume_of_slices(self.record, {slice_: planes[..., i] for slice_, planes in self.planes.items()})
            write_rounded(image, self.folder / name / f"{self.case}{self.ending}")
        self.planes = {}


def write_volumes(folder, names, file, original, probabilities, grid):
    """Write probabilities, or what else is known of each voxel, on the grid of a volume; 0 outside of their own grid.

    Args:
        folder: Path.
        names: names of the folders in it, one for each channel.
        file: name of each file.
        original: `common.volumes.grids.Geometry` of the volume.
        probabilities: (S, H, W, K) float32, 0 to 1.
        grid: their Geometry.
    """
    from common.volumes.grids import image_at  # needs SimpleITK, images do not
    from common.volumes.values import channels_on_grid  # the same

    for name, values in zip(names, channels_on_grid(probabilities, grid, original), strict=True):
        write_rounded(image_at(values, original), folder / name / file)


def write_rounded(image, path):
    """Write a volume of probabilities, rounded to half precision.

    NIfTI, NRRD and MetaImage have no such numbers, so they are 32-bit floats, of which compression leaves about half.

    Args:
        image: SimpleITK.Image of float32.
        path: Path with one of `common.volumes.finding.LABEL_ENDINGS`.
    """
    import SimpleITK as sitk  # volumes only

    from common.volumes.grids import Geometry, image_at  # volumes only
    from common.volumes.writing import write_volume  # volumes only

    rounded = sitk.GetArrayFromImage(image).clip(0, 1).astype(np.float16).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(image_at(rounded, Geometry.of(image)), path)
