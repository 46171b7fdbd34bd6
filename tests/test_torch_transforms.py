"""`rnnx_torch.RNNModule` under what transforms, compiles, exports and distributes torch's modules."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import networks
import rnnx

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from rnnx_torch import RNNModule  # noqa: E402
from torched import BATCH, HIDDEN, RAGGED, WIDTH, fused, inputs_of, module_of, own, zoned  # noqa: E402

TREES = {"lstm": fused, "gru": lambda: fused("gru"), "zoned": zoned, "own": own}


def gradients(module: RNNModule, outputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(outputs.square().sum(), list(module.parameters())))


# -- precision and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_autocast_runs_in_its_dtype_and_trains_in_the_weights(name):
    module = module_of(TREES[name](), "float32").eval()
    expected, _ = module(inputs_of("float32"))
    with torch.autocast("cpu", torch.bfloat16):
        outputs, states = module(inputs_of("float32"))
        again, _ = module(inputs_of("bfloat16"), states)
        kernels = module.explain(inputs_of("float32")).kernels
    assert {each.dtype for each in (outputs, again, *networks.leaves(states))} == {torch.bfloat16}
    assert (outputs.float() - expected).abs().max() < 0.1
    assert all(gradient.dtype == torch.float32 for gradient in gradients(module, outputs.float()))
    module.to(torch.bfloat16)
    assert module.explain(inputs_of("bfloat16")).kernels == kernels


def test_autocast_leaves_float64_alone():
    module = module_of(fused()).eval()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = module(inputs_of())
    torch.testing.assert_close(outputs, module(inputs_of())[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_library_that_runs_an_lstm_in_a_dtype_is_the_one_named(dtype):
    module = module_of(fused(), "float32").to(getattr(torch, dtype)).eval()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(inputs_of(dtype))
    onednn = "aten::mkldnn_rnn_layer" in {event.name for event in profile.events()}
    assert module.explain(inputs_of(dtype)).kernels == ("torch.mkldnn" if onednn else "torch.native",)


@pytest.mark.parametrize("name", TREES)
def test_checkpointing_draws_the_same_again(name):
    module = module_of(TREES[name]())
    torch.manual_seed(2)
    expected, _ = module(inputs_of())
    torch.manual_seed(2)
    outputs, _ = checkpoint(module, inputs_of(), use_reentrant=False)
    networks.assert_all_close(gradients(module, outputs), gradients(module, expected), 1e-12)


# -- torch.func -------------------------------------------------------------------------------------------------------


def loss_of(module: RNNModule):
    return lambda weights, inputs: functional_call(module, weights, (inputs,))[0].square().sum()


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # what jvp decomposes with
@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("fuse", [True, False])
def test_gradients_as_functions(name, fuse):
    module = module_of(TREES[name](), fuse=fuse).eval()
    weights = {name: weight.detach() * 0.9 for name, weight in module.named_parameters()}
    found = grad(loss_of(module))(weights, inputs_of())
    with torch.no_grad():
        for name_, weight in module.named_parameters():
            weight.copy_(weights[name_])
    networks.assert_all_close(list(found.values()), gradients(module, module(inputs_of())[0]), 1e-11)

    of_inputs = lambda inputs: loss_of(module)(weights, inputs)  # noqa: E731
    direction = torch.ones_like(inputs_of())
    _, slope = jvp(of_inputs, (inputs_of(),), (direction,))
    torch.testing.assert_close(slope, (grad(of_inputs)(inputs_of()) * direction).sum(), rtol=1e-9, atol=1e-9)
    curve = hessian(of_inputs)(inputs_of()[:1, :2]).reshape(2 * WIDTH, 2 * WIDTH)
    torch.testing.assert_close(curve, curve.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TREES)
def test_many_modules_and_single_rows_at_once(name):
    """Where it steps: torch's kernels have no rule for batches of weights."""
    modules = [module_of(TREES[name](), fuse=False).eval() for _ in range(3)]
    for number, module in enumerate(modules):
        with torch.no_grad():
            for weight in module.parameters():
                weight *= number - 1.5
    weights, _ = stack_module_state(modules)
    outputs = vmap(lambda each: functional_call(modules[0], each, (inputs_of(),))[0])(weights)
    expected = torch.stack([module(inputs_of())[0] for module in modules])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)

    mine = {name: weight.detach() for name, weight in modules[0].named_parameters()}
    rows = vmap(grad(loss_of(modules[0])), (None, 0))(mine, inputs_of()[:, None])
    whole = grad(loss_of(modules[0]))(mine, inputs_of())
    networks.assert_all_close([each.sum(0) for each in rows.values()], list(whole.values()), 1e-11)


def test_each_row_draws_its_own_dropout():
    module = module_of(zoned())
    same_rows = inputs_of()[:1].expand(BATCH, -1, -1)[:, None]
    outputs = vmap(lambda row: module(row)[0], randomness="different")(same_rows)
    assert not torch.allclose(outputs[0], outputs[1])


# -- compilers and exporters ------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """What compiles a module to one graph, and leaves nothing behind."""
    torch.compiler.reset()
    yield lambda module: torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("name", TREES)
def test_it_compiles_to_one_graph(name, lengths, compiled):
    module = module_of(TREES[name](), "float32").eval()
    graph = compiled(module)
    inputs = inputs_of("float32")[:, :3]
    lengths = None if lengths is None else lengths.clamp(max=3)
    expected, expected_states = module(inputs, valid_length=lengths)
    outputs, states = graph(inputs, valid_length=lengths)
    torch.testing.assert_close((outputs, states), (expected, expected_states), rtol=0, atol=1e-5)
    networks.assert_all_close(gradients(module, outputs), gradients(module, expected), 1e-4)

    given = [state.detach() for state in networks.leaves(states)]
    with torch.no_grad():
        found = graph(inputs, given, lengths)
        torch.testing.assert_close(found, module(inputs, given, lengths), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["lstm", "zoned"])
def test_dropout_acts_in_a_compiled_graph(name, compiled):
    graph = compiled(module_of(TREES[name](), "float32"))
    inputs = inputs_of("float32")[:, :3]
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(graph(inputs)[0])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not torch.allclose(results[0], results[2])


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", TREES)
def test_it_is_exported_for_batches_of_any_size(name, tmp_path):
    module = module_of(TREES[name](), "float32").eval()
    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(module, (inputs_of("float32"),), dynamic_shapes=({0: rows},))
    assert {
        node.target.namespace
        for node in program.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "namespace")
    } == {"aten"}
    torch.export.save(program, tmp_path / "module.pt2")
    loaded = torch.export.load(tmp_path / "module.pt2").module()
    for inputs in (inputs_of("float32"), inputs_of("float32")[:2]):
        torch.testing.assert_close(loaded(inputs), module(inputs), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:Exporting a model")
@pytest.mark.parametrize("name", TREES)
def test_torch_writes_it_as_onnx(name):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    module = module_of(TREES[name](), "float32").eval()
    file = io.BytesIO()
    options = {"input_names": ["inputs"], "dynamic_axes": {"inputs": {0: "rows"}}, "opset_version": 17}
    torch.onnx.export(module, (inputs_of("float32"),), file, dynamo=False, **options)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for inputs in (inputs_of("float32"), inputs_of("float32")[:2]):
        outputs = session.run(None, {"inputs": inputs.numpy()})[0]
        np.testing.assert_allclose(outputs, module(inputs)[0].detach().numpy(), rtol=0, atol=1e-5)


# -- several processes ------------------------------------------------------------------------------------------------

#: What each of two processes runs: its half of the batch, and the gradients that both then have.
WORKER = """if True:
    import os
    import sys
    import torch
    import torch.distributed as dist
    import rnnx
    from rnnx_torch import RNNModule

    rank, folder = int(sys.argv[1]), sys.argv[2]
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cell, _ = rnnx.load(f"{folder}/cell.rnnx")
    module = RNNModule(cell, 3)
    inputs = torch.load(f"{folder}/inputs.pt")
    parallel = torch.nn.parallel.DistributedDataParallel(module)
    parallel(inputs[rank::2])[0].square().mean().backward()
    torch.save([weight.grad for weight in module.parameters()], f"{folder}/gradients{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo's may still run, and would abort an orderly exit
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_have_the_gradients_of_one(tmp_path):
    cell = networks.randomized(networks.sequential(rnnx.GRUCell(HIDDEN, "a_"), fused(dropout=0.0)), WIDTH, scale=0.7)
    rnnx.save(tmp_path / "cell.rnnx", cell)
    torch.save(inputs_of(), tmp_path / "inputs.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=90) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()

    module = RNNModule(cell, WIDTH)
    module(inputs_of())[0].square().mean().backward()
    expected = [weight.grad for weight in module.parameters()]
    for rank in range(2):
        networks.assert_all_close(torch.load(tmp_path / f"gradients{rank}.pt"), expected, 1e-12)
