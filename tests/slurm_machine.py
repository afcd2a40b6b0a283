"""A real SLURM of one node that runs for the time of a test. It needs root.

Its programs are Debian's: apt-get install slurm-wlm munge
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch")
CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={port2}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=20
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=30
OverTimeLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MinJobAge=600
GresTypes=gpu
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.log
NodeName={host} CPUs={cpus} RealMemory=2000 Gres=gpu:A100:1 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why SLURM cannot run here, or None if it can."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    return f"no {absent[0]} here: apt-get install slurm-wlm munge" if absent else None


@contextmanager
def running_slurm(directory: Path) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd; yield the environment of commands that talk to them."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    config = directory / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, port=free_port(), port2=free_port(), dir=directory, cpus=2)
    )
    gpu = directory / "gpu"  # a fake one: SLURM only looks at its name
    gpu.touch()
    (directory / "gres.conf").write_text(f"Name=gpu Type=A100 File={gpu}\n")
    environ = os.environ | {"SLURM_CONF": str(config)}
    subprocess.run(["service", "munge", "start"], check=True, capture_output=True)
    daemons = [["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]]
    processes = [
        subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in daemons
    ]
    try:
        subprocess.run(
            ["timeout", "60", "bash", "-c", "until sinfo -h -o %t | grep -q idle; do :; done"],
            env=environ,
            check=True,
            capture_output=True,
        )
        yield environ
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], env=environ, capture_output=True)
        for process in processes:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
