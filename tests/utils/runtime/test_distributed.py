"""utils.runtime.distributed: processes, their group and what they gather; two real ones over gloo."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.training import Server
from utils.runtime.distributed import (
    any_rank,
    broadcast_from_rank0,
    gather_lists,
    mean_over_ranks,
    pick_device,
    process_group,
    rank,
    world_size,
)
from utils.runtime.errors import UserError

TWO = """
import torch
import torch.distributed as dist
from utils.runtime.distributed import gather_lists, process_group, rank, world_size
try:
    with process_group(torch.device("cpu")):
        print(rank(), world_size(), gather_lists([(rank(), i) for i in range(3 - 2 * rank())]))
        raise KeyError("inside")
except KeyError:
    print("taken down", not dist.is_initialized())
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_needs_no_group() -> None:
    with process_group(torch.device("cpu")):
        assert not dist.is_initialized()
        assert (rank(), world_size()) == (0, 1)
        assert gather_lists([1, 2]) == [1, 2]


def test_the_launchers_rank_holds_before_there_is_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert rank() == 3


def test_two_processes_gather_in_the_order_of_ranks_and_leave_no_group_behind(server: Server) -> None:
    assert [one.stdout.splitlines() for one in server.run_code(TWO, world=2)] == [
        ["0 2 [(0, 0), (0, 1), (0, 2), (1, 0)]", "taken down True"],
        ["1 2 None", "taken down True"],
    ]


@pytest.mark.parametrize(("backend", "taken_down"), [("gloo", True), ("nccl", False)])
def test_after_an_error_nccls_group_is_left_so_that_the_error_is_told(
    monkeypatch: pytest.MonkeyPatch, backend: str, taken_down: bool
) -> None:
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(1))
    with pytest.raises(KeyError), process_group(torch.device("cpu")):
        raise KeyError("inside")
    assert bool(calls) == taken_down
    calls.clear()
    with process_group(torch.device("cpu")):
        pass
    assert calls


def test_devices_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device() == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device cuda:0 is not there; PyTorch finds 0 GPUs"):
        pick_device("cuda")


def test_every_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device cuda:2 is not there; PyTorch finds 2 GPUs"):
        pick_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pick_device() == pick_device("cuda") == torch.device("cuda:1")
    assert taken == [torch.device("cuda:1")] * 3
    with pytest.raises(UserError, match="several processes cannot share"):
        pick_device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "meta", ""])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps"):
        pick_device(name)


def test_a_macs_gpu_is_taken_where_there_is_one_and_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device mps is not there: it is the GPU of a Mac"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps") and pick_device() == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device mps is one GPU, which several processes cannot share"):
        pick_device("mps")


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [pick_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        *map(torch.device, ("cuda:1", "cuda:1", "cuda:0", "cpu"))
    ]
    assert len(taken) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pick_device("cuda") == torch.device("cuda:1")
    with pytest.raises(UserError, match="cuda:0 is one GPU, which several processes cannot share"):
        pick_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="cuda:2 is not there; PyTorch finds 2 GPUs"):
        pick_device()


TOGETHER = """
import torch
from utils.runtime.distributed import any_rank, barrier, broadcast_from_rank0, mean_over_ranks, process_group, rank
from utils.runtime.errors import UserError

def mistaken():
    raise UserError("no such folder")

cpu = torch.device("cpu")
with process_group(cpu):
    print(any_rank([False, rank() == 1, torch.tensor(rank() == 0)], cpu))
    print(mean_over_ranks(torch.tensor([1.0, 3.0 + rank()])).tolist())
    print(broadcast_from_rank0((lambda: "said by 0") if rank() == 0 else None))
    barrier()
    try:
        broadcast_from_rank0(mistaken if rank() == 0 else None)
    except UserError as error:
        print(error)
"""
SAID = ["[False, True, True]", "[1.0, 3.5]", "said by 0", "no such folder"]


def test_two_processes_agree(server: Server) -> None:
    assert [one.stdout.splitlines() for one in server.run_code(TOGETHER, world=2)] == [SAID, SAID]


def test_a_single_process_agrees_with_itself() -> None:
    assert any_rank([False, torch.tensor(True)], torch.device("cpu")) == [False, True]
    assert mean_over_ranks(torch.tensor([2.0])).tolist() == [2.0] and broadcast_from_rank0(lambda: 5) == 5
    error = UserError("no such folder")
    with pytest.raises(UserError) as caught:
        broadcast_from_rank0(lambda: (_ for _ in ()).throw(error))
    assert caught.value is error
