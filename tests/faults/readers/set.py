"""Open a set as train.py does, and make every batch of it twice: in memory and from the file.

python tests/faults/readers/set.py SET
"""

import sys

from common.errors import report_error

sys.excepthook = report_error

from common.training.sets import open_set

for memory_gb in (1, 0):
    opened = open_set(sys.argv[1], memory_gb)
    opened.item_keys(), opened.in_words(), opened.has_foreground(), opened.record()
    batches = opened.batches(1)
    for index in range(len(batches)):
        x, y = batches[index][:2]
        assert len(x) == len(y)
