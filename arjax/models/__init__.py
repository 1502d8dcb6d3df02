"""One paper, one file."""

from arjax.models.chain_rule import ChainRule as ChainRule
from arjax.models.gated_pixelcnn import GatedPixelCNN as GatedPixelCNN
from arjax.models.histogram import Histogram as Histogram
from arjax.models.made import MADE as MADE
