"""The layers are the library: compose them into a causal network and every sampler works with it."""

from arjax.layers.conditioning import Classes as Classes
from arjax.layers.conditioning import Deconvolution as Deconvolution
from arjax.layers.conditioning import Map as Map
from arjax.layers.conditioning import Vector as Vector
from arjax.layers.conditioning import check_size as check_size
from arjax.layers.conditioning import condition as condition
from arjax.layers.conv import CausalConv as CausalConv
from arjax.layers.conv import RasterConv as RasterConv
from arjax.layers.dense import MaskedDense as MaskedDense
from arjax.layers.encoding import check_images as check_images
from arjax.layers.encoding import one_hot as one_hot
from arjax.layers.encoding import scale as scale
from arjax.layers.incremental import ABSENT as ABSENT
from arjax.layers.incremental import delays as delays
from arjax.layers.incremental import entry_shift as entry_shift
from arjax.layers.incremental import from_above as from_above
from arjax.layers.incremental import is_incremental as is_incremental
from arjax.layers.incremental import once as once
