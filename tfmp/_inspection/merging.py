"""Products that XLA has merged into a larger one, which it names after one.

What they were is cut out of the result again, by slices that keep their names.
"""

from __future__ import annotations

from tfmp._inspection.hlo import Instruction, Program


def sources(program: Program) -> dict[str, set[str]]:
    """Returns, by the name of slices, the names of what they are cut from.

    Args:
        program: as compiled.
    """
    callers: dict[str, Instruction] = {}
    every: dict[str, tuple[str, Instruction]] = {}
    for where, computation in program.computations.items():
        for each in computation.instructions.values():
            every[each.name] = where, each
            callers |= dict.fromkeys(each.called, each)
    found: dict[str, set[str]] = {}
    for _, each in every.values():
        if each.opcode == "slice":
            name, at = each.op_name, each.name
            while at and every[at][1].op_name in ("", name):
                at = _before(*every[at], callers)
            found.setdefault(name, set()).add(at and every[at][1].op_name)
    return found


def _before(
    where: str, instruction: Instruction, callers: dict[str, Instruction]
) -> str:
    """Returns the name of what an instruction takes, "" if there is none."""
    operands, at = instruction.operands, 0
    if instruction.opcode == "parameter":
        operands = callers[where].operands if where in callers else ()
        at = int(instruction.rest.split(")")[0])
    return operands[at] if at < len(operands) else ""
