"""The zoo: one paper, one file, whose first lines name the paper and every deviation from it.

**Where to start.** To read: `arjax.models.histogram`, `arjax.models.chain_rule`, `arjax.models.made`,
`arjax.models.pixelcnn`, in this order. To use: images `arjax.models.gated_pixelcnn`, in colour
`arjax.models.pixelcnnpp`; text and sound `arjax.models.transformer`, `arjax.models.wavenet`, `arjax.models.rnn`;
binary vectors `arjax.models.made`. Models of several stages, each a model in itself, are
`arjax.models.auxiliary`, `arjax.models.subscale`, `arjax.models.parallel_multiscale` and
`arjax.models.multiscale_pixelrnn`.

All have the field `output`, an output distribution, and the call `(x, cond=None, *, train=False)`, from data
`(batch, *event)` to parameters `(batch, *event, output.num_params)`; the functions of `arjax` take them alike.
"""

from arjax.models.auxiliary import Auxiliary as Auxiliary
from arjax.models.chain_rule import ChainRule as ChainRule
from arjax.models.gated_pixelcnn import GatedPixelCNN as GatedPixelCNN
from arjax.models.histogram import Histogram as Histogram
from arjax.models.made import MADE as MADE
from arjax.models.multiscale_pixelrnn import MultiScalePixelRNN as MultiScalePixelRNN
from arjax.models.parallel_multiscale import ParallelMultiscale as ParallelMultiscale
from arjax.models.parallel_multiscale import Pixelwise as Pixelwise
from arjax.models.pixelcnn import PixelCNN as PixelCNN
from arjax.models.pixelcnnpp import PixelCNNPP as PixelCNNPP
from arjax.models.pixelrnn import DiagonalBiLSTM as DiagonalBiLSTM
from arjax.models.pixelrnn import PixelRNN as PixelRNN
from arjax.models.pixelrnn import RowLSTM as RowLSTM
from arjax.models.pixelsnail import PixelSNAIL as PixelSNAIL
from arjax.models.rnn import RNN as RNN
from arjax.models.subscale import DepthUpscaling as DepthUpscaling
from arjax.models.subscale import Subscale as Subscale
from arjax.models.temporal_conv import TemporalConv as TemporalConv
from arjax.models.transformer import Transformer as Transformer
from arjax.models.wavenet import WaveNet as WaveNet
