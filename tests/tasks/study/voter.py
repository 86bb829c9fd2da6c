"""A person as processes: `python -m tests.tasks.study.voter FOLDER SEED` answers every trial.

The person's browser is this process; what stores the answers is a child, which may be killed at any
moment: then another child goes on where the first one got to. Each line of output says what must be
there from then on.
"""

from __future__ import annotations

import os
import random
import sys

from infra.store import Store, open_store
from tasks.study.study_file import Study, load_study
from tasks.study.votes import Answer, Session, open_session, progress, store_votes


def main(folder: str, seed: str) -> None:
    store = open_store(folder)
    study = load_study(store)
    session = open_session(store, study)
    tell("session", session.id)
    while True:
        child = os.fork()
        if not child:
            tell("child", os.getpid())
            answer_all(store, study, session, seed)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break


def answer_all(store: Store, study: Study, session: Session, seed: str) -> None:
    last = max(progress(store, study, session), default=0)
    for trial in study.trials(session.number)[last:]:  # the last answer is sent once more
        choice = random.Random(f"{seed} {trial.number}").choice(["left", "right"])
        answers = [Answer(trial.number, question, choice) for question in study.questions(trial)]
        store_votes(store, study, session, trial.number, answers, revision=0, seconds=1.5)
        tell("stored", trial.number, choice)


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
