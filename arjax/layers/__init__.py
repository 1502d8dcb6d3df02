"""The layers are the library: compose them into a causal network and every sampler works with it.

**Where to start.** A network shifts its input once, where it enters (`arjax.layers.shift.entry_shift`); every
layer after that sees the present position too. Integers enter by `arjax.layers.encoding`; positions are mixed by
`arjax.layers.conv` (sequences `CausalConv`, images `RasterConv`), `arjax.layers.attention`,
`arjax.layers.recurrent` and, within a vector, `arjax.layers.dense`; a condition is added by
`arjax.layers.conditioning`. Layers that do not mix positions are those of Flax.
"""

from arjax.layers.attention import Attention as Attention
from arjax.layers.attention import Dense as Dense
from arjax.layers.attention import Fixed as Fixed
from arjax.layers.attention import Local as Local
from arjax.layers.attention import Strided as Strided
from arjax.layers.conditioning import Classes as Classes
from arjax.layers.conditioning import Deconvolution as Deconvolution
from arjax.layers.conditioning import Map as Map
from arjax.layers.conditioning import Several as Several
from arjax.layers.conditioning import Upsampling as Upsampling
from arjax.layers.conditioning import Vector as Vector
from arjax.layers.conditioning import check_length as check_length
from arjax.layers.conditioning import check_size as check_size
from arjax.layers.conditioning import condition as condition
from arjax.layers.context import Context as Context
from arjax.layers.conv import CausalConv as CausalConv
from arjax.layers.conv import RasterConv as RasterConv
from arjax.layers.dense import MaskedDense as MaskedDense
from arjax.layers.encoding import Embedding as Embedding
from arjax.layers.encoding import check_images as check_images
from arjax.layers.encoding import check_sequences as check_sequences
from arjax.layers.encoding import concat_channels as concat_channels
from arjax.layers.encoding import coordinates as coordinates
from arjax.layers.encoding import one_hot as one_hot
from arjax.layers.encoding import scale as scale
from arjax.layers.recurrent import Recurrent as Recurrent
from arjax.layers.shift import ABSENT as ABSENT
from arjax.layers.shift import entry_shift as entry_shift
from arjax.layers.shift import neighbours as neighbours
from arjax.layers.shift import shift as shift
