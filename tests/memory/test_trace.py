"""Repeating a layer in a trace, and counting what a trace holds."""

from __future__ import annotations

from llmcausal.memory.prediction import COMPONENTS
from llmcausal.memory.replay import replay
from llmcausal.memory.trace import FIRST_LAYERS, REAL_LAYERS, Allocation, Trace, extended


def traced(layers: int, *, odd: int | None = None) -> Trace:
    """A forward and a backward pass: each layer keeps its output until its backward pass is done,
    its gradient until the end, and takes something while it runs."""
    trace = Trace()

    def make(size: int, component: str, phase: str) -> int:
        return trace.allocate(Allocation(size, component, "test", phase))

    for layer in range(layers):
        trace.mark("weights", layer)
        make(5000, "base_model", "weights")
    kept, gradients = [make(700, "activations", "forward")], []
    for layer in range(layers):
        trace.mark("forward", layer)
        while_running = make(9000 if layer != odd else 100, "activations", "forward")
        kept.append(make(1000, "activations", "forward"))
        trace.free(while_running)
        if layer == odd:
            trace.free(kept.pop(-2))
    loss = make(3000, "logits", "loss")
    for layer in range(layers)[::-1]:
        trace.mark("backward", layer)
        while_running = make(12000, "activations", "backward")
        if len(kept) > 1:
            trace.free(kept.pop())
        gradients.append(make(200, "gradients", "backward"))
        trace.free(while_running)
    trace.free(loss)
    for gradient in gradients:
        trace.free(gradient)
    return trace


def test_more_layers_are_as_if_they_had_been_run() -> None:
    for layers in (REAL_LAYERS, 8, 20):
        longer, real = extended(traced(REAL_LAYERS), layers), traced(layers)
        assert longer is not None
        assert longer.allocations == real.allocations
        assert replay(longer, caching=True) == replay(real, caching=True)


def test_layers_that_differ_are_not_repeated() -> None:
    assert extended(traced(REAL_LAYERS, odd=FIRST_LAYERS), 12) is None


def test_components_add_up_and_the_peak_is_in_the_timeline() -> None:
    result = replay(traced(8), caching=False)
    assert tuple(result.components) == COMPONENTS
    # Eight layers' weights and outputs, the input, the loss, and what the last layer takes.
    assert result.allocated_bytes == 8 * 5000 + 8 * 1000 + 700 + 3000 + 12000
    assert result.peak_phase == "backward"
    sums = [sum(moment.allocated_bytes.values()) for moment in result.timeline]
    assert max(sums) == result.allocated_bytes == sum(result.components.values())
    assert sum(each.bytes for each in result.peak_tensors) == result.allocated_bytes


def test_pinned_blocks_are_powers_of_two_and_serve_their_own_size_again() -> None:
    trace = Trace()

    def make(size: int, *, pinned: bool) -> int:
        return trace.allocate(Allocation(size, "misc", "test", "forward", host=True, pinned=pinned))

    make(1002, pinned=True)  # 1024
    first = make(513, pinned=True)  # 1024 of a second block of this size
    make(700, pinned=False)
    trace.free(first)
    make(600, pinned=True)  # takes the block that was freed
    make(512, pinned=True)  # 512, which the larger block does not serve
    result = replay(trace, caching=True)
    assert result.host_bytes == 2 * 1024 + 512 + 700
    assert result.allocated_bytes == 0
