"""Beam search: the likeliest text that a model, token by token, would write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

PADDING, START, END = 0, 1, 2
Step = Callable[[np.ndarray, int], np.ndarray]


def search(step: Step, count: int, length: int, beams: int) -> np.ndarray:
    """Returns the best of several texts, for each of a batch.

    A text's score is the mean of its log probabilities, so that length costs
    nothing; of texts of the same length the sums decide which go on.

    Args:
        step: given texts so far, int32 [count * beams, length], and a place in
            them, returns the logits of the token behind it,
            [count * beams, tokens].
        count: texts to find.
        length: of the longest, in tokens.
        beams: how many texts to keep at each length; 1 is greedy.

    Returns:
        Tokens, int32 [count, length]: without START, with END and padding.
    """
    texts = np.zeros([count, beams, length + 1], "int32")
    texts[..., 0] = START
    scores = np.full([count, beams], -np.inf, "float32")
    scores[:, 0] = 0  # all beams are alike as yet
    ended = np.zeros([count, beams], bool)
    for at in range(length):
        logits = step(texts[..., :-1].reshape(-1, length), at)
        more = log_chances(logits).reshape(count, beams, -1)
        more[ended] = np.where(np.arange(more.shape[-1]) == PADDING, 0, -np.inf)
        total = (scores[..., None] + more).reshape(count, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        scores = np.take_along_axis(total, best, axis=1)
        beam, token = np.divmod(best, more.shape[-1])
        texts = np.take_along_axis(texts, beam[..., None], axis=1)
        texts[..., at + 1] = token
        ended = np.take_along_axis(ended, beam, axis=1) | (token == END)
        if ended.all():
            break
    lengths = np.count_nonzero(texts, axis=2) - 1
    best = np.argmax(scores / lengths, axis=1)
    return texts[np.arange(count), best, 1:]


def log_chances(logits: np.ndarray) -> np.ndarray:
    """Log probabilities in float32, of what may come next."""
    logits = logits.astype("float32")
    logits[:, [PADDING, START]] = -np.inf
    return np.array(ops.log_softmax(logits))
