"""Network factories: ``(in_shape, out_features) -> nn.Module``, so that no width is typed twice.

Every network takes any number of leading dimensions, such as (K, B), treats each datum alone, and draws nothing.
``perceptron`` for vectors, and what a factory is; ``convolution`` for images.
"""

from pyro_vae.models.networks.convolution import ConvDecoder as ConvDecoder
from pyro_vae.models.networks.convolution import ConvEncoder as ConvEncoder
from pyro_vae.models.networks.convolution import conv as conv
from pyro_vae.models.networks.convolution import deconv as deconv
from pyro_vae.models.networks.perceptron import MLP as MLP
from pyro_vae.models.networks.perceptron import Factory as Factory
from pyro_vae.models.networks.perceptron import GatedMLP as GatedMLP
from pyro_vae.models.networks.perceptron import NetworkFactory as NetworkFactory
from pyro_vae.models.networks.perceptron import gated_mlp as gated_mlp
from pyro_vae.models.networks.perceptron import mlp as mlp
