"""From a dataset to scores through the command alone."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

DATASET = "test/pendulum-v0"
SMALL = "--context-len 3 --d-model 16 --n-layer 2 --n-head 1 --batch-size 8 --checkpoint-every 4"


def logged_scores(run, key="eval/return_mean"):
    """step -> score in a run's log."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


@pytest.mark.parametrize("algorithm", ["dt", "reinformer", "odt"])
def test_train_evaluate_reload(dtag, tmp_path, algorithm):
    options = f"{SMALL} --updates 8 --eval-every 4 --eval-episodes 3 --eval-seed 50 --seed 1"
    options += " --eval-context-len 2" if algorithm == "odt" else ""
    code, out, err = dtag(f"train {algorithm} {DATASET} --out run {options}")
    assert (code, err) == (0, "") and "context_len=3" in out and "run folder: run" in out
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", "8", "best", "last"]
    code, _, _ = dtag(f"train iql {DATASET} --out critic --updates 5 --hidden 16 16 --batch-size 8")
    assert code == 0

    # Every checkpoint, reloaded, gives exactly the score that was logged while training.
    code, out, _ = dtag("evaluate run --checkpoints all --episodes 3 --seed 50 --json plain.json")
    assert code == 0 and "best: chosen by these same episodes" in out
    plain = json.loads((tmp_path / "plain.json").read_text())
    scores = [c["settings"][0]["mean"] for c in plain["checkpoints"]]
    key = (
        "eval/return_mean"
        if algorithm == "reinformer"
        else "eval/{:g}/return_mean".format(plain["checkpoints"][0]["settings"][0]["target_return"])
    )
    assert dict(zip([4, 8], scores, strict=True)) == logged_scores(tmp_path / "run", key)
    ((label, last),) = plain["last"].items()
    assert last["step"] == 8 and last["mean"] == scores[1]
    assert plain["best"][label]["mean"] == max(scores)

    # Lists run in one batch; the plain policy among them scores as it did alone.
    code, out, _ = dtag(
        "evaluate run --critic critic --ag-steps 0,2,5 --ag-lr 0.01,0.1 --episodes 3 --seed 50 --json ag.json"
    )
    assert code == 0 and "AG n=5 lr=0.1" in out and "environment steps" in out
    (result,) = json.loads((tmp_path / "ag.json").read_text())["checkpoints"]
    asked = [(s["setting"]["steps"], s["setting"]["lr"]) for s in result["settings"]]
    assert asked == [(0, 0.03), (2, 0.01), (2, 0.1), (5, 0.01), (5, 0.1)]
    assert result["settings"][0]["mean"] == scores[1]
    for s in result["settings"]:
        assert s["seeds"] == [50, 51, 52] and len(s["returns"]) == 3
        assert s["ci95"][0] <= s["mean"] <= s["ci95"][1]
        assert s["normalized"]["mean"] == pytest.approx(s["mean"] / 10.0)
        assert min(s["mean_q_gain"]) >= 0.0
    assert result["critic"]["algorithm"] == "iql" and result["policy"]["dataset_id"] == DATASET

    code, _, err = dtag("evaluate run --episodes 2 --history-lengths 1,3 --json elastic.json")
    if algorithm == "reinformer":
        (result,) = json.loads((tmp_path / "elastic.json").read_text())["checkpoints"]
        assert code == 0 and result["policy"]["history_lengths"] == [1, 3]
    else:
        assert code == 2 and "predicts no return to choose by; leave them out" in err


def test_policies_of_the_present_state(dtag, tmp_path):
    """Behaviour cloning, and the policy that IQL trains beside its critic, with Action Gradient on top."""
    code, _, _ = dtag(
        f"train bc {DATASET} --out bc --updates 4 --eval-every 4 --eval-episodes 2 --hidden 8 8"
    )
    assert code == 0
    options = "--policy --updates 4 --hidden 8 8 --batch-size 8"
    assert dtag(f"train iql {DATASET} --out iql {options}")[0] == 0
    for run in ("bc", "iql"):
        code, out, _ = dtag(f"evaluate {run} --critic iql --ag-steps 0,3 --episodes 2 --json {run}.json")
        assert code == 0 and "AG n=3 lr=0.03" in out
        (result,) = json.loads((tmp_path / f"{run}.json").read_text())["checkpoints"]
        plain, refined = result["settings"]
        assert result["policy"]["algorithm"] == run and result["policy"]["context_len"] is None
        assert plain["target_return"] is None and min(refined["mean_q_gain"]) >= 0
        if run == "bc":
            assert logged_scores(tmp_path / run) == {4: plain["mean"]}


def test_latency_is_a_table_and_a_part_of_the_file_and_changes_no_score(dtag, tmp_path):
    assert dtag(f"train dt {DATASET} --out run {SMALL} --updates 4")[0] == 0
    assert dtag(f"train iql {DATASET} --out critic --updates 5 --hidden 16 16 --batch-size 8")[0] == 0
    line = "evaluate run --critic critic --ag-steps 0,2 --episodes 2"
    code, out, _ = dtag(f"{line} --json plain.json")
    assert code == 0 and "microseconds" not in out
    code, out, err = dtag(f"{line} --latency --latency-actions 6 --latency-warmup 2 --json timed.json")
    assert (code, err) == (0, "") and "microseconds per action, one environment" in out
    assert "6 actions per setting, after 2 that were left out" in out and "p99" in out and "refine" in out
    plain, timed = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "timed.json"))
    latency = timed.pop("latency")
    assert "latency" not in plain and timed.keys() == plain.keys()
    assert timed["checkpoints"][0]["settings"] == plain["checkpoints"][0]["settings"]
    assert [s["label"] for s in latency["settings"]] == ["plain policy", "AG n=2 lr=0.03"]
    assert latency["threads"] >= 1 and list(latency["settings"][1]["parts"])[1] == "refine"
    assert dtag("plot timed.json plain.json --out figures")[0] == 0
    drawn = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert drawn == {"score_against_n", "wall_time", "latency"}
    code, _, err = dtag(f"{line} --latency --latency-actions 0 --json kept.json")
    assert code == 2 and err.startswith("dtag evaluate: actions: expected a whole number of at least 1")
    assert json.loads((tmp_path / "kept.json").read_text())["checkpoints"]  # the scores are not lost for it


def test_evaluation_in_bf16_says_so(dtag, tmp_path):
    assert dtag(f"train reinformer {DATASET} --out run {SMALL} --updates 4")[0] == 0
    assert dtag(f"train iql {DATASET} --out critic --updates 5 --hidden 32 32 --batch-size 8")[0] == 0
    assert dtag(f"train bc {DATASET} --out bc --updates 4 --hidden 16 --batch-size 8")[0] == 0
    line = "evaluate run --critic critic --ag-steps 0,2 --episodes 2 --latency --latency-actions 4"
    for precision in ("bf16", "fp32"):
        code, out, err = dtag(f"{line} --precision {precision} --json {precision}.json")
        assert (code, err) == (0, "") and f"policy in {precision}, refine in {precision}" in " ".join(
            out.split()
        )
        content = json.loads((tmp_path / f"{precision}.json").read_text())
        assert content["checkpoints"][0]["precision"] == {"policy": precision, "refine": precision}
    code, _, err = dtag("evaluate bc --precision bf16")
    assert code == 2 and "precision: bf16 is for sequence policies, DeterministicPolicy acts" in err


def test_policies_that_learn_from_a_critic(dtag, tmp_path):
    assert dtag(f"train iql {DATASET} --out critic --updates 5 --hidden 16 16 --batch-size 8")[0] == 0
    options = f"{SMALL} --updates 4 --log-every 2 --critic critic"
    for algorithm, more in (("adt", ""), ("dt", "--q-weight 0.5"), ("reinformer", "--q-weight 2 --q-ramp 3")):
        code, _, err = dtag(f"train {algorithm} {DATASET} --out {algorithm} {options} {more}")
        assert (code, err) == (0, "")
        code, out, _ = dtag(f"evaluate {algorithm} --critic critic --ag-steps 0,2 --episodes 2")
        assert code == 0 and "AG n=2 lr=0.03" in out
        about = json.loads((tmp_path / algorithm / "config.json").read_text())["critic"]
        assert about["algorithm"] == "iql" and about["step"] == 5
    for line, complaint in [
        (f"train dt {DATASET} --out x {SMALL} --q-weight 1", "learns from a trained critic, got None; give"),
        (f"train dt {DATASET} --out x {SMALL} --critic critic", "dt with these settings learns from none"),
        (f"train bc {DATASET} --out x --critic critic", "bc with these settings learns from none"),
        (f"train adt {DATASET} --out x {SMALL} --critic dt", "expected a critic, this run of dt holds none"),
        (f"train dt {DATASET} --out x {SMALL} --q-weight=-1", "q_weight: expected a number of at least 0"),
        ("evaluate adt --target-returns 5", "predicts the returns it acts on; leave them out"),
    ]:
        code, _, err = dtag(line)
        assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("algorithm", ["td3bc", "awac", "cql"])
def test_every_critic_is_trained_and_climbed(dtag, tmp_path, algorithm):
    options = "--updates 4 --hidden 16 16 --batch-size 8 --n-step 3 --members 3 --layer-norm"
    code, out, err = dtag(f"train {algorithm} {DATASET} --out critic {options}")
    assert (code, err) == (0, "") and "n_step=3" in out
    assert dtag(f"train dt {DATASET} --out run {SMALL} --updates 2")[0] == 0
    code, _, _ = dtag("evaluate run --critic critic --ag-steps 0,3 --episodes 2 --json ag.json")
    assert code == 0
    (result,) = json.loads((tmp_path / "ag.json").read_text())["checkpoints"]
    assert result["critic"]["algorithm"] == algorithm and result["critic"]["discount"] == 0.99
    assert min(result["settings"][1]["mean_q_gain"]) > 0


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("qt", ""), ("td3-odt", "--eval-context-len 2"), ("iql-odt", "--eval-context-len 2 --alpha 0.1")],
)
def test_a_critic_that_is_trained_beside_its_policy_refines_it(dtag, tmp_path, algorithm, options):
    options += f" {SMALL} --updates 4 --critic-hidden 16 16 --holdout 0.3 --validate-every 2"
    assert dtag(f"train {algorithm} {DATASET} --out run {options}")[0] == 0
    code, _, _ = dtag("evaluate run --critic run --ag-steps 0,3 --episodes 2 --json ag.json")
    assert code == 0
    (result,) = json.loads((tmp_path / "ag.json").read_text())["checkpoints"]
    assert result["critic"]["algorithm"] == algorithm and result["critic"]["discount"] == 0.99
    assert min(result["settings"][1]["mean_q_gain"]) > 0


def test_candidates_are_chosen_by_the_critic_of_the_run_or_another(dtag, tmp_path):
    options = f"{SMALL} --updates 4 --critic-hidden 16 16"
    assert dtag(f"train qt {DATASET} --out run {options}")[0] == 0
    assert dtag(f"train dt {DATASET} --out dt {SMALL} --updates 2")[0] == 0
    assert dtag(f"train reinformer {DATASET} --out reinformer {SMALL} --updates 2")[0] == 0

    def settings(name, line):
        code, out, err = dtag(f"evaluate {line} --episodes 3 --json {name}.json")
        assert (code, err) == (0, "")
        (result,) = json.loads((tmp_path / f"{name}.json").read_text())["checkpoints"]
        return out, result

    _, plain = settings("plain", "run")
    _, one = settings("one", "run --candidates 1")
    assert one["settings"][0]["returns"] == plain["settings"][0]["returns"]
    assert plain["policy"]["candidates"] is None and plain["critic"] is None
    out, many = settings("many", "run --candidates 6 --candidate-noise 0.5")
    assert "6 candidates" in out and many["critic"]["algorithm"] == "qt"
    assert many["policy"]["candidates"] == {"count": 6, "noise": 0.5, "choice": "softmax"}
    _, alone = settings("alone", "run --critic run --ag-steps 0")
    assert many["settings"][0]["mean_q_0"] != alone["settings"][0]["mean_q_0"]
    _, both = settings("both", "dt --critic run --candidates 4 --candidate-choice argmax --ag-steps 0,3")
    assert both["policy"]["candidates"]["choice"] == "argmax"
    assert [s["setting"]["steps"] for s in both["settings"]] == [0, 3]
    assert min(both["settings"][1]["mean_q_gain"]) > 0

    for line, complaint in [
        ("dt --candidates 4", "critic: 4 candidates need one to be chosen by, got None; give a run that"),
        (
            "reinformer --critic run --candidates 4",
            "return asked for, and Reinformer takes none; leave them out",
        ),
        ("run --threads 0", "--threads: expected a whole number of at least 1, got 0"),
        ("run --candidates 0", "candidates: expected a whole number of at least 1, got 0"),
        ("run --candidate-noise 0.2", "--candidate-choice: expected together with --candidates"),
    ]:
        code, _, err = dtag(f"evaluate {line} --episodes 1")
        assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1


def test_edt_is_evaluated_with_an_elastic_history(dtag, tmp_path):
    assert dtag(f"train edt {DATASET} --out run {SMALL} --return-range 0 5 --updates 2")[0] == 0
    line = "evaluate run --history-lengths 3,1 --episodes 2"
    assert dtag(f"{line} --json edt.json")[0] == 0
    (result,) = json.loads((tmp_path / "edt.json").read_text())["checkpoints"]
    assert result["policy"]["algorithm"] == "edt" and result["policy"]["history_lengths"] == [3, 1]
    assert dtag(f"{line} --target-returns 5")[0] == 2


def test_options_go_before_the_file_and_the_file_before_the_preset(dtag, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"batch_size": 4, "lr": 0.5, "d_model": 16}))
    code, out, _ = dtag(f"train dt {DATASET} --out run --config mine.json --lr 0.25 --updates 1")
    assert code == 0 and "batch_size=4" in out and "lr=0.25" in out and "d_model=16" in out
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "0.25" in json.dumps(saved)


def test_resume_goes_on_where_it_stopped(dtag, tmp_path):
    first = f"train dt {DATASET} --out run {SMALL}"
    assert dtag(f"{first} --updates 4")[0] == 0
    code, _, err = dtag(f"{first} --updates 8")
    assert code == 2 and "is not empty; resume it" in err
    assert dtag(f"{first} --updates 8 --resume")[0] == 0
    assert (tmp_path / "run" / "checkpoints" / "8").is_dir()


def test_sigterm_saves_and_exits_0(dtag, tmp_path):
    """Sent to a process of its own in the middle of a training without checkpoints."""
    command = f"train dt {DATASET} --out run {SMALL} --log-every 1".replace("every 4", "every 1000000")
    process = subprocess.Popen(
        [sys.executable, "-m", "dtag_fast.cli.main", *shlex.split(f"{command} --updates 1000000")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "stopped by SIGTERM, all is saved; go on with --resume" in out
    (step,) = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name != "last"]
    assert step == max(logged_scores(tmp_path / "run", "train/loss"))
    code, _, _ = dtag(f"{command} --updates {step + 2} --resume")
    assert code == 0 and (tmp_path / "run" / "checkpoints" / str(step + 2)).is_dir()


_LIMITED = """
import resource, signal, sys
from dtag_fast.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing too much fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def test_a_disk_that_takes_no_more_is_reported_and_loses_nothing(dtag, tmp_path):
    """The second checkpoint does not fit: one sentence, the first is whole, and the run goes on from it."""
    command = f"train dt {DATASET} --out run {SMALL}"
    assert dtag(f"{command} --updates 4")[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints" / "4").rglob("*.safetensors")}
    limit = max(map(len, before.values())) // 2
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(limit), *shlex.split(f"{command} --updates 8 --resume")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "can not be written" in done.stderr and "make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in before} == before
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()] == ["4"]
    assert dtag(f"{command} --updates 8 --resume")[0] == 0
    assert (tmp_path / "run" / "checkpoints" / "8").is_dir()


def test_output_of_a_pipe_has_no_bars_and_no_codes(dtag):
    _, out, err = dtag(f"train dt {DATASET} --out run {SMALL} --updates 2")
    assert "\x1b" not in out + err and "━" not in out
    _, execution, _ = out.splitlines()  # the resolved settings, how updates were made, the run folder
    assert execution == "updates: one by one: CUDA graphs need a CUDA device, the device is cpu"


def test_updates_can_be_kept_out_of_cuda_graphs(dtag):
    code, out, _ = dtag(f"train dt {DATASET} --out run {SMALL} --updates 2 --no-capture")
    assert code == 0 and "updates: one by one: capture=False was asked for" in out


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "train nope x --out run",
            "dtag train: ALGO: expected one of dt, reinformer, odt, adt, bc, edt, qt, td3-odt, "
            "ddpg-odt, td3, sac-odt, awac-odt, iql-odt, iql, td3bc, awac, cql",
        ),
        ("train dt test/absent-v0 --out run", "dtag train: dataset: 'test/absent-v0' is neither"),
        (f"train dt {DATASET} --out run --config absent.json", "absent.json"),
        (f"train dt {DATASET} --out run --n-layer 0", "n_layer: expected a positive integer, got 0"),
        (f"train iql {DATASET} --out run --eval-every 2", "--eval-every: iql trains a critic"),
        (f"train cql {DATASET} --out run --n-step 0", "n_step: expected a positive integer, got 0"),
        (f"train dt {DATASET} --out run --capture", "capture: CUDA graphs need a CUDA device"),
        ("evaluate absent", "absent: expected a run or a checkpoint folder, there is no such folder"),
        ("evaluate absent --ag-steps 0,x", "--ag-steps: expected whole numbers separated by commas"),
        ("evaluate absent --ag-steps=-1", "steps: expected a whole number of at least 0, got -1"),
        ("evaluate absent --ag-optimizer lion", "optimizer: expected"),
        ("evaluate absent --ag-gradient clip:x", "--ag-gradient clip: expected numbers"),
        ("evaluate absent --ag-gradient clip", "--ag-gradient: expected raw, unit or clip:C, got 'clip'"),
        ("evaluate absent --json .", "--json: expected a file, got the folder ."),
        (
            "evaluate absent --json /dev/null/x.json",
            "--json: /dev/null/x.json cannot be written, as /dev/null",
        ),
        ("evaluate absent --checkpoints some", "--checkpoints: expected whole numbers"),
    ],
)
def test_user_errors_are_one_sentence_and_exit_code_2(dtag, line, complaint):
    code, out, err = dtag(line)
    assert code == 2 and complaint in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in out + err


def test_errors_of_a_run_are_one_sentence(dtag, tmp_path):
    assert dtag(f"train dt {DATASET} --out run {SMALL} --updates 2")[0] == 0
    for line, complaint in [
        ("evaluate run --ag-steps 0,3", "critic: AG n=3 lr=0.03 needs a critic, got None"),
        ("evaluate run --checkpoints 1", "run has none of step 1; it has 2"),
        ("evaluate run --env Absent-v0", "Absent"),
        ("evaluate run --env Hopper-v5 --episodes 1", "the policy's are 1 continuous numbers; evaluate in"),
        ("evaluate run --critic run --ag-steps 3", "expected a critic"),
    ]:
        code, _, err = dtag(line)
        assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1
    (tmp_path / "mine.json").write_text("[1]")
    code, _, err = dtag(f"train dt {DATASET} --out other --config mine.json")
    assert code == 2 and "--config: expected an object of settings" in err
    (tmp_path / "mine.json").write_text('{"learning_rate": 1}')
    code, _, err = dtag(f"train dt {DATASET} --out other --config mine.json")
    assert code == 2 and "foreign learning_rate" in err
    assert not (tmp_path / "other").exists()
