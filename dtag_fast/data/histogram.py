"""Histograms of a dataset's returns and episode lengths as a picture."""

import os

from dtag_fast.data.scores import reference_of
from dtag_fast.data.store import TrajectoryStore


def save_histogram(store: TrajectoryStore, path: str | os.PathLike) -> None:
    """Draw both histograms side by side into the PNG file `path`; returns also carry the normalised scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the process uses
    returns, lengths = figure.subplots(1, 2)
    returns.hist(store.episode_returns, bins=40, color="#0072B2")
    returns.set(xlabel="undiscounted return", ylabel="episodes")
    reference = reference_of(store.metadata)
    if reference is not None:
        span = (reference.ref_max - reference.ref_min) / 100.0
        scale = returns.secondary_xaxis(
            "top",
            functions=(lambda x: (x - reference.ref_min) / span, lambda y: y * span + reference.ref_min),
        )
        scale.set_xlabel(f"normalised score ({reference.source})")
    lengths.hist(store.episode_lengths, bins=40, color="#E69F00")
    lengths.set(xlabel="episode length (steps)", ylabel="episodes")
    name = store.metadata.get("dataset_id")
    figure.suptitle(f"{name}: {store.num_episodes} episodes, {store.num_steps} steps")
    figure.savefig(path, dpi=120, format="png")
