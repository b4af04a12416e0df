"""Load a library at its first use: scripts that do not need it start without the seconds that it takes.

    sitk = Lazy("SimpleITK")

replaces `import SimpleITK as sitk` in a module that some scripts use without it. What is needed when the module is
imported, such as a default argument, would load it at once.
"""

from importlib import import_module


class Lazy:
    """A module that is imported when the first of its attributes is read; threads may do so at once.

    Args:
        name: dotted name.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(import_module(self._name), attribute)
