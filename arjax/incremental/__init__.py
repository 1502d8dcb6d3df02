"""Cached samplers derived from the parallel pass: of any causal function what one step of it has to compute.

**The idea.** A function from data to the parameters of all conditionals is traced to a jaxpr and interpreted, one
rule for each primitive (`rules`), along the axis of positions. An array is not computed: it is known by where
that axis lies in it, how far it lags behind the input, and by nodes for the few of its indices that belong to a
step. A rule says how an index of the result is made of indices of the operands; those that belong to earlier
steps come from memories, which a loop carries. What does not depend on the input is computed before the loop. A
node is computed when it is asked for: first the parameters of a position, then, once the position is drawn, what
the memories need of it.

**What there is.** `Loop` and `Parts` are a `level.Level`, the four kinds of memory a `memories.Memory`.

                    what it is                                    made by              read by          lasts
    Loop            a function along an axis, step by step        loops.looped,        Stepper, Period  a call
                                                                  loops.in_blocks
    Parts           the same, all positions in one step           loops.interpreted    Period           a call
    Const           an array that does not depend on the input    rules                rules            a trace
    Tracked         one that does: axis, lag, pieces of a step    rules                rules            a trace
    Late            one known after the last position, and why    rules                loops.check      a trace
    Node            a value of a step, a function of other nodes  rules, memories      compute          a step
    Window          memory of an array's latest few indices       Loop.taps            nodes            a loop
    Ring            of many, a ring buffer                        Loop.taps, look-ups  nodes            a loop
    KVCache         of all, as keys and values are read           rules of products    nodes            a loop
    RecurrentState  of a scan's carry, of a running total         rules of recurrence  nodes            a loop
    Stepper         the body of a loop: memories in and out       sampled, streams     lax.scan         a loop
    Period          the positions of a step, one after the other  Stepper, sampled     Stepper          a step
    Context         what levels share: how to draw, Facts         sample, streams      Stepper, Period  a call

A step of a network with strides is a period of several positions, which are drawn one after the other. A step of
a sampler in blocks is several positions too, which are drawn together, by a `draw_row`; there a piece of an array
is as many indices, and the same rules make it. The level of the rows is made first, and that
of the columns while a step of the rows is traced. A memory is asked for while a function is interpreted, and is
as long as the farthest of its reads. It begins as `initial()`, zeros and what is known before the first position,
or, where a prompt was absorbed in one parallel pass, as `after(whole, steps)`; a step reads it, and once its
positions are drawn it becomes `new`. It ends with its loop: of rows with the image, of columns with the row.
Those of a stream are handed out instead, and handed in with its next part (`streams`).

**An example.** `y_t = 3 x_{t-2} + 2 x_{t-1}`, as a shift and a convolution of two taps: a step makes one piece of
it, of two windows, and nothing of `x_t`, so that this can be drawn from it.

    >>> import jax.numpy as jnp
    >>> from jax import lax
    >>> from arjax.incremental.level import Loop
    >>> from arjax.incremental.values import Facts, compute
    >>> kernel = jnp.array([3.0, 2.0]).reshape(2, 1, 1)
    >>> def function(x):
    ...     before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    ...     layout = ("NWC", "WIO", "NWC")
    ...     return lax.conv_general_dilated(before, kernel, (1,), [(1, 0)], dimension_numbers=layout)
    >>> loop = Loop(function, jnp.zeros((1, 8, 1)), axis=1, facts=Facts())
    >>> y = loop.outs[0]
    >>> y.axis, y.lag, len(y.pieces), y.pieces[0].last  # of the step's own positions it needs none: -1
    (1, 0, 1, -1)
    >>> windows = loop.carried(y.pieces)
    >>> [(type(memory).__name__, int(memory.span)) for memory in windows]  # one of `x`, one of `before`
    [('Window', 1), ('Window', 1)]
    >>> memo = {windows[0].node: jnp.full((1, 1, 1), 10.0), windows[1].node: jnp.full((1, 1, 1), 1.0)}
    >>> compute(y.pieces, memo)[0].item()  # the parameters: 3 * 1 + 2 * 10
    23.0
    >>> memo[loop.inputs[0]] = jnp.full((1, 1, 1), 100.0)  # the position is drawn
    >>> [held.item() for held in compute([memory.new for memory in windows], memo)]  # for the next step
    [100.0, 10.0]

**Images and channels.** The step along the rows is a function of a row again. It is traced and interpreted along
the columns, and the step of that along the channels of a pixel, as `Parts` without a loop, which the zeros of
masked kernels make independent. What depends on earlier rows alone is computed once a row. Strides make a step of
several positions: a rule that meets a stride which the step does not have asks for a longer one
(`level.LongerPeriod`), and the function is interpreted again.

**What has rules.** Dense layers, padded and masked convolutions, dilations and strides, attention, `nn.RNN` and
`lax.scan`, running totals and look-ups; each activation is computed once.

**A new rule** is a function `rule(level, eqn, ins) -> outs` in a file of `rules`, registered with the primitive's
name. Where it makes an index of the same index of its operands it is one call of `level.local`; `level.taps`
gives indices of earlier steps. It raises `NoRule` with the reason where it cannot. Every rule is tested alone in
`tests/test_incremental.py`. Where primitives cannot say what a step is, a whole function is given a rule:
`custom(function, rule)`. Examples are `layers.attention.causal_attention` (the keys that a pattern reaches) and
`models.pixelrnn.both_diagonals` (a skewed scan, row by row).

**A refusal** (`NotCausal`) names the operation, its module and the axis. "sums over axis 1, which has the
positions": a mean, a norm or a dense layer mixes all of them. "sees 1 position ahead": a convolution's padding is
on both sides; the first operation that looks ahead is named. "position i sees itself": the input is not shifted.
"not known to be causal": attention without a mask that is known at trace time; `assume_causal=True` lets it pass.
"there is no rule": write one, or use `method="naive"`.
"""

from arjax.incremental.custom import custom as custom
from arjax.incremental.level import NoRule as NoRule
from arjax.incremental.loops import NotCausal as NotCausal
from arjax.incremental.loops import check_causal as check_causal
from arjax.incremental.loops import sample as sample
from arjax.incremental.streams import advance as advance
from arjax.incremental.streams import begin as begin
