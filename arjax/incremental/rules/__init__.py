"""Rules by primitive: what an operation makes of arrays of which a step has some indices."""

from arjax.incremental.rules import convolutions as convolutions
from arjax.incremental.rules import local as local
from arjax.incremental.rules import lookups as lookups
from arjax.incremental.rules import products as products
from arjax.incremental.rules import recurrence as recurrence
from arjax.incremental.rules import shapes as shapes
from arjax.incremental.rules import windows as windows
