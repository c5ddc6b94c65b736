"""Loaded by vLLM's workers (`--worker-extension-cls`): new weights in place, from a model folder.

vLLM 0.32's `reload_weights` is not enough on a CPU. At the start each linear layer packs its matrix for
oneDNN and computes with the copy, `layer.cpu_linear`. A reload packs anew in the layers whose names are in
the files. A head that is tied to the embeddings is a layer of its own without such a name: its `weight` is
theirs and changes with them, its packed copy stays what it was, and the logits are those of the old head.
"""

from importlib import import_module
from typing import Any


class WeightLoader:
    """Becomes a base class of vLLM's worker, whose methods and model it uses."""

    def palaestra_load(self, folder: str) -> dict[str, int]:
        """Serve the weights of a model folder from now on. Nothing may be in flight."""
        worker: Any = self
        worker.reload_weights(weights_path=folder)
        return {"repacked": sum(_repack(layer) for layer in worker.get_model().modules())}


def _repack(layer: Any) -> bool:
    """Make a layer compute with the weight that it has now, where it still has one beside its packed copy."""
    weight = getattr(layer, "weight", None)
    if not hasattr(layer, "cpu_linear") or weight is None or weight.ndim != 2 or not weight.numel():
        return False
    utils: Any = import_module("vllm.model_executor.layers.utils")
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    return True
