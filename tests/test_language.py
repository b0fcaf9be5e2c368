"""nets/judges/language.py: the loss by loops, sampling by its formulas, rows of unequal lengths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, nn

from palimpsest.nets.judges.language import LanguageModel, continued, next_token_loss, penalised


def seeded(seed=0):
    return Generator().manual_seed(seed)


def small(length=12):
    torch.manual_seed(0)
    return LanguageModel(vocab=9, length=length, width=16, layers=2, heads=2)


class Fixed(nn.Module):
    """Logits that depend on the last token alone: row k of a table."""

    def __init__(self, table, length=10):
        super().__init__()
        self.table, self.length = nn.Parameter(torch.as_tensor(table, dtype=torch.float32)), length

    def forward(self, tokens):
        return self.table[tokens]


def test_the_loss_is_the_mean_of_minus_log_p_over_what_counts():
    logits, tokens = torch.randn((2, 5, 7), generator=seeded()), torch.randint(7, (2, 5), generator=seeded(1))
    counts = torch.tensor([[True, False, True, True, False], [True, True, False, False, True]])
    terms = [
        -logits[b, i - 1].log_softmax(0)[tokens[b, i]].item()
        for b in range(2)
        for i in range(1, 5)
        if counts[b, i]
    ]
    assert next_token_loss(logits, tokens, counts).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_no_token_sees_those_after_it():
    net, tokens = small(), torch.randint(9, (1, 8), generator=seeded())
    other = tokens.clone()
    other[0, 5:] = (other[0, 5:] + 1) % 9
    with torch.no_grad():
        assert torch.allclose(net(tokens)[:, :5], net(other)[:, :5], atol=1e-6)
        assert not torch.allclose(net(tokens)[:, 5:], net(other)[:, 5:], atol=1e-3)


def test_the_penalty_counts_what_was_said():
    said = torch.tensor([[0, 0, 2, -1], [-1, -1, -1, -1]])
    assert penalised(torch.ones(2, 3), said, 0.5).tolist() == [[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]]


def test_the_likeliest_is_taken_at_temperature_0_until_the_stop():
    count_up = 9.0 * torch.eye(6).roll(1, dims=1)  # after k comes k + 1
    said = continued(
        Fixed(count_up), [[0], [2, 1, 3], [4]], stop=5, generator=seeded(), temperature=0, frequency=0.0
    )
    assert said == [[1, 2, 3, 4], [4], []]


def test_it_stops_where_there_is_no_room():
    again = 9.0 * torch.eye(3)  # after k comes k
    assert continued(
        Fixed(again, 6), [[1], [0, 1, 1]], stop=2, generator=seeded(), temperature=0, frequency=0.0
    ) == [[1] * 5, [1] * 3]


def test_a_word_said_often_is_left_for_another():
    table = torch.tensor([[1.0, 0.75, -9.0]]).expand(3, 3)
    (said,) = continued(Fixed(table, 6), [[0]], stop=2, generator=seeded(), temperature=0, frequency=0.2)
    assert said == [0, 0, 1, 0, 1]  # 1.0, .8, then .6 < .75, and so on


def test_words_are_drawn_from_softmax_of_logits_over_temperature():
    logits, n = torch.tensor([0.3, 1.2, -9.0]), 4000
    said = continued(
        Fixed(logits.expand(3, 3), 2), [[0]] * n, stop=2, generator=seeded(), temperature=0.7, frequency=0.0
    )
    share = sum(row == [1] for row in said) / n
    assert share == pytest.approx(1 / (1 + math.exp((0.3 - 1.2) / 0.7)), abs=0.03)


def test_a_row_is_continued_as_if_alone():
    net, rows = small(), [[1, 4], [3, 2, 2, 5, 1], [7]]
    alone = [continued(net, [row], stop=8, generator=seeded(), temperature=0)[0] for row in rows]
    assert continued(net, rows, stop=8, generator=seeded(), temperature=0) == alone and any(alone)


@pytest.mark.parametrize(
    "prefixes, temperature", [([[]], 0.7), ([[0] * 10], 0.7), ([[0]], -1.0), ([[0]], math.nan)]
)
def test_what_makes_no_sense_is_refused(prefixes, temperature):
    with pytest.raises(ValueError, match="prefixes: "):
        continued(Fixed(torch.eye(3)), prefixes, stop=2, generator=seeded(), temperature=temperature)
