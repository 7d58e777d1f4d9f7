"""The kinds of model: each with the guide that fits it, the data that both are called with, and what is estimated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pyro_vae import models
from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.conditioning import UNKNOWN
from pyro_vae.core.modules import Network
from pyro_vae.core.registry import Registry, Spec
from pyro_vae.data.labels import Labels, labels_of, take_column
from pyro_vae.data.splits import Splits
from pyro_vae.inference import guides
from pyro_vae.inference.programs.call import Data
from pyro_vae.models.networks import mlp
from pyro_vae.runs.parts import GUIDES, PRIORS, Parts

Programs = tuple[nn.Module, nn.Module]


class Kind(ABC):
    """Base class of the kinds of model that a run can train, each with its guide."""

    quantity = "log p(x)"
    """What the evidence estimates."""
    objective: ClassVar[Spec] = Spec("Trace_ELBO")
    """The objective that it is trained with where none is named."""
    further_networks: ClassVar[tuple[str, ...]] = ()
    """Which of --hidden and --activation networks other than encoder and decoder take."""

    @abstractmethod
    def build(self, parts: Parts) -> Programs:
        """Return model and guide, made of the parts that the config names."""

    def latent_dims_of(self, parts: Parts) -> int | list[int]:
        """Return the dimension of z, or those of its layers."""
        return parts.latent_dim

    def prepare(self, splits: Splits) -> Splits:
        """Return the data as the model takes them."""
        return splits

    def y(self, splits: Splits, split: str) -> Tensor | None:
        """Return what the programs are given beside x when the split of that name is scored, or nothing."""
        return None

    def data(self, splits: Splits, split: str) -> Data:
        """Return what the programs are called with when the split of that name is scored."""
        y, x = self.y(splits, split), getattr(splits, split)
        return x if y is None else (x, y)

    def training_data(self, splits: Splits) -> Data:
        """Return what the programs are called with in training."""
        return self.data(splits, "train")

    def remarks(self, guide: nn.Module, splits: Splits, split: str) -> list[str]:
        """Return what else is to be said of a split, a line each."""
        return []

    def given_label(self, model: nn.Module) -> nn.Module:
        """Return the program of x given a label that is known, called as ``model(None, y)``."""
        return model

    def encode_labels(self, splits: Splits, labels: Sequence[float]) -> Tensor:
        """Return the labels that a user wants draws for, as the model takes them.

        Raises:
            ValueError: for labels that there are not, or a model that is given none.
        """
        raise ValueError(f"Expected no --label for {KINDS.name_of(type(self))}, whose x depends on no label.")


class PlainKind(Kind):
    """One layer of latents, z ~ p(z), x ~ p(x|z), and the guide q(z|x)."""

    def build(self, parts: Parts) -> Programs:
        """Return a ``models.VAE`` and a ``guides.AmortizedGuide``."""
        guide = self._guide(parts) if parts.prior_takes_guide() else None
        model = models.VAE(parts.prior(guide=guide), parts.likelihood(), parts.decoder(), missing=parts.missing)
        return model, self._guide(parts) if guide is None else guide

    def _guide(self, parts: Parts) -> nn.Module:
        return guides.AmortizedGuide(parts.event_shape, parts.family(), parts.encoder(), **parts.seen)


class HierarchicalKind(Kind):
    """Layers of latents, z_L ~ p(z_L), z_l ~ N(mu(z_l+1), diag sigma(z_l+1)^2), x ~ p(x|z_1).

    ``--encoder`` and ``--decoder`` stand between x and z_1. The defaults, with the default networks of two layers
    of 200 tanh units, are the two-layer architecture of Burda et al. (2016).

    Args:
        latent_dims: dimensions of z_1, ..., z_L, from the data up.
        hidden: widths of the hidden layers of each network between two layers of latents.
        guide: "bottom_up", q(z_1|x) q(z_2|z_1) ..., each of the family that ``--guide`` names; or "ladder",
            top-down along the model's own networks, where every q is normal.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5; Sønderby et al.
    (2016), Ladder Variational Autoencoders.
    """

    further_networks = ("activation",)

    def __init__(
        self,
        latent_dims: Sequence[int] = (100, 50),
        hidden: Sequence[int] = (100, 100),
        guide: Literal["bottom_up", "ladder"] = "bottom_up",
    ) -> None:
        for dim in latent_dims:
            check_positive_int(dim, "latent_dims")
        if len(latent_dims) < 2:
            raise ValueError(f"Expected at least two latent_dims, such as [100, 50]; got {list(latent_dims)}.")
        if guide not in ("bottom_up", "ladder"):
            raise ValueError(f"Expected guide to be bottom_up or ladder; got {guide!r}.")
        self.latent_dims, self.hidden, self.guide = list(latent_dims), list(hidden), guide

    def latent_dims_of(self, parts: Parts) -> int | list[int]:
        """Return the dimensions of z_1, ..., z_L."""
        return self.latent_dims

    def build(self, parts: Parts) -> Programs:
        """Return a ``models.HierarchicalVAE`` and a ``guides.HierarchicalGuide`` or ``LadderGuide``."""
        parts.refuse_latent_dim("its layers are --model.latent_dims")
        upper = [mlp(self.hidden, parts.activation()) for _ in self.latent_dims[1:]]
        prior = parts.prior(dim=self.latent_dims[-1])
        networks: list[Network] = [parts.decoder(), *upper]
        model = models.HierarchicalVAE(
            self.latent_dims, parts.likelihood(), networks, prior=prior, missing=parts.missing
        )
        encoders: list[Network] = [parts.encoder(), *upper]
        if self.guide == "bottom_up":
            families = [parts.family(dim=dim) for dim in self.latent_dims]
            return model, guides.HierarchicalGuide(parts.event_shape, families, encoders, **parts.seen)
        parts.refuse_other(GUIDES, "DiagonalNormal", "the layers of a ladder are normal")
        widths = [2 * dim for dim in self.latent_dims]
        return model, guides.LadderGuide(parts.event_shape, model, encoders, widths=widths, **parts.seen)


class _Labelled(Kind):
    """A model that knows labels y, the data set's own classes or a column of a table."""

    label: str | None

    def prepare(self, splits: Splits) -> Splits:
        """Return the data with the column y taken out of x."""
        return splits if self.label is None else take_column(splits, self.label)

    def encode_labels(self, splits: Splits, labels: Sequence[float]) -> Tensor:
        """Return labels as the model takes them."""
        return labels_of(splits).encode(labels)


class ConditionalKind(_Labelled):
    """Model of x given a label y, z ~ p(z) or p(z|y), x ~ p(x|z, y), and the guide q(z|x, y).

    The evidence is log p(x|y). A column of whole numbers with at most 20 different values is a class, any other one
    a real covariate, which networks see standardised.

    Args:
        label: column of a table to condition on, by name or, from 0, by position; it is no part of x then. The
            data set's own classes if absent.
        prior_given_label: p(z|y) is normal with mean and scales from a network of y, instead of ``--prior``.

    Source: Sohn, Lee and Yan (2015), Learning Structured Output Representation using Deep Conditional Generative
    Models, section 4.
    """

    quantity = "log p(x|y)"

    def __init__(self, label: str | None = None, prior_given_label: bool = False) -> None:
        self.label, self.prior_given_label = label, prior_given_label

    def y(self, splits: Splits, split: str) -> Tensor | None:
        """Return y of one split."""
        return labels_of(splits).y[split]

    def build(self, parts: Parts) -> Programs:
        """Return a ``models.ConditionalVAE`` and a ``guides.ConditionalGuide``."""
        labels = labels_of(parts.splits)
        about_y = labels.model_arguments
        if self.prior_given_label:
            parts.refuse_other(PRIORS, "StandardNormal", "p(z|y) is given by --model.prior_given_label")
        prior = guides.DiagonalNormal(parts.latent_dim) if self.prior_given_label else parts.prior()
        model = models.ConditionalVAE(prior, parts.likelihood(), parts.decoder(), missing=parts.missing, **about_y)
        encoder = parts.encoder(num_beside=labels.width)
        guide = guides.ConditionalGuide(parts.event_shape, parts.family(), encoder, **parts.seen, **about_y)
        return model, guide


class SemiSupervisedKind(_Labelled):
    """Model of x and its class y, known for some of the training data, y ~ p(y), z ~ p(z), x ~ p(x|z, y).

    The guide is q(y|x) q(z|x, y); q(y|x) is a network of the hidden layers of ``--hidden``. In training the classes
    that are not known are summed out, ``--objective ELBO --objective.gradient enumerate``. Data are scored without
    their labels: the evidence is log p(x).

    Args:
        num_labels: training data whose label is kept, drawn at random.
        label_seed: seed of that draw.
        alpha: weight of log q(y|x) of a labelled datum; 0.1 N / num_labels, as in the paper, if absent.
            Too small for few data: of the order of log p(x), 100 for digits, is better there.
        label: column of a table that holds the classes, as for ``ConditionalVAE``.

    Source: Kingma et al. (2014), Semi-supervised Learning with Deep Generative Models, section 3.
    """

    objective = Spec("ELBO", {"gradient": "enumerate"})
    further_networks = ("hidden", "activation")

    def __init__(
        self, num_labels: int = 100, label_seed: int = 0, alpha: float | None = None, label: str | None = None
    ) -> None:
        check_positive_int(num_labels, "num_labels")
        self.num_labels, self.label_seed, self.alpha, self.label = num_labels, label_seed, alpha, label

    def _classes(self, splits: Splits) -> Labels:
        found = labels_of(splits)
        if found.values is None:
            raise ValueError(f"Expected labels that are classes for SemiSupervisedVAE; {splits.name} has numbers.")
        return found

    def training_data(self, splits: Splits) -> Data:
        """Return the training data with the labels that are kept, -1 for the others."""
        labels = self._classes(splits).y["train"]
        if self.num_labels > len(labels):
            raise ValueError(f"Expected num_labels of at most {len(labels)}, the training data; got {self.num_labels}.")
        generator = torch.Generator().manual_seed(self.label_seed)
        kept = torch.randperm(len(labels), generator=generator)[: self.num_labels]
        known = torch.full_like(labels, UNKNOWN)
        known[kept] = labels[kept]
        return splits.train, known

    def remarks(self, guide: Any, splits: Splits, split: str) -> list[str]:
        """Say how many data are classified correctly."""
        device = next(guide.parameters()).device
        right = guide.classify(getattr(splits, split).to(device)).cpu() == self._classes(splits).y[split]
        return [f"{split} data whose most probable class q(y|x) is right: {right.double().mean():.1%} of {len(right)}"]

    def given_label(self, model: Any) -> nn.Module:
        """Return the conditional model inside."""
        return model.conditional

    def build(self, parts: Parts) -> Programs:
        """Return a ``models.SemiSupervisedVAE`` and a ``guides.SemiSupervisedGuide``."""
        labels = self._classes(parts.splits)
        about_y = labels.model_arguments
        model = models.SemiSupervisedVAE(
            parts.prior(), parts.likelihood(), parts.decoder(), missing=parts.missing, **about_y
        )
        alpha = 0.1 * len(parts.splits.train) / self.num_labels if self.alpha is None else self.alpha
        encoder = parts.encoder(num_beside=labels.width)
        settings: dict[str, Any] = {"alpha": alpha, **parts.seen, **about_y}
        return model, guides.SemiSupervisedGuide(
            parts.event_shape, parts.family(), encoder, parts.hidden_layers(), **settings
        )


KINDS = Registry(
    "model",
    Kind,
    {
        "VAE": PlainKind,
        "HierarchicalVAE": HierarchicalKind,
        "ConditionalVAE": ConditionalKind,
        "SemiSupervisedVAE": SemiSupervisedKind,
    },
    "kind of model: VAE, HierarchicalVAE, ConditionalVAE or SemiSupervisedVAE",
)
