"""The layers that change their precision, and where each one stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfmp import policies, recipes
from tfmp._monitoring.operators import Operator, operators
from tfmp._switching import hysteresis, precisions
from tfmp._switching.hysteresis import DOWN, UP, PrecisionRule, Rung
from tfmp._switching.switch import Wanted, news, present, switch
from tfmp.conversion.conversion_report import ConversionReport
from tfmp.conversion.defaults import PRODUCT, default_of
from tfmp.conversion.records import flatten
from tfmp.policies.precision_map import PrecisionMap

Moves = dict[str, tuple[int, str]]  # place and reason, by path
COUNTS = ("ups", "changes", "bad", "calm")
Tensors = dict[str, dict[str, float]]  # statistics, by <operator>/<role>


class Ladder:
    """Moves layers between precisions, by what is observed of them.

    Args:
        model: built.
        ladder: policies from low to high.
        rule: when a layer moves.
        patterns: of paths of layers; None for all with products.

    Raises:
        ValueError: if no layer has one of these policies.
    """

    def __init__(
        self,
        model: keras.Model,
        ladder: Sequence[keras.DTypePolicy],
        rule: PrecisionRule,
        patterns: Sequence[str] | None,
    ) -> None:
        self._model, self._ladder, self.rule = model, list(ladder), rule
        self._report = ConversionReport(model)
        self._recipes = [policies.recipe_of(policy) for policy in ladder]
        self._layers = flatten(model)
        self.rungs = self._found(patterns)
        if not self.rungs:
            raise ValueError(
                "`ladder` must have the policy of one or more layers with "
                f"products that `layers` names. Received: ladder={ladder} for "
                f"the model {model.name!r}"
            )

    def _found(self, patterns: Sequence[str] | None) -> dict[str, Rung]:
        chosen = dict.fromkeys(
            [".*"] if patterns is None else patterns, "float32"
        )
        names = PrecisionMap(chosen, "float32")
        plans = [
            precisions.checked("ladder", policy).decisions(
                self._model, self._model.name
            )
            for policy in self._ladder
        ]
        found = {}
        for path, policy in present(self._model).items():
            layer = self._layers[path]
            named = names.match(path, layer.path or path)
            at = self._place(policy)
            if named and at is not None and default_of(layer) is PRODUCT:
                able = [
                    i
                    for i, plan in enumerate(plans)
                    if path in plan
                    and precisions.same(plan[path][0], self._ladder[i])
                ]
                lowest = min([*able, at])
                found[path] = Rung(at, lowest, len(self._ladder) - 1)
        return found

    def _place(self, policy: keras.DTypePolicy) -> int | None:
        for at, rung in enumerate(self._ladder):
            if precisions.same(policy, rung):
                return at
        return None

    def follow(self) -> None:
        """Takes note of precision that others have changed since."""
        for path, policy in present(self._model).items():
            at, rung = self._place(policy), self.rungs.get(path)
            if rung is not None and at is not None and at != rung.at:
                rung.at, rung.lowest = at, min(at, rung.lowest)
                rung.bad = rung.calm = 0

    def get_state(self) -> dict[str, Any]:
        """Returns the counts of each layer, by its path."""
        return {
            path: {name: getattr(rung, name) for name in COUNTS}
            for path, rung in self.rungs.items()
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back the counts, when precision is what it was then."""
        self.follow()
        for path in state.keys() & self.rungs.keys():
            vars(self.rungs[path]).update(state[path])

    def policy(self, path: str) -> keras.DTypePolicy:
        """Returns the policy of a layer where it stands."""
        return self._ladder[self.rungs[path].at]

    def state(self) -> dict[str, float]:
        """Returns the bits of each layer, and what share of FLOPs is FP8."""
        widths = {
            f"{path}/bits": precisions.bits(self.policy(path))
            for path in self.rungs
        }
        return {**widths, "float8_share": self._report.float8_share}

    def shadows(self) -> dict[str, Operator]:
        """Returns what to ask about: layers not in FP8 that may come down."""
        found = {}
        for path, rung in self.rungs.items():
            recipe = self._recipes[max(0, rung.at - 1)]
            if self._recipes[rung.at] is None and rung.at > rung.lowest:
                if recipe is not None:
                    layer = self._layers[path]
                    found[path] = Operator(layer, "", recipe.as_current())
        return found

    def observe(self, measured: Mapping[str, float]) -> Moves:
        """Takes in what was measured, and returns what is due.

        Args:
            measured: by `<operator>/<role>/<statistic>`.

        Returns:
            The place that a layer is to have, and why, by its path.
        """
        moves: Moves = {}
        every = self._tensors(measured)
        for path, rung in self.rungs.items():
            tensors = every[path]
            asked = self._recipes[rung.at] or self._recipes[max(0, rung.at - 1)]
            if asked is not None and not tensors:
                continue
            bad = ""
            if self._recipes[rung.at] is not None:
                bad = _first_trouble(self.rule.up, tensors)
            calm = not _first_trouble(self.rule.down, tensors)
            way = rung.look(self.rule, bool(bad), calm)
            if way == UP:
                moves[path] = rung.at + 1, bad
            elif way == DOWN:
                moves[path] = rung.at - 1, self._quiet(rung)
        return moves

    def _quiet(self, rung: Rung) -> str:
        waited = rung.wait(self.rule)
        below = self._recipes[rung.at - 1]
        if below is None:
            return f"{waited} observations without trouble"
        return f"within the bounds of FP8 for {waited} observations"

    def suspects(self, measured: Mapping[str, float]) -> dict[str, str]:
        """Returns the layers to go up if the loss is in trouble, and why.

        Those in FP8 that are out of bounds; or else out of the tighter ones;
        or else all that have the lowest precision of those that can go up.

        Args:
            measured: of a step in trouble; empty if there is no such.
        """
        able = {p: r for p, r in self.rungs.items() if r.can_go_up(self.rule)}
        low = [p for p, r in able.items() if self._recipes[r.at] is not None]
        tensors = self._tensors(measured)
        for bounds in (self.rule.up, self.rule.down):
            said = {p: _first_trouble(bounds, tensors[p]) for p in low}
            if any(said.values()):
                return {path: words for path, words in said.items() if words}
        lowest = min((rung.at for rung in able.values()), default=0)
        return {path: "" for path, rung in able.items() if rung.at == lowest}

    def _tensors(self, measured: Mapping[str, float]) -> dict[str, Tensors]:
        """Returns what was measured of each layer's tensors."""
        own = operators(self._model).items()
        names = {id(operator.layer): name for name, operator in own}
        return {
            path: _of_layer(names.get(id(self._layers[path]), path), measured)
            for path in self.rungs
        }

    def raised(self, suspects: Mapping[str, str], reason: str) -> Moves:
        """Returns the moves after a return to an earlier state.

        A layer is to stand where it stood before the return, a suspect one
        place higher; but none lower than in the state itself.
        """
        now = present(self._model)
        moves: Moves = {}
        for path, rung in self.rungs.items():
            goal = rung.at + (path in suspects)
            there = self._place(now[path])
            place = max(goal, goal if there is None else there)
            words = filter(None, (reason, suspects.get(path)))
            moves[path] = place, "; ".join(words)
        return moves

    def move(self, moves: Moves) -> list[tuple[str, ...]]:
        """Gives layers other places, all or none.

        Returns:
            Of each layer that has moved `UP` or `DOWN`, its path, the names
            of both places, and why.
        """
        wanted = {
            path: Wanted(self._ladder[at], reason)
            for path, (at, reason) in moves.items()
        }
        changed = news(self._model, wanted)
        if changed:
            switch(self._model, changed)
        made = []
        for path, (at, reason) in moves.items():
            rung = self.rungs[path]
            if at != rung.at:
                names = [
                    precisions.label(self._ladder[i]) for i in (rung.at, at)
                ]
                made.append(
                    (UP if at > rung.at else DOWN, path, *names, reason)
                )
            rung.stand(at)
        return made


def _of_layer(name: str, measured: Mapping[str, float]) -> Tensors:
    found: Tensors = {}
    for role in recipes.ROLES:
        where = f"{name}/{role}"
        values = {
            statistic: measured[f"{where}/{statistic}"]
            for statistic in hysteresis.STATISTICS
            if f"{where}/{statistic}" in measured
        }
        if values:
            found[where] = values
    return found


def _first_trouble(bounds: hysteresis.PrecisionBounds, tensors: Tensors) -> str:
    said = (
        hysteresis.trouble(where, bounds, values)
        for where, values in tensors.items()
    )
    return next(filter(None, said), "")
