"""Reads the text of an HLO program: which products it has, and their kernels.

The same for the program that XLA is given and for what a GPU compiler made of
it: there a product is an instruction inside a fusion, or a call of a library.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from tfmp._inspection import arithmetic

COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([\w\-]+)\(")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
OPERAND = re.compile(r"%([\w.\-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
FUSION_KIND = re.compile(r'"kind":"([^"]+)"')
CALLED = re.compile(
    r"(?:to_apply|calls|body|condition|called_computations"
    r"|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%[\w.\-]+)"
)
LIBRARY = re.compile(
    r'custom_call_target="__(cublas\$lt|cublas|cudnn)'
    r'(?:\$(?:matmul|gemm|conv))[^"]*"'
)
KERNEL = {"fusion", "custom-call", "copy", "copy-start"}


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
        name: unique in the program.
        type: the text of its result's type.
        opcode: what it does.
        operands: names of what it takes.
        rest: the text from its operands on.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        return [
            name
            for group in CALLED.findall(self.rest)
            for name in OPERAND.findall(group)
        ]

    @property
    def op_name(self) -> str:
        """TensorFlow's name of it, "" without one."""
        found = OP_NAME.search(self.rest)
        return found.group(1) if found else ""


@dataclasses.dataclass
class Computation:
    """A function of a program: its instructions in order, by name."""

    instructions: dict[str, Instruction] = dataclasses.field(
        default_factory=dict
    )
    roots: list[str] = dataclasses.field(default_factory=list)

    def live(self) -> list[Instruction]:
        """Returns the instructions whose results are used, in order."""
        used: set[str] = set()
        waiting = list(self.roots)
        while waiting:
            name = waiting.pop()
            if name not in used and name in self.instructions:
                used.add(name)
                waiting += self.instructions[name].operands
        return [i for i in self.instructions.values() if i.name in used]


class Product(NamedTuple):
    """A matrix product or convolution of a program.

    Attributes:
        name: TensorFlow's name of it, functions around it included.
        operands: element types of both factors.
        result: element type.
        size: of the product as `m x k x n`.
        flops: two for each multiply-add; zeros that a convolution pads or
            dilates with do not count.
        kernel: `"triton"`, `"cublaslt"`, `"cublas"`, `"cudnn"`, or `"xla"` if
            it is none of these.
        gradient_of: the factor it says to be the gradient of, or "".
        in_loop: whether it is inside a loop, and runs several times.
    """

    name: str
    operands: tuple[str, str]
    result: str
    size: str
    flops: int
    kernel: str
    gradient_of: str
    in_loop: bool

    @property
    def is_float8(self) -> bool:
        """Whether both factors are FP8."""
        return all(kind.startswith("f8") for kind in self.operands)


class Program:
    """A program, from its text.

    Args:
        text: as XLA prints it.

    Attributes:
        computations: its functions, by name.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self._entry = ""
        current = Computation()
        for line in text.splitlines():
            header = COMPUTATION.match(line)
            if header:
                current = self.computations[header.group(2)] = Computation()
                self._entry = (
                    header.group(2) if header.group(1) else self._entry
                )
            elif found := INSTRUCTION.match(line):
                instruction = _instruction(found.group(2), line[found.end() :])
                current.instructions[instruction.name] = instruction
                if found.group(1) or "has_side_effect=true" in line:
                    current.roots.append(instruction.name)

    @property
    def kernels(self) -> int:
        """How many fusions, library calls and copies the program launches.

        Of a condition, those of the branch that has most.
        """
        return self._kernels(self._entry)

    def _kernels(self, name: str) -> int:
        every = self.computations[name].instructions.values()
        branches = (x.called for x in every if x.opcode == "conditional")
        return sum(x.opcode in KERNEL for x in every) + sum(
            max(map(self._kernels, each), default=0) for each in branches
        )

    def products(self) -> list[Product]:
        """Returns what the program multiplies and does not throw away."""
        return list(self._products(self._entry, "", "xla", False))

    def _products(
        self, name: str, prefix: str, kernel: str, in_loop: bool
    ) -> Iterator[Product]:
        computation = self.computations[name]
        for each in computation.live():
            names = [n for n in (prefix, each.op_name) if n]
            if each.opcode in ("dot", "convolution"):
                yield _product(
                    each, computation, "/".join(names), kernel, in_loop
                )
            elif library := LIBRARY.search(each.rest):
                by = library.group(1).replace("$", "")
                yield _product(each, computation, "/".join(names), by, in_loop)
            loops = in_loop or each.opcode == "while"
            inner = "/".join(names) if each.opcode == "call" else prefix
            for called in each.called:
                if called in self.computations:
                    by = _kernel(each, kernel)
                    yield from self._products(called, inner, by, loops)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode = OPCODE.match(text, end)
    if opcode is None:
        return Instruction(name, text[:end], "", (), text[end:])
    close = _closing(text, opcode.end() - 1)
    operands = OPERAND.findall(text, opcode.end(), close)
    return Instruction(
        name,
        text[:end],
        opcode.group(1),
        tuple(operands),
        text[opcode.end() :],
    )


def _closing(text: str, start: int) -> int:
    """Returns the place behind the bracket that closes the one at `start`."""
    depth = 0
    for bracket in re.compile("[()]").finditer(text, start):
        depth += 1 if bracket.group() == "(" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _kernel(instruction: Instruction, around: str) -> str:
    """Returns whose kernel a computation is part of."""
    kind = FUSION_KIND.search(instruction.rest)
    if instruction.opcode != "fusion" or kind is None:
        return around
    known = [n for n in ("triton", "cudnn", "cublas") if n in kind.group(1)]
    return known[0] if known else around


def _product(
    instruction: Instruction,
    computation: Computation,
    name: str,
    kernel: str,
    in_loop: bool,
) -> Product:
    given = [
        _array(computation.instructions[operand].type)
        for operand in instruction.operands[:2]
    ]
    kind, shape = _array(instruction.type)
    lhs, rhs = (lengths for _, lengths in given)
    size, flops = arithmetic.measure(instruction.rest, lhs, rhs, shape)
    sides = {"grad_x": "lhs", "grad_y": "rhs"}
    written = re.search(r'(grad_[xy])="true"', instruction.rest)
    return Product(
        name,
        (given[0][0], given[1][0]),
        kind,
        size,
        flops,
        kernel,
        sides[written.group(1)] if written else "",
        in_loop,
    )


def _array(text: str) -> tuple[str, tuple[int, ...]]:
    """Returns element type and lengths of the first array in a type."""
    found = ARRAY.search(text)
    if found is None:
        return "?", ()
    lengths = tuple(int(n) for n in found.group(2).split(",") if n)
    return found.group(1), lengths
