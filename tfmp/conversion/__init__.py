"""Any Keras model in FP8: converted in place, and back."""

from tfmp._keras import first_use
from tfmp.conversion.conversion_report import ConversionReport
from tfmp.conversion.converter import convert, revert, set_precision
from tfmp.conversion.defaults import DEFAULTS
from tfmp.conversion.float32_predictions import install

__all__ = ["DEFAULTS", "ConversionReport", "convert", "revert", "set_precision"]

# Models of any maker are trained by Keras: this is where metrics are seen.
first_use.on_first_use(install)
