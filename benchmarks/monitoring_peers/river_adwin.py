"""ADWIN of river over streams of errors, in an environment of its own: `python river_adwin.py in.npz out.npz`.

Reads `value` (all streams, one after the other) and `begin` (where each begins, and the end of all); writes `change`,
the positions at which a rise was found.
"""

import itertools
import sys

import numpy as np
from river.drift import ADWIN

with np.load(sys.argv[1]) as given:
    values, begins = given["value"], given["begin"]
changes = []
for begin, end in itertools.pairwise(begins):
    detector = ADWIN()
    before = 0.0
    for position in range(begin, end):
        detector.update(float(values[position]))
        if detector.drift_detected and detector.estimation > before:
            changes.append(position)
        before = detector.estimation
np.savez(sys.argv[2], change=np.array(changes, dtype=np.int64))
