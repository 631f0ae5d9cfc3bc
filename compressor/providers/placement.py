"""Where ONNX Runtime puts each node, predicted as its partitioner decides it.

    a provider takes a node when it has a kernel for its operator, opset and types, and no rule sends it elsewhere;
    CUDA then gives small computations on shapes back to the CPU: nodes that read only what already lies in the
    host's memory (the output of Shape, small constants, graph inputs) and whose kernel would want it on the device;
    what no provider took is the CPU's: as it is, in float32 between two casts (float16), or not at all.

Follows the algorithm of ONNX Runtime's `fallback_cpu_capability.cc`; nodes of subgraphs are placed like all others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from compressor.providers import kernels, rules, tensorrt
from compressor.providers.graph_types import subgraphs, type_of, types_of
from compressor.providers.kernels import CPU, CUDA, TENSORRT, Kernel, KernelTable

Outcome = Literal["runs", "host", "falls back", "refused"]
SMALL = 100  # elements; ONNX Runtime's limit for a constant that is cheap to have on both sides
NEVER_ON_HOST = ("float16", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz")
# Providers in the order in which ONNX Runtime asks them.
CHAINS = {"cpu": (CPU,), "cuda": (CUDA, CPU), "tensorrt": (TENSORRT, CUDA, CPU)}


@dataclass(frozen=True)
class Placed:
    """One node and its provider. `host`: shapes computed on the CPU by design; `falls back`: the target cannot."""

    node: ir.Node = field(repr=False)
    graph: ir.Graph = field(repr=False)
    provider: str | None
    outcome: Outcome
    why: str = ""

    @property
    def name(self) -> str:
        return self.node.name or str(self.node.outputs[0].name)

    @property
    def operator(self) -> str:
        return f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type


@dataclass(frozen=True)
class Placer:
    """Places the nodes of a model whose types are known (`graph_types.prepared`)."""

    target: str
    table: KernelTable
    opsets: Mapping[str, int]

    def place(self, graph: ir.Graph) -> list[Placed]:
        """Every node, those of subgraphs after the node that carries them."""
        host = self._shape_arithmetic(graph) if CUDA in CHAINS[self.target] else set()
        placed = (self._placed(node, graph, on_host=node in host) for node in graph if node.op_type != "Constant")
        return [one for ones in placed for one in ones]

    def kernel(self, provider: str, node: ir.Node, *, widened: bool = False) -> Kernel | None:
        """A provider's kernel for a node; `widened`: for the same node in float32."""
        schema = kernels.schema(node.domain, node.op_type, self.opsets.get(node.domain, 1))
        if schema is None:
            return None
        types = types_of(node, schema)
        if widened:
            types = {name: "float" if one == "float16" else one for name, one in types.items()}
        return self.table.find(provider, node.domain, node.op_type, int(schema.since_version), types)

    def _placed(self, node: ir.Node, graph: ir.Graph, *, on_host: bool) -> Iterator[Placed]:
        yield self._judge(node, graph, on_host=on_host)
        for inner in subgraphs(node):
            yield from self.place(inner)

    def _judge(self, node: ir.Node, graph: ir.Graph, *, on_host: bool) -> Placed:
        wanted, *others = CHAINS[self.target]
        reason = self.refusal(wanted, node)
        if reason is None and not (on_host and wanted == CUDA):
            return Placed(node, graph, wanted, "runs")
        if on_host:
            return Placed(node, graph, CPU, "host", "computes a shape from what lies in the host's memory")
        for provider in others:
            if self.refusal(provider, node) is None:
                return Placed(node, graph, provider, "falls back", reason or "")
        if self.kernel(CPU, node, widened=True):
            why = "no float16 kernel; runs in float32 between casts"
            outcome: Outcome = "runs" if self.target == "cpu" else "falls back"
            return Placed(node, graph, CPU, outcome, why if self.target == "cpu" else f"{reason}; on the CPU {why}")
        return Placed(node, graph, None, "refused", f"no provider has a kernel: {reason}")

    def refusal(self, provider: str, node: ir.Node) -> str | None:
        """Why a provider declines a node; None when it takes it."""
        if provider == TENSORRT:
            return tensorrt.refusal(node)
        if self.kernel(provider, node) is None:
            return self._no_kernel(provider, node)
        if provider == CUDA:
            return next(
                (one.why for one in rules.FALLBACKS if node.op_type in one.operators and one.applies(node)), None
            )
        return None

    def _no_kernel(self, provider: str, node: ir.Node) -> str:
        schema = kernels.schema(node.domain, node.op_type, self.opsets.get(node.domain, 1))
        short = provider.removesuffix("ExecutionProvider")
        if schema is None:
            return f"nobody defines {node.domain or 'ai.onnx'}.{node.op_type}"
        known = self.table.types_of(provider, node.domain, node.op_type, int(schema.since_version))
        if not known:
            return f"{short} has no {node.op_type} kernel for this opset"
        given = sorted({one for value in node.inputs if (one := type_of(value))})
        return f"{short} has no {node.op_type} kernel for {', '.join(given)} (it has {'; '.join(known)})"

    def _shape_arithmetic(self, graph: ir.Graph) -> set[ir.Node]:
        """Nodes that CUDA could run and leaves to the CPU, walked in the order of the graph."""
        order = {node: at for at, node in enumerate(graph)}
        taken = {node for node in graph if self.refusal(CUDA, node) is None}
        on_host = {value for node in taken for value in host_outputs(node)}
        waiting = [(order[node], node) for value in on_host for node in _readers(value, graph)]
        heap = sorted({at for at, _ in waiting})
        nodes, seen, found = list(graph), set[int](), set[ir.Node]()
        while heap:
            at = heapq.heappop(heap)
            if at in seen:
                continue
            seen.add(at)
            node = nodes[at]
            if node in taken and not self._reads_host_alone(node, graph, on_host):
                continue
            if node in taken:
                found.add(node)
            on_host |= set(node.outputs)
            for reader in {one for value in node.outputs for one in _readers(value, graph)}:
                heapq.heappush(heap, order[reader])
        return found

    def _reads_host_alone(self, node: ir.Node, graph: ir.Graph, on_host: set[ir.Value]) -> bool:
        """Every input is small, a graph input, or on the host where the kernel wants the device."""
        host_inputs = rules.HOST_INPUTS.get((node.domain, node.op_type), ())
        for index, value in enumerate(node.inputs):
            if value is None:
                continue  # absent: nothing to read
            if type_of(value) in NEVER_ON_HOST:
                return False
            if _is_small(value) or value in graph.inputs:
                continue
            if value not in on_host or index in host_inputs:
                return False
        return True


def host_outputs(node: ir.Node) -> Iterator[ir.Value]:
    """Outputs that a CUDA kernel leaves in the host's memory."""
    for index in rules.HOST_OUTPUTS.get((node.domain, node.op_type), ()):
        yield node.outputs[index]


def _readers(value: ir.Value, graph: ir.Graph) -> Sequence[ir.Node]:
    return [node for node in value.consumers() if node.graph is graph]


def _is_small(value: ir.Value) -> bool:
    return value.const_value is not None and math.prod(value.const_value.shape.numpy()) <= SMALL
