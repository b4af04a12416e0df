"""Leave out a pass of coremltools over ML programs that is inexact, and fails in half precision."""

import contextlib

# It turns a product and a sum into a normalization of variance 1, and divides by sqrt(1 + 1e-5). Each layer would lose
# 5e-6 of its size, up to 1e-4 of a probability in a U-net. Other passes fold exactly. In half precision it raises a
# ValueError, since it makes means and variances of 32 bits for an input of 16.
INEXACT_PASS = "common::fuse_elementwise_to_batchnorm"


def exact_pipeline():
    """coremltools.PassPipeline without the inexact pass, for `coremltools.convert`."""
    import coremltools as ct  # slow to import

    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({INEXACT_PASS})
    return pipeline


@contextlib.contextmanager
def exact_passes():
    """Let the inexact pass do nothing in functions of coremltools that take no pipeline, such as its compression."""
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass  # slow to import
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    class NoPass(AbstractGraphPass):
        def apply(self, prog):
            pass

    kept = PASS_REGISTRY.passes[INEXACT_PASS]
    PASS_REGISTRY.passes[INEXACT_PASS] = NoPass
    try:
        yield
    finally:
        PASS_REGISTRY.passes[INEXACT_PASS] = kept
