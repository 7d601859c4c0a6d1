"""Pictures of where a model fails. They need matplotlib: `pip install hace-kernels[pictures]`.

Each function draws into the `axes` that it is given, or into new ones, and returns them; a picture
with several panels returns its figure. Colours can be told apart by colour-blind people, and in
print without colour.
"""

from .confusion import confusion
from .curves import operating_curves
from .icicle import error_icicle
from .reliability import reliability_diagrams
from .severity import severity_histogram

__all__ = [
    "confusion",
    "error_icicle",
    "operating_curves",
    "reliability_diagrams",
    "severity_histogram",
]
