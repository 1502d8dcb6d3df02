"""Data sets as integers, from files in their original formats or tensorflow-datasets; numpy batches out.

**Where to start.** `arjax.data.sets.load` reads images and vectors by name, as in `load("digits", "train")`;
`arjax.data.sequence_sets.load_text` and `arjax.data.sequence_sets.load_audio` read text and sound. Data of your
own: `arjax.data.dataset.Dataset` of an array, `arjax.data.sequences.Sequences` of sequences of any lengths, cut
by `arjax.data.sequences.Windows`. `arjax.data.dataset.batches` goes on for ever, in an order that its seed and
step tell; `arjax.data.dataset.epoch_batches` goes through all examples once. Files are looked for in `data_dir`,
by default `$ARJAX_DATA_DIR`.
"""

from arjax.data.audio import linear_decode as linear_decode
from arjax.data.audio import linear_encode as linear_encode
from arjax.data.audio import log_mel as log_mel
from arjax.data.audio import mel_centres as mel_centres
from arjax.data.audio import mu_law_decode as mu_law_decode
from arjax.data.audio import mu_law_encode as mu_law_encode
from arjax.data.audio import read_audio as read_audio
from arjax.data.audio import resample as resample
from arjax.data.audio import trim as trim
from arjax.data.audio import write_audio as write_audio
from arjax.data.colour import colour as colour
from arjax.data.dataset import Dataset as Dataset
from arjax.data.dataset import batches as batches
from arjax.data.dataset import epoch_batches as epoch_batches
from arjax.data.files import read_bits as read_bits
from arjax.data.files import read_cifar10 as read_cifar10
from arjax.data.files import read_idx as read_idx
from arjax.data.files import read_images as read_images
from arjax.data.files import read_labels as read_labels
from arjax.data.files import read_npz as read_npz
from arjax.data.files import read_sprites as read_sprites
from arjax.data.moving import move as move
from arjax.data.sequence_sets import AUDIO_SETS as AUDIO_SETS
from arjax.data.sequence_sets import TEXT_SETS as TEXT_SETS
from arjax.data.sequence_sets import TIMBRES as TIMBRES
from arjax.data.sequence_sets import load_audio as load_audio
from arjax.data.sequence_sets import load_text as load_text
from arjax.data.sequences import Sequences as Sequences
from arjax.data.sequences import Windows as Windows
from arjax.data.sets import SETS as SETS
from arjax.data.sets import load as load
from arjax.data.splits import SPLITS as SPLITS
from arjax.data.text import Bytes as Bytes
from arjax.data.text import Vocabulary as Vocabulary
from arjax.data.text import characters as characters
from arjax.data.text import read_text as read_text
