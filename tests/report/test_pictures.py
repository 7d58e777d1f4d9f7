import math
import re

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import legend, render

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.inference.programs.predictive import prior_density
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.report import pictures


def test_image_grid_shows_each_picture_on_one_scale():
    x = torch.arange(5 * 6.0).reshape(5, 6)
    figure = render(pictures.image_grid(x, (1, 2, 3), titles=list("abcde"), columns=2))
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert np.allclose(np.stack(drawn), (x / 29).reshape(5, 2, 3))


def test_image_grid_scales_by_the_reference_and_clips():
    x = torch.tensor([[-1.0, 0.0, 4.0, 8.0]])
    figure = pictures.image_grid(x, (1, 2, 2), reference=torch.tensor([[0.0, 4.0, 0.0, 0.0]]))
    assert figure.axes[0].get_images()[0].get_array().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5)), (2, (4, 5)), (3, (4, 5, 3))])
def test_image_grid_channels(channels, shape):
    x = torch.rand(2, channels, 4, 5)
    figure = render(pictures.image_grid(x, (channels, 4, 5)))
    assert figure.axes[0].get_images()[0].get_array().shape == shape


def test_constant_pictures_and_columns_are_drawn():
    render(pictures.image_grid(torch.ones(2, 4), (1, 2, 2)))
    render(pictures.image_grid(torch.ones(2, 4), None))


def test_image_grid_of_tables_is_a_heat_map_with_a_scale_for_each_column():
    x = torch.tensor([[0.0, 100.0], [1.0, 300.0], [0.5, 200.0]])
    axes = render(pictures.image_grid(x, None, titles=["a", "b", "c"])).axes[0]
    assert axes.get_images()[0].get_array().tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]


def test_reconstructions_are_below_the_data():
    x, mean = torch.eye(4)[:3], torch.full((3, 4), 0.25)
    figure = render(pictures.reconstructions(x, mean, (1, 2, 2)))
    drawn = torch.tensor(np.stack([axes.get_images()[0].get_array() for axes in figure.axes]))
    assert torch.equal(drawn.flatten(1), torch.cat([x, mean]))
    rows = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert rows == [0, 0, 0, 1, 1, 1]


def test_reconstructions_of_tables():
    figure = render(pictures.reconstructions(torch.eye(4), torch.full((4, 4), 0.25), None))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["x", "mean of p(x|z)"]


def test_moments_of_each_entry_in_draws_are_against_those_in_data():
    x, draws = torch.tensor([[0.0, 2.0], [2.0, 6.0]]), torch.tensor([[1.0, 1.0], [5.0, 1.0]])
    mean, std = (axes.collections[0].get_offsets().tolist() for axes in render(pictures.moment_scatter(x, draws)).axes)
    assert mean == [[1, 3], [4, 1]]
    assert std == [[1, 2], [2, 0]]


def test_latent_scatter_of_two_dimensions_is_the_means_themselves():
    loc = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = render(pictures.latent_scatter(loc, torch.tensor([7, 8, 7])))
    groups = [points.get_offsets().tolist() for points in figure.axes[0].collections]
    assert groups == [[[0, 1], [4, 5]], [[2, 3]]]
    assert legend(figure) == ["7", "8"]
    (points,) = pictures.latent_scatter(loc).axes[0].collections
    assert points.get_offsets().tolist() == loc.tolist()


def test_latent_scatter_of_more_dimensions_names_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(50, 4, generator=generator) * torch.tensor([10.0, 1.0, 0.1, 0.1])
    axes = render(pictures.latent_scatter(loc)).axes[0]
    assert re.fullmatch(r"principal component 1 of E\[z\|x\] \(9[89]% of variance\)", axes.get_xlabel())
    first = axes.collections[0].get_offsets()[:, 0]
    assert abs(np.corrcoef(first, loc[:, 0])[0, 1]) > 0.999


@pytest.mark.parametrize(
    "labels", [None, torch.arange(30.0), torch.arange(30) % 2 == 0, torch.arange(30) % 13], ids=str
)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_latent_scatter_of_any_labels_and_dimension(labels, dim):
    render(pictures.latent_scatter(torch.randn(30, dim, generator=torch.Generator().manual_seed(0)), labels))


def test_collapsed_latents_are_drawn():
    render(pictures.latent_scatter(torch.zeros(30, 5)))


def _model(prior):
    return VAE(prior, likelihoods.Bernoulli(4), mlp((4,)))


@pytest.mark.parametrize("prior", [priors.Laplace(1, scale=0.5), dist.Laplace(torch.zeros(1), 0.5).to_event(1)])
def test_prior_of_one_dimension_is_its_density_in_data_a_bin(prior):
    loc = torch.linspace(-1, 1, 101)[:, None]
    axes = render(pictures.latent_scatter(loc, None, prior_density(_model(prior)))).axes[0]
    (line,) = axes.get_lines()
    z, height = line.get_data()
    np.testing.assert_allclose(height, 101 * axes.patches[0].get_width() * np.exp(-np.abs(z) / 0.5), rtol=1e-4)
    assert z[0] < 0.5 * math.log(0.01) < 0.5 * -math.log(0.01) < z[-1]  # the inner 99 %


def test_contours_of_a_prior_of_two_dimensions_hold_the_mass_they_name():
    # A disc of radius r holds 1 - exp(-r^2 / 2) of N(0, I); 4,000 draws place it within 5 %.
    prior = prior_density(_model(priors.StandardNormal(2)))
    contours, _ = render(pictures.latent_scatter(torch.zeros(3, 2), None, prior)).axes[0].collections
    for path, share in zip(contours.get_paths(), (0.99, 0.9, 0.5), strict=True):
        radius = np.linalg.norm(path.vertices, axis=1)
        np.testing.assert_allclose(radius, math.sqrt(-2 * math.log(1 - share)), rtol=0.06)


@pytest.mark.parametrize(
    "build",
    [
        lambda: priors.Mixture(2, 3),
        lambda: priors.Flow(2, kind="maf", hidden=(8,)),
        lambda: priors.Horseshoe(2),
        lambda: priors.SpikeAndSlab(1),
        lambda: priors.VampPrior(AmortizedGuide(4, guides.DiagonalNormal(2), mlp((4,))), 3, torch.rand(9, 4)),
    ],
)
def test_priors_of_one_and_two_dimensions_are_drawn(build):
    prior = prior_density(_model(build()))
    axes = render(pictures.latent_scatter(torch.randn(9, *prior.event_shape), None, prior)).axes[0]
    assert axes.get_lines() or axes.collections[0].get_paths()
