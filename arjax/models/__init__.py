"""The zoo: one paper, one file, whose first lines name the paper and every deviation from it.

**Where to start.** To read: `arjax.models.histogram`, `arjax.models.chain_rule`, `arjax.models.made`,
`arjax.models.pixelcnn`, in this order. To use: images `arjax.models.gated_pixelcnn`, in colour
`arjax.models.pixelcnnpp`; text and sound `arjax.models.transformer`, `arjax.models.wavenet`, `arjax.models.rnn`;
binary vectors `arjax.models.made`. Models of several stages, each a model in itself, are
`arjax.models.auxiliary`, `arjax.models.subscale`, `arjax.models.parallel_multiscale` and
`arjax.models.multiscale_pixelrnn`.

All have the field `output`, an output distribution, and the call `(x, cond=None, *, train=False)`, from data
`(batch, *event)` to parameters `(batch, *event, output.num_params)`; the functions of `arjax` take them alike.

A model may also have

- `conditioning`, a module of `arjax.layers.conditioning`, if it can be conditioned: `Classes`, `Vector`, `Map`,
  `Deconvolution`, which makes a map of a vector, `Upsampling` of a series at a lower rate, or `Several` at once.
  It is projected once per sample, outside of the loops;
- `ranks()`, the order in which it handles its data, if that is its own, and `in_order(x, cond)`, its pass over
  them;
- `generate(draw, plan, cond)`, if it has a sampler of its own, which gives what `draw` draws;
- `log_prob(x, cond)`, if it is not one pass of conditionals (a hierarchy, a flow); it then draws its parts by
  `draw.stage`.

A function whose step the rules of the cached sampler do not know is given one by `arjax.incremental.custom`.

Outputs are `Bernoulli`, `Categorical(levels)` or `DiscretizedLogisticMixture(num_mixtures, levels)`, the latter
also for all colours of a pixel at once (`of_channels`). Of real numbers (`arjax.continuous`) they are `Normal`,
`Logistic` or a `Mixture` of either, for MADE, RNN, TemporalConv, WaveNet, Transformer and networks of your own;
`arjax.flows.Dequantised` makes of a flow a model of images.

MADE takes any ordering, any number of hidden layers (with none, and direct connections, it is a fully visible
sigmoid belief net), direct connections, order- and connectivity-agnostic training, and is evaluated as an ensemble
by `arjax.ensemble_log_prob`.
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
