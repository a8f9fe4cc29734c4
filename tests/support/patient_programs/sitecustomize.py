"""Sets the long limits of `tests.support.patient` in every program that has this folder first in PYTHONPATH."""

from tests.support.patient import be_patient

be_patient()
