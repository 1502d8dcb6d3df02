"""Deep autoregressive generative models in JAX and Flax, with exact likelihoods and cached sampling.

**Where to start.** A model is a Linen module (one of `arjax.models`, or your own) whose call is its parallel
pass: integers `(batch, *event)` to the parameters of every conditional. What is done with it is a pure function
of the model, its variables and data:

- the likelihood: `arjax.likelihood.log_prob` in nats, `arjax.likelihood.bits_per_dim`;
- samples, completions and more likely samples: `arjax.sampling.sample`, `arjax.sampling.sample_from_noise`;
- sequences in chunks: `arjax.streaming.start`, `arjax.streaming.extend`;
- trained models: `arjax.pretrained.load`;
- training: `arjax.training.fit`, or `arjax.training.train_step` in a loop of your own; `arjax.checkpoints.load`;
- what a likelihood is for: `arjax.compression`, `arjax.anomaly`, `arjax.fisher`.

These and the classes of models are to be had from the package itself, as `arjax.log_prob` or
`arjax.models.PixelCNN`. To build a network of your own: `arjax.layers`, `arjax.distributions` (of integers),
`arjax.continuous` (of real numbers), `arjax.modules.Causal` for a function; `arjax.incremental` is how its
sampler is derived, and `arjax.incremental.loops.check_causal` says whether it can be. Data sets: `arjax.data`.
"""

from arjax import continuous as continuous
from arjax import distributions as distributions
from arjax import flows as flows
from arjax import models as models
from arjax import pretrained as pretrained
from arjax.incremental import NotCausal as NotCausal
from arjax.incremental import check_causal as check_causal
from arjax.likelihood import bits_per_dim as bits_per_dim
from arjax.likelihood import ensemble_log_prob as ensemble_log_prob
from arjax.likelihood import log_prob as log_prob
from arjax.likelihood import score as score
from arjax.modules import Causal as Causal
from arjax.sampling import sample as sample
from arjax.sampling import sample_from_noise as sample_from_noise
from arjax.streaming import extend as extend
from arjax.streaming import start as start
