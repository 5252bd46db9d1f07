"""tfmp._core.equations, held against np.einsum and np.matmul.

Operands hold small integers in float64, so that every sum is exact.
"""

import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tfmp._core import equations
from tfmp._core.equations import Contraction, Parsed, parse

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def integers(shape, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(-8, 9, shape).astype(np.float64)


def dot_general(contraction, lhs, rhs):
    """Contracts by the axes alone, as `stablehlo.dot_general` would."""
    batch, summed = contraction.batch_axes, contraction.contracting_axes
    matrices, free = [], []
    for which, x in enumerate((lhs, rhs)):
        used = batch[which] + summed[which]
        free_axes = [a for a in range(x.ndim) if a not in used]
        order = (*batch[which], *free_axes, *summed[which])
        lengths = [x.shape[a] for a in batch[which]]
        depth = int(np.prod([x.shape[a] for a in summed[which]]))
        free.append([x.shape[a] for a in free_axes])
        matrices.append(x.transpose(order).reshape([*lengths, -1, depth]))
    left, right = (m.shape[:-2] for m in matrices)
    assert left == right, "NumPy would broadcast"
    result = matrices[0] @ np.swapaxes(matrices[1], -1, -2)
    result = result.reshape([*lengths, *free[0], *free[1]])
    return result.transpose(contraction.permutation)


def product(parsed, lhs, rhs):
    lhs = np.squeeze(lhs, parsed.lhs_squeeze)
    rhs = np.squeeze(rhs, parsed.rhs_squeeze)
    return dot_general(parsed.contraction, lhs, rhs)


def gradients(parsed, lhs, rhs, upstream):
    """Returns what the two gradient contractions say."""
    low = np.squeeze(lhs, parsed.lhs_squeeze)
    high = np.squeeze(rhs, parsed.rhs_squeeze)
    c = parsed.contraction
    return (
        dot_general(c.lhs_gradient, upstream, high).reshape(lhs.shape),
        dot_general(c.rhs_gradient, low, upstream).reshape(rhs.shape),
    )


@st.composite
def terms(draw):
    """Draws an equation, and two shapes that it fits."""
    letters = draw(st.permutations(LETTERS))
    counts = draw(st.tuples(*[st.integers(0, 2)] * 4))
    groups = []
    for count in counts:
        groups.append(letters[:count])
        letters = letters[count:]
    batch, summed, left, right = groups
    sizes = {c: draw(st.integers(1, 3)) for group in groups for c in group}
    dots = draw(st.lists(st.integers(1, 3), max_size=2))
    has_dots = draw(st.tuples(st.booleans(), st.booleans()))
    shapes, written = [], []
    for labels, with_dots in zip((left, right), has_dots, strict=True):
        term = draw(st.permutations(batch + summed + labels))
        axes = [(sizes[c],) for c in term]
        if with_dots:
            where = draw(st.integers(0, len(term)))
            start = draw(st.integers(0, len(dots)))
            kept = [draw(st.sampled_from([1, n])) for n in dots[start:]]
            term.insert(where, "...")
            axes.insert(where, tuple(kept))
        shapes.append(sum(axes, ()))
        written.append("".join(term))
    equation = ",".join(written)
    if batch or draw(st.booleans()):
        result = draw(st.permutations(batch + left + right))
        if any(has_dots):
            result.insert(draw(st.integers(0, len(result))), "...")
        equation += "->" + "".join(result)
    if draw(st.booleans()):
        equation = f" {equation} ".replace(",", " , ").replace("->", " -> ")
    return equation, *shapes


@hypothesis.settings(max_examples=300)
@hypothesis.given(terms(), st.integers(0, 2**32))
def test_product(case, seed):
    equation, lhs_shape, rhs_shape = case
    lhs, rhs = integers(lhs_shape, [seed, 0]), integers(rhs_shape, [seed, 1])
    parsed = parse(equation, lhs_shape, rhs_shape)
    expected = np.einsum(equation, lhs, rhs)
    np.testing.assert_array_equal(product(parsed, lhs, rhs), expected)


@hypothesis.settings(max_examples=200)
@hypothesis.given(terms(), st.integers(0, 2**32))
def test_gradients(case, seed):
    equation, *shapes = case
    lhs, rhs, d_lhs, d_rhs = (
        integers(shape, [seed, i]) for i, shape in enumerate([*shapes, *shapes])
    )
    parsed = parse(equation, *shapes)
    upstream = integers(np.einsum(equation, lhs, rhs).shape, [seed, 4])
    got_lhs, got_rhs = gradients(parsed, lhs, rhs, upstream)
    # A product is linear in each operand, so its derivative along any
    # direction is the product with that direction: no step, no rounding.
    along_lhs = np.sum(np.einsum(equation, d_lhs, rhs) * upstream)
    along_rhs = np.sum(np.einsum(equation, lhs, d_rhs) * upstream)
    assert np.sum(got_lhs * d_lhs) == along_lhs
    assert np.sum(got_rhs * d_rhs) == along_rhs


SWAPPED = [
    # equation, gradient of the first operand, of the second
    ("ab,bc->ac", "ac,bc->ab", "ab,ac->bc"),
    ("ab,bc->ca", "ca,bc->ab", "ab,ca->bc"),
    ("bij,jk->bik", "bik,jk->bij", "bij,bik->jk"),
    ("bij,bjk->ikb", "ikb,bjk->bij", "bij,ikb->bjk"),
    ("abcd,cdef->abfe", "abfe,cdef->abcd", "abcd,abfe->cdef"),
    ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "bqhd,bhqk->bkhd"),
    ("a,b->ab", "ab,b->a", "a,ab->b"),
    ("a,a->", ",a->a", "a,->a"),
    ("a,a->a", "a,a->a", "a,a->a"),
]


@pytest.mark.parametrize(("equation", "of_lhs", "of_rhs"), SWAPPED)
def test_gradients_swap_the_terms(equation, of_lhs, of_rhs):
    lhs_term, rhs_term, _ = re.split(",|->", equation)
    sizes = dict(zip("abcdefhijkq", range(2, 13), strict=True))
    lhs = integers([sizes[c] for c in lhs_term], 1)
    rhs = integers([sizes[c] for c in rhs_term], 2)
    parsed = parse(equation, lhs.shape, rhs.shape)
    upstream = integers(np.einsum(equation, lhs, rhs).shape, 3)
    got_lhs, got_rhs = gradients(parsed, lhs, rhs, upstream)
    np.testing.assert_array_equal(got_lhs, np.einsum(of_lhs, upstream, rhs))
    np.testing.assert_array_equal(got_rhs, np.einsum(of_rhs, lhs, upstream))


@hypothesis.given(terms())
def test_labels_fall_in_three_groups(case):
    c = parse(*case).contraction
    lhs, rhs, out = set(c.lhs), set(c.rhs), set(c.out)
    assert set(c.batch) == lhs & rhs & out
    assert set(c.contracting) == lhs & rhs - out
    assert sorted(c.natural) == sorted(c.out)
    assert out - set(c.batch) == lhs ^ rhs
    for first, second in (c.batch_axes, c.contracting_axes):
        assert [c.lhs[i] for i in first] == [c.rhs[i] for i in second]
    assert "".join(c.natural[i] for i in c.permutation) == c.out
    assert c.lhs_gradient.lhs_gradient == c == c.rhs_gradient.rhs_gradient


@hypothesis.settings(max_examples=500)
@hypothesis.given(
    st.text("abAB.,-> ", max_size=12).map(lambda t: t.replace(".", "...")),
    st.lists(st.sampled_from([1, 2]), max_size=3),
    st.lists(st.sampled_from([1, 2]), max_size=3),
)
def test_any_text_is_an_error_or_right(equation, lhs_shape, rhs_shape):
    try:
        parsed = parse(equation, lhs_shape, rhs_shape)
    except ValueError as error:
        assert repr(equation) in str(error)
        return
    lhs, rhs = integers(lhs_shape, 1), integers(rhs_shape, 2)
    expected = np.einsum(equation.replace(" ", ""), lhs, rhs)
    np.testing.assert_array_equal(product(parsed, lhs, rhs), expected)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    ("lhs_shape", "rhs_shape"),
    [
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (1, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((1, 2, 3), (1, 3, 4)),
        ((6, 1, 2, 3), (1, 5, 3, 4)),
        ((6, 5, 1, 3), (5, 3, 1)),
        ((1, 5, 2, 3), (7, 6, 5, 3, 4)),
        ((0, 2, 3), (3, 4)),
        ((2, 0), (0, 4)),
    ],
)
def test_matmul(lhs_shape, rhs_shape, transpose_a, transpose_b):
    lhs, rhs = integers(lhs_shape, 1), integers(rhs_shape, 2)
    expected = np.matmul(lhs, rhs)
    lhs = np.swapaxes(lhs, -1, -2) if transpose_a else lhs
    rhs = np.swapaxes(rhs, -1, -2) if transpose_b else rhs
    equation = equations.matmul(lhs.ndim, rhs.ndim, transpose_a, transpose_b)
    np.testing.assert_array_equal(np.einsum(equation, lhs, rhs), expected)
    if 0 not in lhs_shape:  # else `reshape` cannot guess
        parsed = parse(equation, lhs.shape, rhs.shape)
        np.testing.assert_array_equal(product(parsed, lhs, rhs), expected)


@pytest.mark.parametrize(
    ("ranks", "name"), [((1, 2), "a"), ((2, 1), "b"), ((0, 0), "a")]
)
def test_matmul_of_a_low_rank(ranks, name):
    with pytest.raises(ValueError) as caught:
        equations.matmul(*ranks, False, False)
    received = ranks["ab".index(name)]
    assert str(caught.value) == (
        f"`{name}` must have a rank of 2 or more. Received: rank {received}"
    )


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ab,bc", ((2, 3), (3, 4)), ("ab", "bc", "ac")),
        ("ba,bc", ((2, 3), (2, 4)), ("ba", "bc", "ac")),
        ("bA,bC", ((2, 3), (2, 4)), ("bA", "bC", "AC")),
        ("...a,ab", ((5, 2), (2, 3)), ("Za", "ab", "Zb")),
        ("...Z,Zb", ((5, 2), (2, 3)), ("YZ", "Zb", "Yb")),
        ("a...,...b->ba...", ((2, 5), (5, 3)), ("aZ", "Zb", "baZ")),
        ("...,...->...", ((6, 5), (5,)), ("YZ", "Z", "YZ")),
        (",->", ((), ()), ("", "", "")),
        ("ab, bc -> ac", ((2, 3), (3, 4)), ("ab", "bc", "ac")),
    ],
)
def test_labels(equation, shapes, expected):
    assert parse(equation, *shapes) == Parsed(Contraction(*expected))


@pytest.mark.parametrize(
    ("shapes", "squeezed"),
    [
        (((5, 2, 3), (5, 3, 4)), ((), ())),
        (((1, 2, 3), (1, 3, 4)), ((), ())),
        (((5, 2, 3), (1, 3, 4)), ((), (0,))),
        (((1, 2, 3), (5, 3, 4)), ((0,), ())),
        (((None, 2, 3), (None, 3, 4)), ((), ())),
        (((None, 2, 3), (5, 3, 4)), ((), ())),
        # Whatever the unknown length is, the 1 can go.
        (((None, 2, 3), (1, 3, 4)), ((), (0,))),
        (((1, 2, 3), (None, 3, 4)), ((0,), ())),
    ],
)
def test_squeezed_axes(shapes, squeezed):
    parsed = parse("...ij,...jk->...ik", *shapes)
    assert (parsed.lhs_squeeze, parsed.rhs_squeeze) == squeezed


@pytest.mark.parametrize("lengths", [(None, 3), (None, 1), (1, None)])
def test_an_unknown_length_fits_any_label(lengths):
    parsed = parse("ab,bc->ac", (2, lengths[0]), (lengths[1], 4))
    assert parsed == Parsed(Contraction("ab", "bc", "ac"))


ERRORS = [
    # equation, ranks, what is wrong with it
    ("aab,bc->ac", (3, 2), "repeats the label 'a'"),
    ("ab,bcc->ac", (2, 3), "repeats the label 'c'"),
    ("ab,bc->aca", (2, 2), "repeats the label 'a'"),
    ("ab,bc->acd", (2, 2), "has 'd' only in its result"),
    ("ab,bc->a1", (2, 2), "has '1' only in its result"),
    ("ab,bc->a,c", (2, 2), "has ',' only in its result"),
    ("ab,bc->ac->", (2, 2), "has '-' only in its result"),
    ("ab,bc->c", (2, 2), "sums over 'a', which only one operand has"),
    ("ab,bcd->ac", (2, 3), "sums over 'd', which only one operand has"),
    ("ab->ab", (2, 2), "has 1 operands, not two"),
    ("", (0, 0), "has 1 operands, not two"),
    ("ab,bc,cd->ad", (2, 2), "has 3 operands, not two"),
    ("ab,bc->ac", (3, 2), "does not fit its first operand of rank 3: 'ab'"),
    ("ab,bc->ac", (2, 1), "does not fit its second operand of rank 1: 'bc'"),
    ("...ab,bc->...ac", (1, 2), "does not fit its first operand of rank 1"),
    ("a1,1c->ac", (2, 2), "has a label that is no letter in 'a1'"),
    ("ab,b.c->ac", (2, 3), "has a label that is no letter in 'b.c'"),
    ("..ab,bc->ac", (3, 2), "has a label that is no letter in '..ab'"),
    ("...a...,ab->b", (3, 2), "has a label that is no letter in '...a...'"),
    ("ab\t,bc->ac", (2, 2), "has a label that is no letter in 'ab\t'"),
    ("äb,bc->äc", (2, 2), "has a label that is no letter in 'äb'"),
    ("...ab,bc->ac", (3, 2), "drops the axes of its ellipsis"),
    ("ab,...bc->ac", (2, 3), "drops the axes of its ellipsis"),
    (f"...{LETTERS[:20]}{LETTERS[26:]},a", (50, 1), "has too many axes"),
]


@pytest.mark.parametrize(("equation", "ranks", "problem"), ERRORS)
def test_errors(equation, ranks, problem):
    lhs_shape, rhs_shape = ([2] * rank for rank in ranks)
    with pytest.raises(ValueError) as caught:
        parse(equation, lhs_shape, rhs_shape)
    message = str(caught.value)
    assert message.startswith(f"`equation` {problem}")
    assert "Allowed: two operands whose labels are each shared" in message
    assert message.endswith(f"Received: {equation!r}")


@pytest.mark.parametrize(
    ("equation", "lhs_shape", "rhs_shape", "label"),
    [
        ("ab,bc->ac", (2, 3), (4, 5), "b"),
        ("ab,bc->ac", (2, 3), (1, 5), "b"),
        ("ab,bc->ac", (2, 1), (3, 5), "b"),
        ("bij,bjk->bik", (2, 3, 4), (1, 4, 5), "b"),
        ("...ij,...jk->...ik", (2, 3, 4), (5, 4, 6), "Z"),
        ("...ij,jk->...ik", (2, 3, 4), (5, 6), "j"),
    ],
)
def test_lengths_that_differ(equation, lhs_shape, rhs_shape, label):
    with pytest.raises(ValueError) as caught:
        parse(equation, lhs_shape, rhs_shape)
    assert str(caught.value) == (
        f"`equation` {equation!r} needs equal lengths for label '{label}'. "
        f"Received: `a` of shape {lhs_shape} and `b` of shape {rhs_shape}"
    )


@pytest.mark.parametrize("equation", [None, 1, b"ab,bc->ac", ["ab", "bc"]])
def test_an_equation_is_a_string(equation):
    with pytest.raises(TypeError) as caught:
        parse(equation, (2, 2), (2, 2))
    assert str(caught.value) == (
        f"`equation` must be a string. Received: {equation!r}"
    )
