"""A runner that computes nothing: it logs what it is asked beside the model and misbehaves as the model's name says.

``hang-warm.onnx`` hangs where the event ``warm`` is due, ``plain.onnx`` behaves, ``busy-1-3.onnx`` is disturbed in its
batches 1 and 3 (from 0) and takes twice as long in them; ``busy-all.onnx`` always is. ``hot-3.onnx`` is held back by
heat in its batch 0 and until it was looked at 3 times; ``long.onnx`` takes 40 s, it says. ``some-hang.onnx`` tells of 3
inferences of its first batch, then hangs, ``some-exit.onnx`` dies there.
"""

import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

job = json.loads(sys.argv[1])
model = Path(job["model"])
how, _, where = model.stem.partition("-")


def log(text: str) -> None:
    with model.with_name("log").open("a") as file:
        file.write(f"{text}\n")


def say(event: str, **details: object) -> None:
    line = json.dumps({"event": event, **details})
    if event == where:
        if how == "hang":
            time.sleep(600)
        if how == "garbage":
            line = "Welcome to this board!"
        if how == "stranger":
            line = '{"event": "surprise"}'
        if how == "bare":  # whose event is that?
            line = json.dumps({"event": event})
        if how == "endless":
            line = "x" * 100_000_000
            print(line, end="", flush=True)
            time.sleep(600)
        if how == "infinite":
            line = json.dumps({"event": event, **details, "samples_ms": [1.0, float("inf")]})
        if how == "exit":
            sys.exit("no more paper")
        if how == "half":
            print(line[:5], end="", flush=True)
            sys.exit(0)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    print(line, flush=True)


def watch() -> None:  # as the real one: it leaves when nobody reads its events
    closed = select.poll()
    closed.register(1, 0)
    while not closed.poll():
        pass
    os._exit(1)


threading.Thread(target=watch, daemon=True).start()
log(f"pid {os.getpid()}")
board = {"board": None, "cpu": "Fake-1", "machine": "none", "governor": "powersave" if how == "governor" else None}
board |= {"capacities": {"0": 400, "1": 400, "2": 1024, "3": 1024}} if how == "big" else {}
board |= {"board": "Raspberry Pi 9"} if how == "pi" else {}
say("ready", runtime="fake 1", load_ms=1.0, first_ms=2.0, inputs=[], board=board)
taken = looks = 0


def seen() -> dict[str, object]:
    """What a board says that gets cooler by 4 degrees a look."""
    if how != "hot":
        return {"throttled": None if where == "mute" else 0}
    left = int(where) - looks if taken else 0
    zone = {"type": "cpu-thermal", "celsius": 74.0 + 4.0 * left, "trips": [["passive", 80.0]]}
    return {"throttled": 4 if left > 0 else 0, "heat": {"thermal_zone0": zone}}


for text in sys.stdin:
    command = json.loads(text)
    log(f"begin {model.stem} {text.strip()}")
    do, runs = command["do"], command.get("runs", 0)
    time.sleep(0.005)  # its computing
    log(f"finish {model.stem}")  # before the event: after it, the next runner may begin at once
    if do == "warmup":
        say("warm", runs=runs, stable=how != "cold")
    elif do == "run" and how == "some":
        say("some", samples_ms=[4.0] * 2, cpu_ms=8.0, wall_ms=8.0)
        say("some", samples_ms=[5.0], cpu_ms=5.0, wall_ms=5.0)
        log("some")
        time.sleep(600 if where == "hang" else 0)
        sys.exit("no more paper")
    elif do == "run":
        runs = {"slow": 2, "long": 1}.get(how, runs)
        bad = how == "busy" and (where == "all" or str(taken) in where.split("-"))
        before = seen()
        taken += 1
        samples = [{"drift": 4.0 + i, "long": 40e3}.get(how, 4.0) for i in range(runs)]
        say(
            "samples",
            samples_ms=[2 * ms for ms in samples] if bad else samples,
            cpu_ms=sum(samples) * {"threads": 1.9, "waits": 0.4}.get(how, 1.0),
            wall_ms=sum(samples),
            before=before,
            after={"throttled": 1} if bad else seen(),  # under-voltage: no heat,
        )
    elif do == "look":
        looks += 1
        say("look", after=seen())
    else:
        say("end", peak_rss_bytes=20_000_000)
        break
