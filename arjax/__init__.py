"""Deep autoregressive generative models in JAX and Flax, with exact likelihoods and cached sampling."""

from arjax import continuous as continuous
from arjax import distributions as distributions
from arjax import flows as flows
from arjax import models as models
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
