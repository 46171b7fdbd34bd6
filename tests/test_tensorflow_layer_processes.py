"""`rnnx_tensorflow.RNNLayer` in processes of its own: loaded, served without rnnx, and distributed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerased import (
    BATCH,
    THEIR_WARNINGS,
    TREES,
    assert_close,
    fused,
    gradients,
    inputs_of,
    keras,
    layer_of,
    model_of,
    padded,
    tf,
    zoned,
)

pytestmark = THEIR_WARNINGS

L = keras.layers

#: With the tests' own modules, beside those that this process finds.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
}


def run_python(code: str, *arguments: object) -> str:
    """What a fresh process prints; warnings and all that TensorFlow logs are not looked at."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_fresh_process_loads_what_was_saved(tmp_path):
    model = model_of(layer_of(zoned()))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", inputs_of())
    np.save(tmp_path / "outputs.npy", model(inputs_of()))
    code = """if True:
        import sys, keras, numpy as np
        from rnnx_tensorflow import RNNLayer
        place = sys.argv[1]
        model = keras.models.load_model(f"{place}/model.keras")
        assert type(model.layers[0]) is RNNLayer
        found, expected = model(np.load(f"{place}/inputs.npy")), np.load(f"{place}/outputs.npy")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    """
    run_python(code, tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zoned", {"return_sequences": True, "return_state": True}),
        ("lstm", {}),
        ("own", {"stateful": True}),
    ],
)
def test_a_saved_model_is_served_without_rnnx(name, options, tmp_path):
    stateful = bool(options.get("stateful"))
    layer = layer_of(TREES[name](), **options)
    model = model_of(L.Masking(dtype="float64"), layer, batch=BATCH if stateful else None)
    several = [padded(), padded()[:, :3], *([] if stateful else [padded()[:1]])]
    model.export(tmp_path / "served", verbose=False)
    # So each is called in turn; a stateful layer goes on, there and here.
    expected = [tf.nest.flatten(model(inputs)) for inputs in several]
    for number, (inputs, results) in enumerate(zip(several, expected, strict=True)):
        np.savez(tmp_path / f"{number}.npz", inputs, *map(np.asarray, results))
    code = """if True:
        import sys
        sys.modules["rnnx"] = sys.modules["rnnx_tensorflow"] = sys.modules["keras"] = None
        import numpy as np, tensorflow as tf
        model = tf.saved_model.load(f"{sys.argv[1]}/served")
        for number in range(int(sys.argv[2])):
            inputs, *expected = np.load(f"{sys.argv[1]}/{number}.npz").values()
            found = tf.nest.flatten(model.serve(tf.constant(inputs)))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
        print("served", number + 1)
    """
    assert f"served {len(several)}" in run_python(code, tmp_path, len(several))


# -- several devices and processes ------------------------------------------------------------------------------------

#: Trains a model under a strategy, and keeps the weights, the gradients and what dropout does on each replica.
DISTRIBUTED = """if True:
    import json, sys
    import keras, numpy as np, tensorflow as tf
    if sys.argv[2] == "mirrored":
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import rnnx
    from kerased import fused, inputs_of, layer_of
    from networks import sequential

    inputs = inputs_of()
    with strategy.scope():
        layer = layer_of(fused(dropout=0.0), return_sequences=True)
        model = keras.Sequential([keras.Input((None, 3), dtype="float64"), layer])
        drops = layer_of(sequential(rnnx.LSTMCell(4), rnnx.DropoutCell(0.5)), return_sequences=True)
        drops.build((None, None, 3))
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(rows, training=True)))
        found = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(found, model.trainable_variables)  # adds up those of all replicas
        return tf.distribute.get_replica_context().all_reduce("sum", found)

    def part(context):
        size = len(inputs) // context.num_replicas_in_sync
        start = context.replica_id_in_sync_group * size
        return tf.constant(inputs[start : start + size])

    rows = strategy.experimental_distribute_values_from_function(part)
    run = tf.function(lambda rows: strategy.run(step, (rows,)))
    found = [strategy.experimental_local_results(each)[0].numpy() for each in run(rows)]
    same = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(inputs[:1]))
    drawn = strategy.run(tf.function(lambda rows: drops(rows, training=True)), (same,))
    drawn = [each.numpy() for each in strategy.experimental_local_results(drawn)]
    np.savez(sys.argv[1], *layer.get_weights(), *found, drawn=np.stack(drawn))
"""


@pytest.fixture(scope="module")
def alone() -> list[np.ndarray]:
    """Weights after a step of one process, and the gradient that it took."""
    layer = layer_of(fused(dropout=0.0), return_sequences=True)
    found = gradients(layer, inputs_of())
    rate = np.float32(0.1).astype(float)  # as Keras keeps it
    return [*(weight - rate * each for weight, each in zip(layer.get_weights(), found, strict=True)), *found]


def test_a_mirrored_strategy_has_the_gradients_of_one_device(alone, tmp_path):
    run_python(DISTRIBUTED, tmp_path / "found.npz", "mirrored")
    found = np.load(tmp_path / "found.npz")
    assert_close([found[name] for name in found.files if name != "drawn"], alone, 1e-11)
    assert len(found["drawn"]) == 2
    assert not np.allclose(*found["drawn"])


def test_two_workers_have_the_gradients_of_one_process(alone, tmp_path):
    workers = [f"localhost:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DISTRIBUTED, str(tmp_path / f"{index}.npz"), "workers"],
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT
            | {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})},
        )
        for index in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    found = [np.load(tmp_path / f"{index}.npz") for index in range(2)]
    for each in found:
        assert_close([each[name] for name in each.files if name != "drawn"], alone, 1e-11)
    assert not np.allclose(found[0]["drawn"], found[1]["drawn"])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
