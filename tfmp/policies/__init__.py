"""Which layer gets which precision: a policy, or one for each path."""

from tfmp._support.policy_names import NAMES
from tfmp.policies.frozen_policy import FrozenPolicy as FrozenPolicy
from tfmp.policies.layer_policies import emulates as emulates
from tfmp.policies.layer_policies import frozen_of as frozen_of
from tfmp.policies.layer_policies import of_layer as of_layer
from tfmp.policies.layer_policies import recipe_of_layer as recipe_of_layer
from tfmp.policies.policy import (
    Policy,
    checked,
    get,
    global_policy,
    in_projections,
    policy_at,
    policy_scope,
    recipe_at,
    recipe_of,
    set_global_policy,
)
from tfmp.policies.precision_map import PrecisionMap

__all__ = [
    "NAMES",
    "Policy",
    "PrecisionMap",
    "checked",
    "get",
    "global_policy",
    "in_projections",
    "policy_at",
    "policy_scope",
    "recipe_at",
    "recipe_of",
    "set_global_policy",
]
