"""Trees that nobody thought of: drawn by Hypothesis, and compared with MXNet like those that somebody did."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .bridge import Build, compare, draw, stacked
from .test_training_mode import assert_mxnets_draws_give_mxnets_numbers
from .trees import ACTIVATIONS, MODES

WIDTHS = st.integers(1, 5)

#: A tree, built under a prefix that keeps its weights' names apart from those of others, and the width of its outputs.
Drawn = tuple[Build, int]


@st.composite
def plain_cells(draw_one, width: int) -> Drawn:
    hidden = draw_one(WIDTHS)
    kind = draw_one(st.sampled_from(["LSTMCell", "GRUCell", "RNNCell"]))
    options = {"activation": draw_one(st.sampled_from(ACTIVATIONS))} if kind == "RNNCell" else {}
    return (lambda rnn, prefix: getattr(rnn, kind)(hidden, prefix=prefix, **options)), hidden


@st.composite
def fused_cells(draw_one, width: int) -> Drawn:
    hidden, layers, mode = draw_one(WIDTHS), draw_one(st.integers(1, 3)), draw_one(st.sampled_from(MODES))
    both, keeps = draw_one(st.booleans()), draw_one(st.booleans())

    def build(rnn, prefix):
        return rnn.FusedRNNCell(hidden, layers, mode, bidirectional=both, get_next_state=keeps, prefix=prefix)

    return build, hidden * (1 + both)


@st.composite
def stacks(draw_one, width: int, depth: int) -> Drawn:
    builds = []
    for _ in range(draw_one(st.integers(1, 3))):
        build, width = draw_one(cells(width, depth - 1))
        builds.append(build)
    return (
        lambda rnn, prefix: stacked(rnn, *(build(rnn, f"{prefix}{number}_") for number, build in enumerate(builds)))
    ), width


@st.composite
def bidirectional_cells(draw_one, width: int, depth: int) -> Drawn:
    (left, one), (right, other) = draw_one(cells(width, depth - 1)), draw_one(cells(width, depth - 1))
    return (lambda rnn, prefix: rnn.BidirectionalCell(left(rnn, f"{prefix}l_"), right(rnn, f"{prefix}r_"))), one + other


@st.composite
def residual_cells(draw_one, width: int, depth: int) -> Drawn:
    build, _ = draw_one(cells(width, depth - 1).filter(lambda drawn: drawn[1] == width))
    return (lambda rnn, prefix: rnn.ResidualCell(build(rnn, prefix))), width


@st.composite
def zoneout_cells(draw_one, width: int) -> Drawn:
    build, out = draw_one(plain_cells(width))
    rates = draw_one(st.sampled_from([(0.0, 0.0), (0.3, 0.0), (0.0, 0.6), (0.3, 0.6)]))
    return (lambda rnn, prefix: rnn.ZoneoutCell(build(rnn, prefix), *rates)), out


@st.composite
def dropout_cells(draw_one, width: int) -> Drawn:
    rate = draw_one(st.sampled_from([0.0, 0.5]))
    return (lambda rnn, prefix: rnn.DropoutCell(rate, prefix=prefix)), width


def cells(width: int, depth: int = 3) -> st.SearchStrategy[Drawn]:
    leaves = [plain_cells(width), fused_cells(width), zoneout_cells(width)]
    return st.one_of(leaves) if depth == 0 else st.one_of(*leaves, dropout_cells(width), composed_cells(width, depth))


def composed_cells(width: int, depth: int = 3) -> st.SearchStrategy[Drawn]:
    return st.one_of(stacks(width, depth), bidirectional_cells(width, depth), residual_cells(width, depth))


@st.composite
def problems(draw_one):
    size = draw_one(WIDTHS)
    drawn, _ = draw_one(composed_cells(size))

    def build(rnn):
        return drawn(rnn, "tree_")

    problem = draw(
        build,
        seed=draw_one(st.integers(0, 1000)),
        length=draw_one(st.integers(1, 4)),
        batch=draw_one(st.integers(1, 3)),
        size=size,
        layout=draw_one(st.sampled_from(["NTC", "TNC"])),
        as_list=draw_one(st.booleans()),
    )
    return build, problem, draw_one(st.sampled_from([None, True, False]))


#: Explaining a failure takes Hypothesis longer than finding it.
PATIENT = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@settings(PATIENT, max_examples=150)
@given(problems())
def test_any_tree(drawn):
    compare(*drawn)


@settings(PATIENT, max_examples=100)
@given(problems())
def test_any_tree_in_training(draws, drawn):
    assert_mxnets_draws_give_mxnets_numbers(*drawn, draws)
