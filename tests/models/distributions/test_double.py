"""Densities in float32 over the range that data can have, against fifty digits at the same stored parameters."""

from __future__ import annotations

import itertools

import mpmath as mp
import pytest
import torch

from pyro_vae.models import likelihoods

mp.mp.dps = 50


def sigmoid(t):
    return 1 / (1 + mp.e**-t)


def log_poisson(x, h):
    return x * h - mp.e**h - mp.loggamma(x + 1)


def log_negative_binomial(x, h, alpha):
    r, mu = 1 / alpha, mp.e**h
    constant = mp.loggamma(r + x) - mp.loggamma(r) - mp.loggamma(x + 1)
    return constant + x * mp.log(mu / (r + mu)) - r * mp.log(1 + mu / r)


def log_binomial(x, h, n):
    constant = mp.loggamma(n + 1) - mp.loggamma(x + 1) - mp.loggamma(n - x + 1)
    return constant - x * mp.log(1 + mp.e**-h) - (n - x) * mp.log(1 + mp.e**h)


def log_gamma(x, h, alpha):
    rate = alpha / mp.e**h
    return alpha * mp.log(rate) - mp.loggamma(alpha) + (alpha - 1) * mp.log(x) - rate * x


def log_beta(x, h, kappa):
    a, b = kappa * sigmoid(h), kappa * sigmoid(-h)
    constant = mp.loggamma(kappa) - mp.loggamma(a) - mp.loggamma(b)
    return constant + (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x)


def log_log_normal(x, h, sigma):
    z = (mp.log(x) - h) / sigma
    return -z * z / 2 - mp.log(sigma * x) - mp.log(2 * mp.pi) / 2


def log_continuous_bernoulli(x, h):
    return h * x - (mp.log(mp.expm1(h) / h) if h else 0)


def check(likelihood, exact, h, x, *settings):
    """Compare within the contract, 1e-3 nats or a millionth of the value, and the gradient by h to a thousandth."""
    h = torch.tensor([h], dtype=torch.float32, requires_grad=True)
    x = torch.tensor([x], dtype=torch.float32)
    got = likelihood(h).log_prob(x)
    assert got.dtype == torch.float32
    (slope,) = torch.autograd.grad(got, h)
    value, point = mp.mpf(x.item()), mp.mpf(h.item())
    expected = float(exact(value, point, *settings))
    assert got.item() == pytest.approx(expected, rel=1e-6, abs=1e-3)
    gradient = float(mp.diff(lambda t: exact(value, t, *settings), point))
    assert slope.item() == pytest.approx(gradient, rel=1e-3, abs=1e-3)


def stored(value: float):
    """Return a setting as float32 keeps it: its logarithm is what a likelihood stores."""
    return mp.mpf(torch.tensor(value).log().exp().item())


AROUND = (-4.0, -1.0, 0.0, 1.0, 4.0)
"""Standard deviations from the mean."""
COUNTS = [1.0, 7.0, 300.0, 1e4, 1e6, 1.6e7, 3e8]


def around(mean: float, sd: float) -> list[float]:
    return [max(0.0, round(mean + k * sd)) for k in AROUND]


@pytest.mark.parametrize("mean", COUNTS)
def test_poisson(mean):
    h = float(torch.tensor(mean).log())
    for x in [0.0, *around(mean, mean**0.5), 3 * round(mean)]:
        check(likelihoods.Poisson(1), log_poisson, h, x)


@pytest.mark.parametrize(("mean", "alpha"), list(itertools.product(COUNTS, (1e-10, 1e-6, 1e-3, 0.3, 5.0))))
def test_negative_binomial(mean, alpha):
    h, sd = float(torch.tensor(mean).log()), (mean + alpha * mean**2) ** 0.5
    for x in [0.0, *around(mean, sd)]:
        check(likelihoods.NegativeBinomial(1, alpha), log_negative_binomial, h, x, stored(alpha))


@pytest.mark.parametrize(
    ("n", "h"), list(itertools.product((1, 16, 128, 129, 10**4, 10**6, 10**7), (-9.0, -0.5, 0, 4.0)))
)
def test_binomial(n, h):
    pi = float(sigmoid(mp.mpf(h)))
    for x in {0.0, float(n), *(min(v, float(n)) for v in around(n * pi, (n * pi * (1 - pi)) ** 0.5))}:
        check(likelihoods.Binomial(1, n), log_binomial, float(h), x, n)


@pytest.mark.parametrize("total", [20, 10**5, 10**7])
def test_multinomial(total):
    h, share = torch.tensor([1.0, -3.0, 0.3]), torch.tensor([1.0, -3.0, 0.3]).softmax(-1)
    x = (total * share).round()
    n, counts = mp.mpf(x.sum().item()), [mp.mpf(v) for v in x.tolist()]
    weights = [mp.e ** mp.mpf(v) for v in h.tolist()]
    terms = (c * mp.log(w / mp.fsum(weights)) - mp.loggamma(c + 1) for c, w in zip(counts, weights, strict=True))
    expected = float(mp.loggamma(n + 1) + mp.fsum(terms))
    assert likelihoods.Multinomial(3)(h).log_prob(x).item() == pytest.approx(expected, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("mean", "alpha"), list(itertools.product((1e-3, 1.0, 310.0, 1e8), (0.3, 20.0, 384400.0, 1e9)))
)
def test_gamma(mean, alpha):
    h = float(torch.tensor(mean).log())
    for k in AROUND:
        x = mean * (1 + k / alpha**0.5) if alpha > 17 else mean * 2.0**k
        check(likelihoods.Gamma(1, concentration=alpha), log_gamma, h, x, stored(alpha))


@pytest.mark.parametrize(("h", "kappa"), list(itertools.product((-6.0, -0.3, 0.0, 4.0), (0.7, 30.0, 1e5, 1e8))))
def test_beta(h, kappa):
    m = float(sigmoid(mp.mpf(h)))
    for k in AROUND:
        x = m + k * (m * (1 - m) / (kappa + 1)) ** 0.5
        if 0 < x < 1:
            check(likelihoods.Beta(1, concentration=kappa), log_beta, h, x, stored(kappa))


@pytest.mark.parametrize(("h", "sigma"), list(itertools.product((-20.0, 0.0, 0.7, 18.0), (1e-5, 1e-2, 1.0, 30.0))))
def test_log_normal(h, sigma):
    for k in AROUND:
        x = float(mp.e ** mp.mpf(h + k * min(sigma, 3.0)))
        check(likelihoods.LogNormal(1, scale=sigma), log_log_normal, h, x, stored(sigma))


@pytest.mark.parametrize("h", [-1e6, -80.0, -1.0, 0.3, 80.0, 1e6])
def test_continuous_bernoulli(h):
    for x in (0.0, 1e-6, 0.25, 0.999999, 1.0):
        check(likelihoods.ContinuousBernoulli(1), log_continuous_bernoulli, h, x)


def test_a_sum_of_two_hundred_large_counts():
    """What cancels in one entry adds up over a datum: float32 was wrong by 37 nats here."""
    x = (1e6 + 1e3 * torch.linspace(-3, 3, 200)).round()
    h = torch.full((200,), float(torch.tensor(1e6).log()))
    exact = mp.fsum(log_poisson(mp.mpf(v), mp.mpf(h[0].item())) for v in x.tolist())
    assert likelihoods.Poisson(200)(h).log_prob(x).item() == pytest.approx(float(exact), abs=1e-2)


def test_float64_stays_float64_and_integers_are_counts():
    h = torch.tensor([3.0], dtype=torch.float64)
    assert likelihoods.Poisson(1)(h).log_prob(torch.tensor([4.0], dtype=torch.float64)).dtype == torch.float64
    assert likelihoods.Poisson(1)(h.float()).log_prob(torch.tensor([4])).dtype == torch.float32
