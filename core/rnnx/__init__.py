"""rnnx: the recurrent cells of `mxnet.rnn`, on every framework, and one weight format for all of them."""

from rnnx.backend import Backend, BackendInfo
from rnnx.cells import (
    BaseRNNCell,
    BidirectionalCell,
    DropoutCell,
    FusedRNNCell,
    Gradients,
    GRUCell,
    LSTMCell,
    ModifiedCellError,
    ModifierCell,
    ResidualCell,
    RNNCell,
    SequentialRNNCell,
    ZoneoutCell,
)
from rnnx.errors import (
    BackendMismatchError,
    BackendNotFoundError,
    RNNXError,
    ShapeError,
    UnsupportedError,
    WeightFormatError,
)
from rnnx.params import RNNParams
from rnnx.registry import (
    BackendStatus,
    get_backend,
    list_backends,
    refresh,
    register_backend,
    use_backend,
)
from rnnx.spec import CellSpec
