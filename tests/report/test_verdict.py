from dataclasses import replace

import torch
from helpers import made_up

from pyro_vae.report.report import doubts, evidence_section


def test_no_doubts_about_sound_weights():
    assert doubts(made_up([-10.0, -12.0, -11.0], [0.1, 0.7, -float("inf")])) == []


def test_unreliable_data_are_counted():
    (note,) = doubts(made_up([-10.0, -12.0, -11.0], [0.71, 0.7, 5.0]))
    assert note.startswith("2 of 3 data have k-hat above 0.7")


def test_unknown_khat_is_no_good_khat():
    (note,) = doubts(made_up([-10.0, -14.0, -11.0], [float("nan")] * 3))
    assert note.startswith("There is no k-hat")


def test_impossible_data_and_a_lone_datum_are_said():
    (note,) = doubts(made_up([-10.0, -12.0, -float("inf")], [0.1, 0.1, 0.1]))
    assert note.startswith("1 of 3 data have log p(x) = -inf")
    (note,) = doubts(made_up([-10.0], [0.1]))
    assert note.startswith("One datum")


def test_acceptance_is_shown_where_chains_were_run():
    plain = made_up([-1.0, -2.0, -3.0], [0.1, 0.2, 0.3])
    annealed = replace(plain, acceptance=torch.tensor([0.5, 0.7, 0.6]))
    assert "acceptance" not in evidence_section(plain)
    assert "<td>median acceptance</td><td>0.60</td>" in evidence_section(annealed)
