"""Cached samplers derived from the parallel pass: of any causal function what one step of it has to compute.

**The idea.** A function from data to the parameters of all conditionals is traced to a jaxpr and interpreted, one
rule for each primitive (`rules`), along the axis of positions. An array is not computed: it is known by where that
axis lies in it, how far it lags behind the input (`lag`), and by nodes for the few of its indices that belong to a
step (`values.Tracked`). A rule says how an index of the result is made of indices of the operands; those that
belong to earlier steps come from memories (`memories`), which a loop carries. What does not depend on the input is
computed before the loop. A node is computed when it is asked for: first the parameters of a position, then, once
the position is drawn, what the memories need of it (`loops`).

**An example.** Of `y = x @ W` along positions a step makes one index, `y_t = x_t @ W`. Take

    before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]                   # shift:  lag -1, then delayed to 0
    h = nn.Conv(8, (2,), kernel_dilation=4, padding="CAUSAL")(before)       # taps:   before_t, before_{t-4}
    y = nn.Dense(3)(h)                                                      # local:  y_t from h_t

    x_t ─> [window of 1] ─> before_t ─┬─────────────────────> concatenate ─> @ kernel ─> h_t ─> @ W ─> y_t
                                      └─> [window of 4] ─> before_{t-4} ─┘

`y_t` needs nothing of `x_t`: it is drawn from, `x_t` enters the windows, and so on. A past of 16 positions or more
is a ring buffer, the keys of attention are kept whole, a `lax.scan` over positions leaves its carry.

**Images and channels.** The step along the rows is a function of a row again. It is traced and interpreted along
the columns, and the step of that along the channels of a pixel, as parts without a loop (`parts`), which the zeros
of masked kernels keep apart. What depends on earlier rows alone is computed once a row. Strides make a step of
several positions: a rule that meets a stride which the step does not have asks for a longer one (`level.Period`).

**A new rule** is a function `rule(level, eqn, ins) -> outs` in a file of `rules`, registered with the primitive's
name. Where it keeps positions apart it is one call of `level.local`; `level.taps` gives indices of earlier steps.
It raises `NoRule` with the reason where it cannot. Every rule is tested alone in `tests/test_incremental.py`.
Where primitives cannot say what a step is, a whole function is given a rule: `custom(function, rule)`. Examples
are `layers.attention.causal_attention` (the keys that a pattern reaches) and `models.pixelrnn.both_diagonals` (a
skewed scan, row by row).

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
