"""What holds for every test: no network, no window, repeatable arithmetic."""
import os

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import socket  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

HERE = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Only this machine may be spoken to (two processes that train together do, and so does a notebook's kernel)."""
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
