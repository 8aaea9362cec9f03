"""A real Slurm of one node: munged, slurmctld and slurmd, for the time of a test, in a folder of its own.

It needs Debian's packages munge, slurmctld, slurmd and slurm-client, and root, whom it runs jobs as. Nothing else is
asked of the machine: no systemd, no cgroups, no accounting. `SLURM_CONF` leads Slurm's commands to it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODE = "node1"
CPUS = 8
"""More than there are: jobs of tests wait for files and clocks."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=300
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""


@dataclass
class Slurm:
    """What is started, and how to start and stop one of it."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """What SLURM_CONF has to be."""
        return self.folder / "slurm.conf"

    def start(self, program: str, *arguments: str) -> None:
        """Start one of the daemons, in the foreground of nobody."""
        with (self.folder / f"{program}.out").open("ab") as out:
            self.processes[program] = subprocess.Popen(
                [_found(program), *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment
            )

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self.start("slurmctld", "-D")
        self.wait_for("scontrol", "ping", saying="is UP")

    def stop(self, program: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop one of the daemons."""
        process = self.processes.pop(program, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints, errors included."""
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            env=self.environment,
        )  # fmt: skip
        return done.stdout.strip()

    def wait_for(self, *command: str, saying: str, seconds: float = 30) -> None:
        """Run a command until it says that."""
        deadline = time.monotonic() + seconds
        while saying not in (said := self.run(*command)):
            assert time.monotonic() < deadline, (command, said, self.told())
            time.sleep(0.1)

    def told(self) -> dict[str, str]:
        """The ends of all logs."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return {log.name: log.read_text(errors="replace")[-2000:] for log in logs}


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm in `folder`, up and idle; all of its jobs and processes end with it."""
    cluster = Slurm(folder)
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # munge's clients have to reach its socket
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    ports = _free_ports(2)
    cluster.conf.write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), controller_port=ports[0], node_port=ports[1], folder=folder, node=NODE, cpus=CPUS
        ).lstrip()
    )
    # This one touches nothing that it is not asked for; without a word slurmd looks for the machine's, and insists.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    try:
        cluster.start(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log",
        )  # fmt: skip
        _wait_until((folder / "munge.socket").exists, cluster)
        cluster.start_controller()
        cluster.start("slurmd", "-D", "-N", NODE)
        cluster.wait_for("sinfo", "--noheader", "--format=%T", saying="idle")
        over = threading.Event()
        thread = threading.Thread(target=_hurry, args=(cluster, over))
        thread.start()
        try:
            yield cluster
        finally:
            over.set()
            thread.join()
    finally:
        _end(cluster)


def _hurry(cluster: Slurm, over: threading.Event) -> None:
    """Slurm leaves a job that was requeued alone for two minutes; here for two seconds."""
    hurried = set()
    while not over.wait(0.5):
        jobs = cluster.run("scontrol", "--oneliner", "show", "job")
        waiting = set(re.findall(r"JobId=(\d+) .* JobState=PENDING Reason=BeginTime .* Restarts=([1-9]\d*)", jobs))
        for number, restarts in waiting - hurried:
            cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now+2")
            hurried.add((number, restarts))


def _end(cluster: Slurm) -> None:
    if {"slurmctld", "slurmd"} <= cluster.processes.keys():
        with contextlib.suppress(AssertionError):
            cluster.run("scancel", "--user=root")
            deadline = time.monotonic() + 20
            while cluster.run("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.1)
    for program in reversed(list(cluster.processes)):
        cluster.stop(program)


def _found(program: str) -> str:
    """Daemons are in /usr/sbin, which is not on everybody's path."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or program


def is_installed() -> bool:
    """Whether there is all that it needs."""
    return os.geteuid() == 0 and all(shutil.which(_found(program)) for program in PROGRAMS)


def _wait_until(ready: Callable[[], bool], cluster: Slurm, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, cluster.told()
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
