"""Data sets as integers, from files in their original formats or tensorflow-datasets; numpy batches out."""

from arjax.data.colour import colour as colour
from arjax.data.dataset import SPLITS as SPLITS
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
from arjax.data.sets import SETS as SETS
from arjax.data.sets import load as load
