"""Cached samplers derived from the parallel pass."""

from arjax.incremental.custom import custom as custom
from arjax.incremental.level import NoRule as NoRule
from arjax.incremental.loops import NotCausal as NotCausal
from arjax.incremental.loops import check_causal as check_causal
from arjax.incremental.loops import sample as sample
from arjax.incremental.streams import advance as advance
from arjax.incremental.streams import begin as begin
