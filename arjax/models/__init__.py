"""One paper, one file."""

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
