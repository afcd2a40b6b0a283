"""A signal ends a search's trials and says how to resume: its parts, without a Ray."""

import os
import signal
import threading
from argparse import Namespace
from types import SimpleNamespace

import pytest

from runtime.errors import InputError
from runtime.interrupts import Interrupted, StopSignal, caught_signals
from search import ray_session
from search.printer import TrialPrinter
from search.ray_session import SearchStop, held_back, limited_time, start_ray
from search.records import Record, read_record, write_record
from search.space import Choice
from search.trial import NAME

SPACE = {"projection": Choice(("none", "pcgrad"))}


@pytest.fixture
def handlers():
    """Restore the handlers of this process, whatever a test has installed."""
    before = {signum: signal.getsignal(signum) for signum in StopSignal.signals}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_the_trials_once_ray_can_be_stopped(handlers, name):
    signum, ended = signal.Signals[name], []
    stop = SearchStop("resume with: this")
    with caught_signals(stop):
        signal.signal(signal.SIGINT, lambda *arguments: ended.append(arguments[0]))  # as Ray does
        stop.take_over()
        os.kill(os.getpid(), signum)
        assert ended == [signum]
        with pytest.raises(Interrupted, match=f"stopped by {name}; resume with: this"):
            stop.check()


def test_before_ray_is_up_a_signal_raises_at_once(handlers):
    stop = SearchStop("resume with: this")
    with caught_signals(stop), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_ray_has_swallowed_is_handled_when_it_can_be(handlers):
    stop, ended = SearchStop("this"), []
    stop.signum = signal.SIGTERM
    signal.signal(signal.SIGINT, lambda *arguments: ended.append(arguments[0]))
    stop.take_over()
    assert ended == [signal.SIGTERM]


def test_signals_wait_while_ray_starts(handlers):
    stop, inside = SearchStop("this"), []
    with caught_signals(stop), pytest.raises(Interrupted):
        with held_back(stop):
            # Sent to the process, another thread could take it and run the handler after the block.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            inside.append((stop.signum, signal.sigpending()))
    assert inside == [(None, {signal.SIGTERM})]


def test_a_signal_that_another_thread_gets_waits_too(handlers):
    """The mask is that of the thread that starts Ray."""
    stop, inside = SearchStop("this"), []
    with caught_signals(stop), pytest.raises(Interrupted, match="stopped by SIGHUP"):
        with held_back(stop):
            stop.receive(signal.SIGHUP, None)  # as Python calls it, whichever thread got the signal
            inside.append(stop.signum)
    assert inside == [None]


def test_a_start_without_an_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(ray_session, "START_SECONDS", 1)
    with pytest.raises(TimeoutError, match="no answer within 1 seconds"):
        with limited_time():
            signal.pause()


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_where_ray_would_wait_is_one_line(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(OSError, match="none: Ray cannot write its files there: .*; set TMPDIR to"):
        start_ray(Namespace(ray_address=None), SearchStop("this"))
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(ray_session, "MIN_FREE_BYTES", 2**70)
    with pytest.raises(OSError, match="MiB are free there, and Ray needs"):
        start_ray(Namespace(ray_address=None), SearchStop("this"))


@pytest.mark.parametrize("is_stopping", [False, True])
def test_a_trial_that_is_cut_off_by_the_stop_has_not_failed(tmp_path, is_stopping):
    write_record(tmp_path, Record("000", {"projection": "none"}))
    stop = SearchStop("this")
    stop.signum = signal.SIGTERM if is_stopping else None
    (tmp_path / "error").write_text("Traceback\nValueError: a reason\n")
    trial = SimpleNamespace(
        config={NAME: "000", "projection": "none"}, error_file=str(tmp_path / "error")
    )
    printer = TrialPrinter(tmp_path, Namespace(hpo_trials=1), [], stop)
    printer.on_trial_error(0, [], trial)
    record = read_record(tmp_path / "trials" / "000", SPACE, Namespace())
    expected = ("unfinished", "") if is_stopping else ("failed", "ValueError: a reason")
    assert (record.state, record.error) == expected


def test_a_foreign_search_names_no_ray_to_join(parse, tmp_path):
    """A cluster exchanges pickles, so its address comes from the command line alone."""
    import json

    from options.saved import options_to_save
    from search import tune

    options = options_to_save(parse("--hpo", "--ray_address", "evil:1")) | {"narrowed": {}}
    (tmp_path / "search.json").write_text(json.dumps({"options": options}))
    assert tune.resumed_search(parse("--hpo_resume", tmp_path))[0].ray_address is None
    given = parse("--hpo_resume", tmp_path, "--ray_address", "mine:1")
    args, directory = tune.resumed_search(given)
    assert args.ray_address == "mine:1"
    assert tune.resume_command(args, directory).endswith(f"{tmp_path} --ray_address mine:1")


def test_searches_of_one_second_get_different_names(parse, monkeypatch, tmp_path):
    from search import tune

    monkeypatch.setattr(tune.time, "strftime", lambda form: "search-1")
    names = [tune.new_search(parse("--hpo"))[1].name for _ in range(3)]
    assert names == ["search-1", "search-1-2", "search-1-3"]
    parsed = parse("--hpo", "--run_name", "search-1")
    with pytest.raises(InputError, match="search-1: exists; choose another --run_name"):
        tune.new_search(parsed)
