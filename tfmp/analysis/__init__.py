"""What each layer's precision costs and gains, and the best choice."""

from tfmp.analysis.agreement import Agreement, compare, spearman
from tfmp.analysis.effects import Effect, Sensitivity
from tfmp.analysis.initial_ranges import Initialization, InitialRange
from tfmp.analysis.initializing import initialization
from tfmp.analysis.points import Point
from tfmp.analysis.search_results import SearchResult
from tfmp.analysis.searching import search
from tfmp.analysis.sensitivities import sensitivity

__all__ = [
    "Agreement",
    "Effect",
    "InitialRange",
    "Initialization",
    "Point",
    "SearchResult",
    "Sensitivity",
    "compare",
    "initialization",
    "search",
    "sensitivity",
    "spearman",
]
