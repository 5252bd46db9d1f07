"""Trains a model in several precisions, and compares what comes out.

| module     | what                                                  |
|------------|-------------------------------------------------------|
| settings   | what a user may choose                                |
| example    | what an example declares                              |
| training   | one model, one policy, one seed                       |
| memory     | how much of it that took at most                      |
| comparison | all policies and seeds, in turns                      |
| summary    | means, deviations, differences; table and gallery     |
| picture    | the metric by epoch, and the differences              |
| files      | finds data that is not shipped, or says how to get it |
"""
