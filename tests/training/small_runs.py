"""A small dataset and small configs, for the tests of this folder and for the processes they kill."""

import numpy as np

from dtag_fast.algorithms.awac import Config as AWAC
from dtag_fast.algorithms.awac_odt import Config as AWACODT
from dtag_fast.algorithms.bc import Config as BC
from dtag_fast.algorithms.cql import Config as CQL
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.edt import Config as EDT
from dtag_fast.algorithms.iql import Config as IQL
from dtag_fast.algorithms.iql_odt import Config as IQLODT
from dtag_fast.algorithms.odt import Config as ODT
from dtag_fast.algorithms.qt import Config as QT
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.algorithms.sac_odt import Config as SACODT
from dtag_fast.algorithms.td3_odt import Config as TD3ODT
from dtag_fast.algorithms.td3bc import Config as TD3BC
from dtag_fast.data import Episode, TrajectoryStore

_SEQUENCE = {"context_len": 3, "d_model": 8, "n_layer": 2, "n_head": 2, "max_timestep": 32, "batch_size": 4}
_ONLINE = _SEQUENCE | {"eval_context_len": 2, "critic_hidden": (8,), "alpha": 0.1}
CONFIGS = {
    "dt": DT(**_SEQUENCE),
    "reinformer": Reinformer(**_SEQUENCE),
    "odt": ODT(**_SEQUENCE, eval_context_len=2),
    "bc": BC(hidden=(8,), batch_size=4),
    "edt": EDT(**_SEQUENCE),
    "qt": QT(**_SEQUENCE, critic_hidden=(8,), ema_start=3, ema_every=2),
    "td3-odt": TD3ODT(**_ONLINE),
    "sac-odt": SACODT(**_ONLINE),
    "awac-odt": AWACODT(**_ONLINE),
    "iql-odt": IQLODT(**_ONLINE),
    "iql": IQL(hidden=(8,), batch_size=4, policy=True, policy_dropout=0.2),
    "td3bc": TD3BC(hidden=(8,), batch_size=4),
    "awac": AWAC(hidden=(8,), batch_size=4, n_step=3),
    "cql": CQL(hidden=(8,), policy_hidden=(8,), batch_size=4, n_actions=3, lagrange_gap=1.0, max_backup=True),
}


def make_store(seed: int = 0, **metadata) -> TrajectoryStore:
    rng = np.random.default_rng(seed)
    episodes = []
    for length in (20, 3, 9):
        last = np.arange(length) == length - 1
        actions = np.clip(rng.normal(size=(length, 2)), -1, 1)
        states, rewards = rng.normal(size=(length + 1, 3)), rng.random(length)
        episodes.append(Episode(states, actions, rewards, last, np.zeros(length, bool)))
    facts = {"dataset_id": "toy/small-v0", "env_id": "Toy-v0", "action_low": [-1, -1], "action_high": [1, 1]}
    return TrajectoryStore.from_episodes(episodes, facts | {"max_episode_steps": 20} | metadata)
