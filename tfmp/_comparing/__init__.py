"""`compare`: what a model costs and gives in several precisions."""

from tfmp._comparing.comparing import compare
from tfmp._comparing.comparison import ComparedModel, Comparison

__all__ = ["ComparedModel", "Comparison", "compare"]
