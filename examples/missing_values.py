"""A table of mixed types with 30% of its values missing: fit, impute, and score what was taken out.

The data are the 442 patients of scikit-learn's diabetes table: sex is binary, the other columns are real numbers.
Values are taken out at random, of training and test data alike. What the model says of them is

    log p(x_mis | x_obs) = log p(x) - log p(x_obs),

the difference of two estimates of evidence. The baseline knows each column by itself: a normal around the column's
mean, or the column's frequencies.
"""

import torch
from jsonargparse import auto_cli
from sklearn.datasets import load_diabetes
from torch.distributions import Bernoulli, Normal

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, impute, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors


def column_scores(train: torch.Tensor, test: torch.Tensor, binary: torch.Tensor) -> torch.Tensor:
    """Return the log score of every entry under its column's own law, fitted to the observed training values."""
    mean = train.nanmean(0)
    sd = (train - mean).square().nanmean(0).sqrt()
    bernoulli = Bernoulli(mean.clamp(0, 1), validate_args=False).log_prob(test)
    return torch.where(binary, bernoulli, Normal(mean, sd).log_prob(test))


def main(epochs: int = 300, num_particles: int = 5000, missing: float = 0.3, seed: int = 0) -> None:
    frame = load_diabetes(as_frame=True, scaled=False).frame.sample(frac=1, random_state=seed)
    types = {name: likelihoods.Bernoulli if name == "sex" else likelihoods.Normal for name in frame}
    table = likelihoods.Mixed.from_dataframe(frame[:342], schema=types)
    torch.manual_seed(seed)
    x = table.encode(frame)
    gone = torch.rand(x.shape) < missing
    train, holed = x.masked_fill(gone, torch.nan).split([342, 100])
    test, gone = x[342:], gone[342:]

    model = VAE(priors.StandardNormal(3), table, mlp((32,)), missing=True)
    mean = train.nanmean(0)
    sd = (train - mean).square().nanmean(0).sqrt()
    guide = AmortizedGuide(x.shape[1:], guides.DiagonalNormal(3), mlp((64,)), loc=mean, scale=sd, missing=True)
    fit(model, guide, train, objective=objectives.IWAE(10), epochs=epochs, batch_size=57, seed=seed)

    observed = evidence(model, guide, holed, num_particles)
    score = evidence(model, guide, test, num_particles).log_px - observed.log_px
    own = column_scores(train, test, torch.tensor([name == "sex" for name in frame]))
    gain = score - own.masked_fill(~gone, 0).sum(1)
    per_entry = len(test) / gone.sum()
    error = (impute(model, guide, holed, 200).mean(0) - test)[gone], (mean - test)[gone]
    rmse = [(e / sd.expand_as(test)[gone]).square().mean().sqrt().item() for e in error]
    print("observed entries of test data,", observed)
    print(
        f"log score of the {int(gone.sum())} missing entries: {gain.mean() * per_entry:+.3f} "
        f"+- {gain.std() / len(gain) ** 0.5 * per_entry:.3f} nats an entry against column means"
    )
    print(f"error of point imputations, in standard deviations: {rmse[0]:.3f} against {rmse[1]:.3f}")


if __name__ == "__main__":
    auto_cli(main)
