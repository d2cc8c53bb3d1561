"""Entry of the `dtag` command: picks the verb's module and turns user errors into one sentence.

A verb is a module of `dtag_fast.cli`, its - written _, with `main(argv: list[str]) -> int`. It is imported
only when asked for, so `dtag --help` answers without loading torch. A verb raises ValueError, OSError or a
Gymnasium error for anything the user can put right; that becomes one line on stderr and exit code 2.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "demo": "make a PointMaze dataset, train, evaluate with and without Action Gradient; table and plots",
    "train": "train a policy (dt, reinformer, odt, ...) or a critic (iql, td3bc, ...) on a dataset",
    "finetune": "go on with a trained policy in its environment (odt, td3-odt, ...)",
    "evaluate": "run a trained policy in its environment, with any Action Gradient settings in one batch",
    "sweep": "run many settings of a trained policy, resumable, on all cores or a Ray cluster; one table",
    "reproduce": "run an experiment of a paper: tables, figures, and whether its claims hold",
    "export": "write a trained policy as ONNX, as a program of torch.export or as a folder for a hub",
    "data": "list, show, make, import and download datasets",
    "convert": "write a run folder of a Decision Transformer of another code (Hugging Face, kzl, ...)",
    "convert-critic": "write a run folder of a critic of another library (Stable-Baselines3, d3rlpy, ...)",
    "plot": "plot the results of runs",
    "doctor": "versions, instruction sets, backends and datasets found on this machine",
}

EXIT_DONE, EXIT_INCOMPLETE, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


def usage() -> str:
    """The text of `dtag --help`."""
    verbs = "\n".join(f"  {verb:<15}{text}" for verb, text in VERBS.items())
    return f"usage: dtag VERB ...\n\n{verbs}\n\n`dtag VERB --help` shows the options of a verb."


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dtag` with `argv` (default: the process arguments); quiet when its reader (`| head`) has gone.

    Returns:
        0 when everything asked for was done, 1 when a verb finished but something asked for failed, 2 on a
        user error (one sentence on stderr; the traceback with DTAG_TRACEBACK=1), 130 when interrupted.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        if code == EXIT_INTERRUPTED and argv is None:  # the process ends with it
            _die_of_the_next_interrupt()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # a pipe of the verb's own, to a worker process say
        # Python flushes once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INCOMPLETE
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_DONE if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version":
        import dtag_fast

        print(f"dtag_fast {dtag_fast.__version__}")
        return EXIT_DONE
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return _complain(
            "dtag", f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)} (see `dtag --help`)"
        )
    try:
        return int(import_module(f"dtag_fast.cli.{verb.replace('-', '_')}").main(rest) or EXIT_DONE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:  # tyro leaves this way after --help (0) and after a bad option (2)
        return stop.code if isinstance(stop.code, int) else EXIT_USER_ERROR
    except Exception as error:
        if os.environ.get("DTAG_TRACEBACK") == "1" or not _is_user_error(error):
            raise
        return _complain(f"dtag {verb}", str(error))


def _die_of_the_next_interrupt() -> None:
    """Python waits for its threads when it ends. An interrupt that broke this off would leave one to run into
    an interpreter that is gone, and abort the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)  # errors are told unasked
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))
    except (ValueError, OSError):  # closed, or no file at all
        return False


def _is_user_error(error: Exception) -> bool:
    if isinstance(error, (ValueError, OSError)):
        return not isinstance(error, BrokenPipeError)
    gymnasium_errors = sys.modules.get("gymnasium.error")  # absent when the verb never needed Gymnasium
    return gymnasium_errors is not None and isinstance(error, gymnasium_errors.Error)


def _complain(who: str, sentence: str) -> int:
    print(f"{who}: {' '.join(sentence.split())}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
