"""The curves and images of a run for TensorBoard."""

import sys
import time
from types import ModuleType
from unittest import mock

import cv2

from common import devices
from common.system_errors import errors_of


class Board:
    """Writes scalars and images into a folder; its file has no host name in its name, unlike TensorBoard's own.

    Args:
        folder: Path; without curves if TensorBoard cannot write there.
    """

    def __init__(self, folder):
        self.folder, self.writer, self.output = folder, mock.Mock(), None
        try:
            str(folder).encode()
        except UnicodeEncodeError:  # file names of other systems
            print(f"writing no curves for TensorBoard: {folder} is not UTF-8")
            return
        # a module that tensorboard looks for: with it, tensorboard writes without importing TensorFlow
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        with devices.silenced_libraries():
            from tensorboard.summary import DirectoryOutput, Writer  # here, so that its messages are discarded
        with mock.patch("socket.gethostname", lambda: "run"):
            self.output = DirectoryOutput(str(folder))
        self.writer = Writer(self.output)

    def add_scalars(self, row, step):
        """Add numbers: dict of name to value."""
        with errors_of(self.folder):  # here and below, also of its thread, which does not know the path
            for name, value in row.items():
                self.writer.add_scalar(name, value, step=step)

    def add_image(self, name, image, step):
        """Add an image, (H, W, 3) uint8 RGB; `Writer` has no function for it."""
        if self.output is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event  # here, so that its messages are discarded
        from tensorboard.compat.proto.summary_pb2 import Summary  # as above

        height, width, _ = image.shape
        content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        drawn = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=name, image=drawn)]))
        with errors_of(self.folder):
            self.output._ev_writer.add_event(event)

    def flush(self):
        with errors_of(self.folder):
            self.writer.flush()

    def close(self):
        with errors_of(self.folder):
            self.writer.close()
