"""Normalizing flows: invertible networks between continuous data and noise, and models made of them.

**Where to start.** `arjax.flows.autoregressive.maf` for vectors, `arjax.flows.realnvp.real_nvp` and
`arjax.flows.tarflow.tarflow` for images: each makes an `arjax.flows.flow.Flow`, a model as any other, with
`arjax.log_prob` and `arjax.sample`. A flow of your own is a `arjax.flows.flow.Chain` of bijections;
`arjax.flows.images.Dequantised` makes of a flow a model of integers, whose bits/dim compare with those of the
rest.
"""

from arjax.flows.autoregressive import Autoregressive as Autoregressive
from arjax.flows.autoregressive import iaf as iaf
from arjax.flows.autoregressive import maf as maf
from arjax.flows.elementwise import ActNorm as ActNorm
from arjax.flows.elementwise import BatchNorm as BatchNorm
from arjax.flows.elementwise import Elementwise as Elementwise
from arjax.flows.elementwise import Logit as Logit
from arjax.flows.elementwise import Permutation as Permutation
from arjax.flows.flow import Chain as Chain
from arjax.flows.flow import Flow as Flow
from arjax.flows.flow import Inverse as Inverse
from arjax.flows.flow import Standard as Standard
from arjax.flows.images import Dequantised as Dequantised
from arjax.flows.realnvp import Coupling as Coupling
from arjax.flows.realnvp import FactoredOut as FactoredOut
from arjax.flows.realnvp import Perceptron as Perceptron
from arjax.flows.realnvp import ResNet as ResNet
from arjax.flows.realnvp import Squeezed as Squeezed
from arjax.flows.realnvp import real_nvp as real_nvp
from arjax.flows.realnvp import real_nvp_of_vectors as real_nvp_of_vectors
from arjax.flows.tarflow import Patches as Patches
from arjax.flows.tarflow import tarflow as tarflow
