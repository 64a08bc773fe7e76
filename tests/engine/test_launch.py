"""Which job a process belongs to, and that it does not matter who started the processes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from jobs import arguments, command, in_a_process, losses

from co_detr.engine.environment import Place, expand_hosts, place_in_job
from co_detr.engine.launch import _device, launch

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node07",
    "MASTER_PORT": "29500",
}
# the second task of the second of two nodes, dealt out one to each node in turn
SRUN = {
    "SLURM_JOB_ID": "40123",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "1",
}
SBATCH = {"SLURM_JOB_ID": "40123", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_torchrun_says_who_a_process_is():
    assert place_in_job(TORCHRUN) == Place(5, 8, 1, 4, "env://")


def test_torchrun_wins_over_the_srun_that_started_it():
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "2"}
    assert place_in_job(TORCHRUN | step) == Place(5, 8, 1, 4, "env://")


def test_one_machine_is_assumed_where_nothing_says_how_many_processes_each_has():
    env = {name: value for name, value in TORCHRUN.items() if name != "LOCAL_WORLD_SIZE"}
    assert place_in_job(env | {"RANK": "1", "WORLD_SIZE": "2"}).local_size == 2
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE must be a number, but is 'missing'"):
        place_in_job(env)


def test_srun_says_who_a_process_is_and_ranks_go_node_by_node():
    # 12000 + (40123 + 2 * 1009) % 20000
    assert place_in_job(SRUN) == Place(1, 4, 1, 2, "tcp://node07:14141")
    later = {**SRUN, "SLURM_PROCID": "3", "SLURM_NODEID": "1"}
    assert place_in_job(later) == Place(3, 4, 1, 2, "tcp://node07:14141")


def test_on_a_single_node_processes_meet_without_its_name():
    env = {**SRUN, "SLURM_STEP_NODELIST": "node07", "SLURM_STEP_TASKS_PER_NODE": "4"}
    assert place_in_job(env) == Place(1, 4, 1, 4, "tcp://127.0.0.1:14141")


def test_an_address_in_the_environment_comes_before_srun_s():
    env = SRUN | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4242"}
    assert place_in_job(env).url == "tcp://10.0.0.7:4242"


def test_without_the_variables_of_the_step_those_of_the_job_are_read():
    env = {"SLURM_STEPID": "0", "SLURM_NTASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "1"}
    env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a,b"}
    assert place_in_job(env) == Place(4, 6, 1, 3, "tcp://a:12007")


@pytest.mark.parametrize(
    "env",
    [
        {},
        SBATCH,
        {**SBATCH, "SLURM_STEP_ID": "4294967291"},  # the number of a batch script
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},  # a shell by `srun --pty` in a job of many tasks
        {"WORLD_SIZE": "2", "MASTER_ADDR": "node07"},  # left over in a shell
        {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_nobody_started_for_a_job_is_a_job_of_its_own(env):
    assert place_in_job(env, num_gpus=8) is None


def test_a_shell_of_a_step_of_many_tasks_is_no_task(monkeypatch):
    env = {**SRUN, "SLURM_PTY_PORT": "40001"}
    monkeypatch.setattr("os.isatty", lambda fd: True)
    assert place_in_job(env) is None
    monkeypatch.setattr("os.isatty", lambda fd: False)  # `srun` typed into that shell
    assert place_in_job(env).rank == 1


def test_options_that_ask_for_another_job_are_refused():
    assert place_in_job(TORCHRUN, num_gpus=4, num_machines=2).world_size == 8
    with pytest.raises(ValueError, match="--num-gpus 8 .* torchrun started 4 processes on each of"):
        place_in_job(TORCHRUN, num_gpus=8)
    with pytest.raises(ValueError, match="--num-machines 4, but srun started 2 processes on each"):
        place_in_job(SRUN, num_machines=4)


def test_contradictions_in_the_environment_are_named():
    with pytest.raises(ValueError, match="RANK=1, as torchrun sets it, but not MASTER_ADDR, MAST"):
        place_in_job({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    with pytest.raises(ValueError, match=r"TASKS_PER_NODE=4\(x2\),2, but all nodes must have the"):
        place_in_job({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x2),2"})
    with pytest.raises(ValueError, match="SLURM_LOCALID must be a number, but is 'one'"):
        place_in_job({**SRUN, "SLURM_LOCALID": "one"})


@pytest.mark.parametrize(
    "nodelist, hosts",
    [
        ("node07", ["node07"]),
        ("node[01-03,7],gpu", ["node01", "node02", "node03", "node7", "gpu"]),
        ("rack[1-2]n[09-10]-ib", ["rack1n09-ib", "rack1n10-ib", "rack2n09-ib", "rack2n10-ib"]),
        ("a.b-c,d[5]", ["a.b-c", "d5"]),
        ("", []),
    ],
)
def test_hosts_are_expanded(nodelist, hosts):
    assert expand_hosts(nodelist) == hosts


def test_each_process_has_a_gpu_of_its_own():
    assert [_device(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert _device(3, 1) == 0  # of four, a scheduler shows it one
    with pytest.raises(ValueError, match=r"process 2 of this machine .* has no GPU: 2 are visible"):
        _device(2, 2)


def test_several_machines_need_an_address(tmp_path):
    args = arguments(tmp_path)
    args.num_machines = 2
    with pytest.raises(ValueError, match="--num-machines 2 needs --dist-url tcp://"):
        launch(None, args)


def test_torchrun_and_num_gpus_train_alike_at_the_same_time(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    args = arguments(tmp_path / "num_gpus")
    args.num_gpus = 2
    with ThreadPoolExecutor() as beside:
        job = beside.submit(command, tmp_path / "torchrun", starter=torchrun)
        assert in_a_process(args) == 0
    assert job.result().returncode == 0, job.result().stderr
    assert {len(lines) for lines in losses(tmp_path / "torchrun").values()} == {2}
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "num_gpus")
    weights = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("torchrun", "num_gpus")
    ]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
