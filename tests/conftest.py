"""What holds for every test: no network, no window, repeatable arithmetic."""

import os

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # a worker for each core: more threads would only wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"

import socket  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

HERE = ("127.0.0.1", "::1", "localhost")


def pytest_collection_modifyitems(config, items):
    """Of several workers none shall begin the longest test when the others are done: slow ones first."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: (
                item.get_closest_marker("xdist_group") is None,
                item.get_closest_marker("slow") is None,
            )
        )


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Only this machine may be spoken to (two processes that train together do, and so does a notebook's
    kernel).
    """

    def guarded(method):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
                raise RuntimeError(f"a test wants to reach {address[0]}: tests must not use the network")
            return method(self, address)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield


@pytest.fixture(autouse=True, scope="session")
def repeatable():
    """Deterministic kernels, and few threads: the tensors here are small."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(min(torch.get_num_threads(), 4))
