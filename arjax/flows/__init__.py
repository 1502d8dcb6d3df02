"""Normalizing flows: invertible networks between continuous data and noise, and models made of them."""

from arjax.flows.autoregressive import Autoregressive as Autoregressive
from arjax.flows.autoregressive import iaf as iaf
from arjax.flows.autoregressive import maf as maf
from arjax.flows.elementwise import ActNorm as ActNorm
from arjax.flows.elementwise import Elementwise as Elementwise
from arjax.flows.elementwise import Logit as Logit
from arjax.flows.elementwise import Permutation as Permutation
from arjax.flows.flow import Chain as Chain
from arjax.flows.flow import Flow as Flow
from arjax.flows.flow import Inverse as Inverse
from arjax.flows.flow import Standard as Standard
