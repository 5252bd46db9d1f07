"""The global policy, and what the hardware is good at."""

from tfmp._configuration.configuration import Configuration, configure
from tfmp._configuration.scopes import policy_scope, set_global_policy

__all__ = [
    "Configuration",
    "configure",
    "policy_scope",
    "set_global_policy",
]
