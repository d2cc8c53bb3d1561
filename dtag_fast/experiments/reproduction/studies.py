"""The suites of `dtag reproduce` that train and evaluate on datasets."""

from dtag_fast.experiments.reproduction import (
    benchmark_study,
    critic_study,
    diversity_study,
    gate_study,
    high_dim_study,
    online_study,
    optimizer_study,
    policy_gradient_study,
    starts_study,
    steps_study,
    token_prediction_study,
)
from dtag_fast.experiments.reproduction.study import Study

STUDIES: dict[str, Study] = {
    "gym": benchmark_study.GYM_STUDY,
    "maze2d": benchmark_study.MAZE2D_STUDY,
    "ablation-steps": steps_study.STUDY,
    "ablation-optimizer": optimizer_study.STUDY,
    "tp-ag": token_prediction_study.STUDY,
    "pg-ag": policy_gradient_study.STUDY,
    "critic": critic_study.STUDY,
    "high-dim": high_dim_study.STUDY,
    "diversity": diversity_study.STUDY,
    "online": online_study.STUDY,
    "conservative-optimizer": optimizer_study.CONSERVATIVE_STUDY,
    "ensemble-gate": gate_study.STUDY,
    "multi-start": starts_study.STUDY,
}
