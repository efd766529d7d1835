#!/usr/bin/env python3
"""Two hours of 200 ticks a second on NATS: is the memory of beat and workers flat, is each tick run once?

    cargo build --release && benches/soak.py [SECONDS] [JOBS]

Each job writes its run's id to a file; at the end the ids are held against the ticks between the first and the
last. One line a minute, the findings last.
"""

import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7200
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
PORT = 14622
ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER = os.environ.get("NATS_SERVER_BIN", str(ROOT / "target/tools/nats-server"))
URL = f"nats://127.0.0.1:{PORT}"


def resident(process):
    """Resident memory in MB, and seconds of CPU used."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return kilobytes / 1024, (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(what, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not come about within {seconds} s")
        time.sleep(0.1)


def check(ran):
    """Holds the ids against the ticks; returns what is wrong."""
    wrong = []
    total = 0
    for file in sorted(ran.iterdir()):
        ids = file.read_text().split()
        ticks = [datetime.strptime(name.split("@")[1], "%Y%m%dT%H%M%SZ") for name in ids]
        ticks = sorted(tick.replace(tzinfo=timezone.utc).timestamp() for tick in ticks)
        total += len(ticks)
        expected = int(ticks[-1] - ticks[0]) + 1
        if len(set(ticks)) != len(ticks):
            wrong.append(f"{file.name}: {len(ticks) - len(set(ticks))} ticks ran twice")
        if len(set(ticks)) != expected:
            wrong.append(f"{file.name}: {expected - len(set(ticks))} of {expected} ticks did not run")
    if len(list(ran.iterdir())) != JOBS:
        wrong.append(f"only {len(list(ran.iterdir()))} of {JOBS} jobs ran")
    print(f"{total} runs of {JOBS} jobs, {len(wrong)} findings")
    return wrong


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="soak."))
    ran = work / "ran"
    ran.mkdir()
    (work / "schedules").mkdir()
    jobs = "[defaults]\nevery = \"1s\"\noverlap = \"allow\"\n"
    for number in range(JOBS):
        jobs += f"[job.soak-{number}]\nshell = \"echo $ORCHESTRATOR_RUN_ID >> {ran}/{number}\"\n"
    (work / "schedules/soak.toml").write_text(jobs)
    orchestrator = str(ROOT / "target/release/orchestrator")

    def start(name, *command):
        log = open(work / f"{name}.log", "w")
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    started = []
    try:
        server = start("nats", SERVER, "-js", "-sd", str(work / "nats"), "-a", "127.0.0.1", "-p", str(PORT))
        started.append(server)
        wait_for("nats-server", lambda: "Server is ready" in (work / "nats.log").read_text())
        beat = start("beat", orchestrator, "beat", "--nats", URL, "--data-dir", str(work / "beat"),
                     "--schedules", str(work / "schedules"))
        workers = [start(f"worker{n}", orchestrator, "worker", "--nats", URL, "--data-dir", str(work / f"w{n}"),
                         "--queue", "default", "--concurrency", "16") for n in (1, 2)]
        started += [beat, *workers]
        watched = {"beat": beat, "worker 1": workers[0], "worker 2": workers[1], "nats-server": server}
        samples = {name: [] for name in watched}
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            time.sleep(min(60, max(0, began + SECONDS - time.monotonic())))
            line = f"{time.monotonic() - began:7.0f} s"
            for name, process in watched.items():
                if process.poll() is not None:
                    sys.exit(f"{name} ended with {process.returncode}; see {work}")
                megabytes, cpu = resident(process)
                samples[name].append(megabytes)
                line += f"  {name} {megabytes:.1f} MB {cpu:.0f} s"
            print(line, flush=True)
        beat.send_signal(signal.SIGTERM)
        beat.wait(60)
        sizes = []
        def quiet():
            sizes.append(sum(file.stat().st_size for file in ran.iterdir()))
            return len(sizes) > 30 and sizes[-1] == sizes[-30]
        wait_for("an end of the runs", quiet, 600)
        wrong = check(ran)
        for name in ("beat", "worker 1", "worker 2"):
            tenth = max(1, len(samples[name]) // 10)
            early = statistics.median(samples[name][tenth:2 * tenth] or samples[name])
            last = statistics.median(samples[name][-tenth:])
            print(f"{name}: {early:.1f} MB after a tenth of the time, {last:.1f} MB at the end")
            if last > early * 1.1 + 2:
                wrong.append(f"the memory of {name} grew from {early:.1f} to {last:.1f} MB")
        print("\n".join(wrong[:20]) or "nothing wrong")
        if not wrong:
            shutil.rmtree(work)
        sys.exit(bool(wrong))
    finally:
        for process in reversed(started):
            if process.poll() is None:
                process.terminate()
        for process in started:
            process.wait(60)


if __name__ == "__main__":
    main()
