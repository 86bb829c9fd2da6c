"""A person as processes: `python -m tests.tasks.study.voter FOLDER SEED` answers every trial.

The person's browser is this process; what stores the answers is a child. The first `NUM_KILLS`
children are killed by a timer at a random moment (SIGALRM, which nobody catches, ends a process
wherever it is); then another child goes on where the last one got to. Each line of output says what
must be there from then on.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from itertools import count

from infra.store import Store, open_store
from tasks.study.study_file import Study, load_study
from tasks.study.votes import Answer, Session, open_session, progress, store_votes

NUM_KILLS = 6


def main(folder: str, seed: str) -> None:
    store = open_store(folder)
    study = load_study(store)
    session = open_session(store, study)
    tell("session", session.id)
    for number in count():
        child = os.fork()
        if not child:
            answer_all(store, study, session, seed, number)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        tell("killed", max(progress(store, study, session), default=-1))


def answer_all(store: Store, study: Study, session: Session, seed: str, number: int) -> None:
    last = max(progress(store, study, session), default=0)
    moments = random.Random(f"{seed} child {number}")
    is_doomed, answers_left = number < NUM_KILLS, moments.randrange(4)
    for trial in study.trials(session.number)[last:]:  # the last answer is sent once more
        if is_doomed and answers_left == 0:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-6, 0.003))
        answers_left -= 1
        choice = random.Random(f"{seed} {trial.number}").choice(["left", "right"])
        answers = [Answer(trial.number, question, choice) for question in study.questions(trial)]
        store_votes(store, study, session, trial.number, answers, revision=0, seconds=1.5)
        tell("stored", trial.number, choice)
    if is_doomed:
        signal.setitimer(signal.ITIMER_REAL, 1e-6)
        signal.pause()


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
