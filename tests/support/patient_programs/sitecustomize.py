"""Where this directory comes first in PYTHONPATH, programs wait long at their end for a backend or a disk that is slow."""

from tests.support.patient import be_patient

be_patient()
