import pytest


@pytest.fixture
def deployment(broker, tmp_path, tiny_bundle, request):
    """Topics of its own for a test, on the broker that all share, and a worker's settings for them."""
    # Not before the warnings that kafka-python gives when it is imported are told to be ignored.
    from tests.worker.deployment import Deployment

    name = "".join(one if one.isalnum() else "-" for one in request.node.name)
    return Deployment(broker, tmp_path, tiny_bundle.bundle, name[:60])
