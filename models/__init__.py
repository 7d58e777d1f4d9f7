"""Generative models p(z) p(x|z) and their parts."""

from pyro_vae.models import likelihoods as likelihoods
from pyro_vae.models import networks as networks
from pyro_vae.models import priors as priors
from pyro_vae.models.networks import mlp as mlp
from pyro_vae.models.vae import VAE as VAE
