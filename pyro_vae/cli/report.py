"""The command report: all diagnostics of a trained run, and its report written anew with them."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.cli.options import Choices, add_data_root, make_parser
from pyro_vae.cli.scoring import write_page
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.runs.run import Run


def make(choices: Choices) -> ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "Judge guide and model of a trained run by all diagnostics, and write its report anew with them. log p(x) is "
        "taken as it was estimated.",
    )
    parser.add_argument("run", type=str, help="run directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    add_data_root(parser)
    return parser


def run(options: Namespace) -> None:
    """Run all diagnostics of a trained run, print what they find, and write its report anew with them."""
    from pyro_vae.report.diagnosis import diagnose

    directory = Run(options.run)
    trained = directory.load(options.data_root)
    ev = Evidence.load(directory.evidence)
    x = trained.setup.data("test")
    findings = diagnose(trained.model, trained.guide, x, options.seed, device=options.device)
    write_page(directory, trained, ev, directory.facts(), "test", [finding.as_section() for finding in findings])
    for finding in findings:
        print(f"{finding.title}: {finding.line}")
    print(f"report: {directory.report}\ntest {trained.in_words(ev, directory.path)}")
