"""The launch scripts: shellcheck, and what they call, recorded by a stub in the place of gcloud and its like.

The configuration is full of spaces and quotes: each must arrive whole, through the worker's shell too.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TPU, GPU = ROOT / "scripts" / "tpu", ROOT / "scripts" / "gpu"
OPTION = """--config.init_from=it's "here", in $HOME; now"""

# Appends its own name and arguments to $CALLS, each ended by NUL, the last by two. What it answers stands in files:
# the next line of $ANSWERS/NAME.QUESTION is what it prints (`describe`, `status`) or its exit status (all the others).
STUB = r"""#!/usr/bin/env bash
name=${0##*/}
printf '%s\0' "$name" "$@" >>"$CALLS"
printf '\0' >>"$CALLS"
question=$name
case " $* " in
  *" describe "*) question=describe ;;
  *" create "*) question=create ;;
  *"worker.sh status"*) question=status ;;
esac
[[ "$name $1" != "git "* ]] || { echo 0123abcd; exit; }
answer=
if [[ -s $ANSWERS/$question ]]; then
  answer=$(head -n 1 "$ANSWERS/$question")
  sed -i 1d "$ANSWERS/$question"
fi
case $question in
  describe)
    [[ $answer != NOT_FOUND ]] || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
    [[ $answer != LOGIN ]] || { echo "ERROR: no active account. Please run: $ gcloud auth login" >&2; exit 1; }
    echo "${answer:-READY}"
    ;;
  status) printf 'training %s\n' $answer ;;
  *) exit "${answer:-0}" ;;
esac
"""

CONFIG = f"""
PROJECT='my project' ZONE=us-west4-a NAME=eca ACCELERATOR=v5litepod-16 RUNTIME_VERSION=v2-alpha-tpuv5-lite
PROVISIONING=${{PROVISIONING-queued-spot}} SLICES=${{SLICES-1}} BUCKET='gs://a bucket'
DATA_DIR="$BUCKET/data sets" WORKDIR="$BUCKET/runs/run 1" COMPILATION_CACHE="$BUCKET/xla" REPO_DIR='eca jax'
REVISION=${{REVISION:-HEAD}} POLL_SECONDS=0
TRAIN_ARGS=(--config=configs/eca_resnet50.py {shlex.quote(OPTION)})
"""


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


class Stage:
    """A place to run scripts in: stubs first on the PATH, a configuration, and the record of what was called."""

    def __init__(self, root: Path):
        self.root, self.record, self.answers = root, root / "calls", root / "answers"
        self.answers.mkdir()
        stubs = root / "bin"
        stubs.mkdir()
        for name in ("gcloud", "git", "mkdir", "tensorboard", "srun", "scontrol", "python", "tmux", "sudo"):
            (stubs / name).write_text(STUB)
            (stubs / name).chmod(0o755)
        (root / "config.env").write_text(CONFIG)
        self.environment = {
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "HOME": str(root),
            "CALLS": str(self.record),
            "ANSWERS": str(self.answers),
            "TPU_CONFIG": str(root / "config.env"),
            "PYTHON": str(stubs / "python"),
        }

    def answer(self, **lines: list) -> None:
        for question, answers in lines.items():
            (self.answers / question).write_text("".join(f"{line}\n" for line in answers))

    def run(self, *command: str | Path, status: int = 0, **environment: str) -> str:
        """Runs to the end, expects the exit status, and returns what was printed."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment | environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stderr + done.stdout
        self.errors = done.stderr
        return done.stdout

    def calls(self) -> list[list[str]]:
        """The programs called since the last time, with their arguments."""
        if not self.record.exists():
            return []
        calls = [call.split("\0") for call in self.record.read_text().split("\0\0")[:-1]]
        self.record.unlink()
        return calls


def verbs(calls: list[list[str]]) -> list[str]:
    """What each call is about: "create", "copy", "install", "train", "status", ..."""
    names = {
        "worker.sh install": "install",
        "worker.sh train": "train",
        "worker.sh status": "status",
        "tail -n": "logs",
    }
    found = []
    for call in calls:
        words = [word for text, word in names.items() if text in call[-1]]
        words += [word for word in ("create", "describe", "scp", "delete", "rsync", "archive") if word in call]
        found += words[:1] or call[:1]
    return found


def option(call: list[str], name: str) -> str:
    (value,) = (word.removeprefix(f"--{name}=") for word in call if word.startswith(f"--{name}="))
    return value


def test_every_script_passes_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is missing: pip install -r requirements-test.txt"
    scripts = [path for path in (ROOT / "scripts").rglob("*") if path.is_file() and path.suffix != ".py"]
    assert len(scripts) >= 14
    done = subprocess.run([shellcheck, *scripts, ROOT / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("provisioning", ["on-demand", "spot", "queued", "queued-spot"])
def test_the_life_of_a_slice_calls_gcloud_in_order(stage, provisioning):
    stage.environment["PROVISIONING"] = provisioning
    stage.answer(describe=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    for script in ("create", "setup", "train", "train", "delete"):  # the second time resumes: it is the same command
        stage.run(TPU / f"{script}.sh")
    calls = stage.calls()
    lives = ["describe"] * 3 + ["mkdir", "archive", "scp", "install", "train", "train", "delete"]
    assert verbs(calls) == ["create", *lives]
    create, delete = calls[0], calls[-1]
    queued = provisioning.startswith("queued")
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources" if queued else "tpu-vm", "create", "eca"]
    assert ("--spot" in create) == provisioning.endswith("spot")
    assert option(create, "accelerator-type") == "v5litepod-16"
    assert option(create, "runtime-version" if queued else "version") == "v2-alpha-tpuv5-lite"
    assert delete[:6] == ["gcloud", "compute", "tpus", "queued-resources" if queued else "tpu-vm", "delete", "eca"]
    gcloud = [call for call in calls if call[0] == "gcloud"]
    assert {(option(call, "project"), option(call, "zone")) for call in gcloud} == {("my project", "us-west4-a")}
    assert all(option(call, "worker") == "all" for call in calls if {"ssh", "scp"} & set(call))


SCRIPTS = [
    ("create.sh",),
    ("setup.sh",),
    ("train.sh", "--config.seed=1", "--config.data_dir=my data"),
    ("logs.sh",),
    ("logs.sh", "3"),
    ("fetch.sh",),
    ("fetch.sh", "my runs"),
    ("tensorboard.sh", "--port=6007"),
    ("delete.sh",),
    ("prepare_imagenet.sh", "my tars", "my scratch"),
    ("worker.sh", "install"),
]


@pytest.mark.parametrize("slices", ["1", "4"])
@pytest.mark.parametrize("script", SCRIPTS, ids=" ".join)
def test_what_print_shows_is_what_is_called(stage, script, slices):
    stage.environment["SLICES"] = slices
    (stage.root / "my tars").mkdir()
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (stage.root / "my tars" / name).touch()
    if script[0] == "worker.sh":
        home_of_a_worker(stage)
        stage.environment["PATH"] = f"{stage.root / 'bin'}:/usr/bin:/bin"
        command = stage.root / "eca jax" / "scripts" / "tpu" / "worker.sh"
    else:
        command = TPU / script[0]
    shown = stage.run(command, "--print", *script[1:])
    assert stage.calls() == []  # nothing ran
    stage.run(command, *script[1:])
    called = stage.calls()
    assert called
    where = stage.root / "eca jax" if script[0] == "worker.sh" else stage.root
    stage.run("bash", "-ec", f"cd {shlex.quote(str(where))}\n{shown}")  # pasted
    assert stage.calls() == called


def test_several_slices_are_one_request_and_are_reached_as_one(stage):
    stage.environment["SLICES"] = "4"
    for script in ("create", "setup", "train", "logs"):
        stage.run(TPU / f"{script}.sh")
    calls = stage.calls()
    assert (option(calls[0], "node-count"), option(calls[0], "node-prefix")) == ("4", "eca")
    assert [option(call, "node") for call in calls if {"ssh", "scp"} & set(call)] == ["all", "all", "all", "0"]
    stage.run(TPU / "train.sh", status=2, PROVISIONING="spot")
    assert stage.errors == "error: SLICES=4 needs PROVISIONING=queued or queued-spot\n"


def home_of_a_worker(stage):
    """What setup.sh makes: the checkout in the home directory, with an interpreter (a stub) in .venv."""
    checkout = stage.root / "eca jax"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    for name in ("python", "pip"):
        shutil.copy(stage.root / "bin" / "python", checkout / ".venv" / "bin" / name)
    shutil.copy(stage.root / "bin" / "python", stage.root / "bin" / "python3.11")
    return checkout


def test_options_arrive_whole_through_the_workers_shell_and_the_exit_status_is_kept(stage):
    stage.run(TPU / "train.sh", "--config.mean=(1, 2)", 'a"b')
    (ssh,) = stage.calls()
    checkout = home_of_a_worker(stage)
    stage.run("bash", "-c", option(ssh, "command"))  # what ssh has the worker's shell do; tmux is a stub
    (tmux,) = stage.calls()
    assert tmux[:6] == ["tmux", "new-session", "-d", "-s", "train", "scripts/tpu/worker.sh"]

    stage.answer(python=[75])
    subprocess.run(["bash", "-c", '"$@"', "tmux", *tmux[5:]], env=stage.environment, cwd=checkout, check=True)
    (train,) = stage.calls()
    assert train == [
        "python",
        "train.py",
        "--config=configs/eca_resnet50.py",
        OPTION,
        "--workdir=gs://a bucket/runs/run 1",
        "--config.data_dir=gs://a bucket/data sets",
        "--config.compilation_cache=gs://a bucket/xla",
        "--config.mean=(1, 2)",
        'a"b',
    ]
    assert (checkout / "train.status").read_text() == "75\n"

    stage.answer(tmux=[1, 0, 1])  # its answer to has-session
    status = ("bash", checkout / "scripts" / "tpu" / "worker.sh", "status")
    assert [stage.run(*status), stage.run(*status)] == ["training 75\n", "training running\n"]
    (checkout / "train.status").unlink()  # the worker was restarted
    assert stage.run(*status) == "training lost\n"


def test_supervise_creates_trains_and_starts_again_until_training_is_done(stage):
    stage.answer(
        describe=["NOT_FOUND", "WAITING_FOR_RESOURCES", "ACTIVE", *["ACTIVE"] * 2, "SUSPENDED", *["ACTIVE"] * 5],
        create=[0, 1, 0],  # after the preemption the zone has no chips at first
        status=["lost lost", "running running", "running 75", "75 75", "0 0"],
    )
    stage.run(TPU / "supervise.sh", "--config.seed=1")
    begin = ["mkdir", "archive", "scp", "install", "train"]
    assert [verb for verb in verbs(stage.calls()) if verb not in ("describe", "git")] == [
        *["create", "status", *begin, "status"],
        *["delete", "create", "delete", "create", *begin],  # preempted
        *["status", "status", *begin],  # one worker ended with 75, then the other: both begin again
        "status",
    ]


@pytest.mark.parametrize(
    ("words", "status"), [("2 75", 2), ("1 1", 1), ("75 1", 1), ("139 139", 139), ("0 139", 139), ("0 0", 0)], ids=str
)
def test_supervise_never_restarts_what_is_done_or_what_failed(stage, words, status):
    stage.answer(status=["running", words])
    stage.run(TPU / "supervise.sh", status=status)
    assert verbs(stage.calls())[-1] == "status"


@pytest.mark.parametrize("words", ["lost 75", "75 139", "0 75", "lost 1"])  # the last: its peer may have died first
def test_supervise_restarts_all_when_one_worker_was_lost(stage, words):
    stage.answer(status=["running", words, "0 0"])
    stage.run(TPU / "supervise.sh")
    assert verbs(stage.calls()).count("train") == 1


def test_supervise_leaves_a_running_slice_alone_when_gcloud_does_not_answer(stage):
    stage.answer(status=["running", "", "0"], describe=["READY"] * 2 + ["UNKNOWN", "READY", "READY"])
    stage.run(TPU / "supervise.sh")
    assert set(verbs(stage.calls())) == {"git", "describe", "status"}


def test_supervise_ends_where_gcloud_has_no_account_and_goes_on_where_it_had_one(stage):
    stage.answer(describe=["LOGIN"])
    stage.run(TPU / "supervise.sh", status=2)
    assert stage.errors == "error: gcloud has no account that works: gcloud auth login\n"
    assert "create" not in verbs(stage.calls())
    stage.answer(status=["running", "0"], describe=["READY", "READY", "LOGIN", "READY"])
    stage.run(TPU / "supervise.sh")


def test_placeholders_of_the_configuration_are_refused_but_shown(stage):
    config = {"TPU_CONFIG": str(TPU / "config.env")}
    for script in ("supervise.sh", "create.sh"):
        stage.run(TPU / script, status=2, **config)
        assert stage.errors.startswith("error: PROJECT=my-project and BUCKET=gs://my-bucket stand for yours: edit ")
        assert "my-project" in stage.run(TPU / script, "--print", **config)
    assert not [call for call in stage.calls() if call[0] == "gcloud"]


def test_supervise_makes_no_slice_that_somebody_has_deleted(stage):
    stage.answer(status=["running"], describe=["READY", "READY", "NOT_FOUND"])
    stage.run(TPU / "supervise.sh", status=1)
    assert "create" not in verbs(stage.calls())


def test_supervise_print_shows_all_that_it_may_call(stage):
    shown = stage.run(TPU / "supervise.sh", "--print", "--config.seed=1")
    stage.calls()
    stage.run("bash", "-ec", shown)
    pasted = stage.calls()
    stage.answer(describe=["NOT_FOUND", "ACTIVE", "SUSPENDED", "ACTIVE", "ACTIVE", "ACTIVE"], status=["75", "75", "0"])
    stage.run(TPU / "supervise.sh", "--config.seed=1")
    called = [call for call in stage.calls() if "rev-parse" not in call]
    assert set(map(tuple, pasted)) == set(map(tuple, called))


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("create.sh", ("v5e-8",), "scripts/tpu/create.sh [--print]"),
        ("logs.sh", ("zero",), "scripts/tpu/logs.sh [--print] [WORKER]"),
        ("prepare_imagenet.sh", (".", "scratch"), "error: . has no ILSVRC2012_img_train.tar"),
        ("worker.sh", ("fly",), "worker.sh status"),
    ],
)
def test_bad_arguments_call_nothing(stage, script, arguments, message):
    stage.run(TPU / script, *arguments, status=2)
    assert message in stage.errors
    assert stage.calls() == []


def test_an_unknown_provisioning_is_a_one_line_error(stage):
    stage.run(TPU / "create.sh", status=2, PROVISIONING="cheap")
    assert stage.errors == "error: PROVISIONING=cheap: choose on-demand, spot, queued or queued-spot\n"


@pytest.mark.parametrize(("statuses", "starts", "ends"), [([75, 75, 0], 3, 0), ([1], 1, 1), ([75, 2], 2, 2)])
def test_a_gpu_host_starts_again_on_75_only(stage, statuses, starts, ends):
    stage.answer(python=statuses)
    stage.run(GPU / "train.sh", "--workdir=a b", status=ends)
    assert stage.calls() == [["python", "train.py", "--workdir=a b"]] * starts


def test_sigterm_to_a_gpu_host_saves_and_stops(stage):
    saving = 'printf "train.py\\0\\0" >>"$CALLS"; trap "sleep 0.2; exit 75" TERM; while :; do sleep 0.05; done'
    (stage.root / "bin" / "python").write_text(f"#!/usr/bin/env bash\n{saving}\n")
    process = subprocess.Popen([GPU / "train.sh", "--workdir=w"], env=stage.environment)
    while not stage.record.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert stage.calls() == [["train.py"]]


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (75, True)])
def test_slurm_requeues_a_job_that_saved(stage, status, again):
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17"}
    stage.answer(srun=[status])
    stage.run("bash", GPU / "slurm.sbatch", "--workdir=a b", status=status, **job)
    train = ["srun", "--kill-on-bad-exit=0", stage.environment["PYTHON"], "train.py", "--workdir=a b"]
    assert stage.calls() == [train] + [["scontrol", "requeue", "17"]] * again


def test_the_gpu_scripts_print(stage):
    shown = stage.run(GPU / "train.sh", "--print", "--workdir=a b")
    shown += stage.run("bash", GPU / "slurm.sbatch", "--print", "--workdir=a b", SLURM_SUBMIT_DIR=str(ROOT))
    assert stage.calls() == []
    stage.run("bash", "-ec", shown)
    assert [call[0] for call in stage.calls()] == ["python", "srun", "scontrol"]
