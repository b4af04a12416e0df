"""Check that train.py accepts settings, without training.

    python -P -m common.tuning.check_values FILE.json

FILE.json is a list of dicts of settings. The first one that train.py does not accept is reported in one line, and the
exit status is 1 or 2.
"""

import sys

from common.devices import import_keras
from common.errors import as_setting_error, report_error
from common.files import read_json
from common.settings import Settings


def check_settings(path):
    """Raise InputError or SettingError for the first settings in a file that train.py does not accept."""
    import_keras()
    # these import Keras, which must be imported quietly first
    from common.training.augmentation import make_augmentation
    from common.training.configure import (
        as_named_setting_error,
        build_network,
        configure,
        make_batches,
        open_sets,
        set_precision,
        with_grid,
    )
    from losses import get_loss

    opened, built = {}, set()
    for given in read_json(path):
        settings = configure(Settings.of("train.py", **given))
        set_precision("float32" if settings.PRECISION == "auto" else settings.PRECISION)
        if settings.TRAIN not in opened:
            opened[settings.TRAIN] = open_sets(settings)[0]
        training = opened[settings.TRAIN]
        if training.axes == 3:
            size = 1 if settings.BATCH_SIZE == "auto" else settings.BATCH_SIZE
            make_batches(settings.replace("a trial", FOREGROUND=settings.FOREGROUND or 0), training, size)
            settings = with_grid(settings, training)
        else:
            with as_named_setting_error():
                make_augmentation(settings.AUGMENTATION)
        with as_setting_error("LOSS"):
            get_loss(settings.LOSS, training.classes, training.axes, overlapping=training.overlapping)
        if (settings.MODEL, training.shape) not in built:
            built.add((settings.MODEL, training.shape))
            build_network(settings, training)


if __name__ == "__main__":
    sys.excepthook = report_error
    check_settings(sys.argv[1])
