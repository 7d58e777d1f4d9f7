"""Generative models p(z) p(x|z), each a Pyro program, and their parts.

``vae`` the plain one; ``conditional``, ``hierarchical``, ``semisupervised`` the others; ``observe`` their common base.
``initialization`` starts a decoder at the data. ``priors``, ``likelihoods`` and ``networks`` are the parts;
``distributions`` what the parts return where torch and Pyro have nothing.
"""

from pyro_vae.models import likelihoods as likelihoods
from pyro_vae.models import networks as networks
from pyro_vae.models import priors as priors
from pyro_vae.models.conditional import ConditionalVAE as ConditionalVAE
from pyro_vae.models.hierarchical import HierarchicalVAE as HierarchicalVAE
from pyro_vae.models.initialization import start_at_data as start_at_data
from pyro_vae.models.networks import conv as conv
from pyro_vae.models.networks import deconv as deconv
from pyro_vae.models.networks import gated_mlp as gated_mlp
from pyro_vae.models.networks import mlp as mlp
from pyro_vae.models.semisupervised import SemiSupervisedVAE as SemiSupervisedVAE
from pyro_vae.models.vae import VAE as VAE
